"""Recurrent nets: torch's own cells step by step, documents, state, regularisation, folders."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sapwood.errors import ConfigError
from sapwood.launch import Runtime
from sapwood.models.cells import Runs, forgotten, locked_dropout
from sapwood.models.choosing import Sampling
from sapwood.models.decoder import Decoder
from sapwood.models.generate import generate
from sapwood.models.load import load_base
from sapwood.models.rnn import RNNConfig, RNNForCausalLM, chosen, register
from sapwood.models.trie import build_trie

QUIET = {
    "embedding_dropout": 0.0, "input_dropout": 0.0, "hidden_dropout": 0.0, "output_dropout": 0.0,
    "weight_drop": 0.0, "activation_penalty": 0.0, "change_penalty": 0.0,
}  # fmt: skip


def made(cell="lstm", *, seed=0, layers=3, **given):
    torch.manual_seed(seed)
    config = RNNConfig(
        vocab_size=40, cell=cell, hidden_size=12, cell_size=20, num_hidden_layers=layers,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, **given,
    )  # fmt: skip
    return RNNForCausalLM(config).eval()


def some(rows=3, length=11, seed=0):
    return torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(seed))


def cells(net):
    """Return torch's cells with the weights of each layer."""
    found = []
    for layer in net.model.layers:
        rnn = layer.rnn
        kind = nn.LSTMCell if isinstance(rnn, nn.LSTM) else nn.GRUCell
        cell = kind(rnn.input_size, rnn.hidden_size)
        cell.load_state_dict({k.removesuffix("_l0"): v for k, v in rnn.state_dict().items()})
        found.append(cell)
    return found


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@torch.no_grad()
def test_states_are_those_of_torch_s_cells_one_step_after_the_other(cell):
    net, ids = made(cell), some()
    found = net(ids)
    values = net.model.embed_tokens(ids)
    states = [None] * 3
    for step in range(ids.shape[1]):
        x = values[:, step]
        for number, own in enumerate(cells(net)):
            states[number] = own(x, states[number])
            x = states[number][0] if cell == "lstm" else states[number]
        assert torch.allclose(found.logits[:, step], x @ net.lm_head.weight.T, atol=1e-6)
    for kept, own in zip(found.state, states, strict=True):
        for part, wanted in zip(kept, own if cell == "lstm" else (own,), strict=True):
            assert torch.allclose(part[0], wanted, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("cut", [1, 4, 10])
@torch.no_grad()
def test_a_state_carried_on_equals_one_long_pass(cell, cut):
    net, ids = made(cell), some()
    first = net(ids[:, :cut])
    second = net(ids[:, cut:], state=first.state)
    joined = torch.cat([first.logits, second.logits], 1)
    assert torch.allclose(joined, net(ids).logits, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@torch.no_grad()
def test_each_document_begins_anew(cell):
    net, ids = made(cell), some(rows=3, length=9)
    documents = torch.tensor([[5] * 9, [0] * 4 + [1] * 5, [2, 2, 3, 4, 4, 4, 4, 4, 9]])
    found = net(ids, documents=documents)
    for row in range(3):
        own = [net(ids[row : row + 1][:, documents[row] == n]).logits[0]
               for n in documents[row].unique_consecutive()]  # fmt: skip
        assert torch.allclose(found.logits[row], torch.cat(own), atol=1e-6)
    again = net(some(seed=1), state=found.state)
    last = [net(ids[n : n + 1][:, documents[n] == documents[n, -1]]).state for n in range(3)]
    for row in range(3):
        alone = net(some(seed=1)[row : row + 1], state=last[row])
        assert torch.allclose(again.logits[row], alone.logits[0], atol=1e-6)


@torch.no_grad()
def test_the_first_document_of_a_row_goes_on_from_the_state():
    net, ids, before = made(), some(rows=2, length=6), some(rows=2, length=5, seed=3)
    state = net(before).state
    documents = torch.tensor([[0, 0, 1, 1, 1, 1], [7] * 6])
    found = net(ids, documents=documents, state=state).logits
    joined = net(torch.cat([before, ids], 1)).logits[:, 5:]
    assert torch.allclose(found[1], joined[1], atol=1e-6)
    assert torch.allclose(found[0, :2], joined[0, :2], atol=1e-6)
    assert torch.allclose(found[0, 2:], net(ids[:1, 2:]).logits[0], atol=1e-6)
    fresh = net(ids, state=forgotten(state, torch.tensor([True, False])))
    assert torch.allclose(fresh.logits[0], net(ids[:1]).logits[0], atol=1e-6)
    assert torch.allclose(fresh.logits[1], joined[1], atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(side):
    net, ids = made("gru"), some(rows=2, length=8)
    state = net(some(rows=2, length=4, seed=5)).state
    mask = torch.ones(2, 8, dtype=torch.long)
    where = slice(0, 3) if side == "left" else slice(5, 8)
    mask[1, where] = 0
    found = net(ids, attention_mask=mask, state=state)
    real = mask[1].bool()
    alone = net(ids[1:, real], state=chosen(state, [1]))
    assert torch.allclose(found.logits[1, real], alone.logits[0], atol=1e-6)
    assert torch.allclose(found.state[-1][0][:, 1], alone.state[-1][0][:, 0], atol=1e-6)
    empty = net(ids, attention_mask=torch.tensor([[1] * 8, [0] * 8]), state=state)
    assert torch.equal(empty.state[0][0][:, 1], state[0][0][:, 1]), "a row of padding keeps its own"


def test_runs_hold_every_real_token_once():
    real = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]]).bool()
    documents = torch.tensor([[0, 0, 1, 1], [3, 3, 3, 3], [0, 0, 0, 0]])
    runs = Runs(real, documents)
    assert sorted(runs.places.tolist()) == real.flatten().nonzero()[:, 0].tolist()
    assert runs.sizes.tolist() == [4, 2]  # four runs, two of them two tokens long
    values = torch.randn(3, 4, 2) * real[..., None]
    assert torch.equal(runs.padded(runs.packed(values)), values)
    assert (runs.first >= 0).tolist() == (runs.last >= 0).tolist() == [True, True, False]
    places = [runs.places[run].item() for run in runs.first[:2].tolist()]
    assert places == [1, 4], "each row's first run begins where its first token is"


def test_gradients_are_those_of_rows_of_their_own():
    net, ids = made(**QUIET).train(), some(rows=1, length=9)
    documents = torch.tensor([[0] * 4 + [1] * 5])
    net(ids, documents=documents).logits.square().sum().backward()
    whole = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    (net(ids[:, :4]).logits.square().sum() + net(ids[:, 4:]).logits.square().sum()).backward()
    for one, parameter in zip(whole, net.parameters(), strict=True):
        assert torch.allclose(one, parameter.grad, atol=1e-4)


def test_the_state_carries_no_gradient():
    state = made().train()(some()).state
    assert not any(part.requires_grad for layer in state for part in layer)


def test_dropout_masks_stay_the_same_over_time():
    torch.manual_seed(0)
    dropped = locked_dropout(torch.ones(4, 9, 50), 0.4)
    assert (dropped == dropped[:, :1]).all(), "one mask a row for all steps"
    assert not (dropped[0] == dropped[1]).all(), "each row its own"
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert 0.3 < float((dropped == 0).float().mean()) < 0.5
    assert locked_dropout(torch.ones(1, 2, 3), 0.0).sum() == 6


def test_dropped_words_are_gone_wherever_they_stand():
    net = made(**{**QUIET, "embedding_dropout": 0.5}).train()
    seen = []
    net.model.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    ids = torch.arange(3, 33).repeat(2)[None]
    net(ids)
    first, second = seen[0][0, :30], seen[0][0, 30:]
    assert torch.equal(first, second)
    gone = (first == 0).all(-1)
    assert 5 < int(gone.sum()) < 25
    kept = net.model.embed_tokens.weight[3:33][~gone] * 2  # 1 / (1 - 0.5)
    assert torch.allclose(first[~gone], kept)


def test_weights_are_dropped_once_for_all_steps():
    """With one mask for all steps the net is an ordinary one with some weights at zero."""
    net = made(layers=1, **{**QUIET, "weight_drop": 0.5}).train()
    ids = some(rows=2, length=7)
    torch.manual_seed(3)
    found = net(ids).logits
    torch.manual_seed(3)
    weight = net.model.layers[0].rnn.weight_hh_l0
    dropped = nn.functional.dropout(weight.detach(), 0.5)
    assert 0.3 < float((dropped == 0).float().mean()) < 0.7
    plain = made(layers=1, **QUIET)
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        plain.model.layers[0].rnn.weight_hh_l0.copy_(dropped)
    assert torch.allclose(found, plain(ids).logits, atol=1e-6)
    found.sum().backward()
    assert (weight.grad[dropped == 0] == 0).all() and (weight.grad[dropped != 0] != 0).any()


@pytest.mark.parametrize("documents", [None, torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)])
def test_the_penalty_is_alpha_and_beta_times_activations(documents):
    given = {**QUIET, "activation_penalty": 2.0, "change_penalty": 3.0}
    net, ids = made(**given).train(), some(rows=2, length=7)
    found = net.model(ids, documents=documents)
    states = found.last_hidden_state
    change = (states[:, 1:] - states[:, :-1]).square()
    if documents is not None:
        change = change[documents[:, 1:] == documents[:, :-1]]
    assert torch.allclose(found.penalty, 2 * states.square().mean() + 3 * change.mean())
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[:, 5:] = 0
    short = net.model(ids[:, :5], documents=None if documents is None else documents[:, :5])
    padded = net.model(ids, attention_mask=mask, documents=documents)
    assert torch.allclose(padded.penalty, short.penalty, atol=1e-6)
    labels = ids.clone()
    labels[0, 3] = -100
    loss = net(ids, labels=labels, documents=documents)
    kept = loss.logits[:, :-1].reshape(-1, 40)
    plain = nn.functional.cross_entropy(kept, labels[:, 1:].flatten(), ignore_index=-100)
    assert torch.allclose(loss.loss, plain + loss.penalty)
    assert net.eval()(ids).penalty is None


def test_evaluation_draws_nothing():
    net, ids = made(), some()
    state = torch.random.get_rng_state()
    assert torch.equal(net(ids).logits, net(ids).logits)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_folder_gives_back_the_same_net(cell, tmp_path, tiny_tokenizer):
    net, ids = made(cell, weight_drop=0.3), some()
    net.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    register()
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, RNNConfig) and (config.cell, config.weight_drop) == (cell, 0.3)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(ids).logits, net(ids).logits)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    base = load_base(str(tmp_path), Runtime(device="cpu", dtype="float32", threads=1))
    assert (base.kind, base.model_type) == ("decoder", "sapwood_rnn")
    assert torch.allclose(base.net(ids).logits, net(ids).logits, atol=1e-6)


def test_names_of_weights_stay_what_they_are():
    assert [name for name, _ in made(layers=1).named_parameters()] == [
        "model.embed_tokens.weight",
        *(f"model.layers.0.rnn.{kind}_{of}_l0" for kind in ("weight", "bias") for of in
          ("ih", "hh")),
    ]  # fmt: skip


@torch.no_grad()
def test_generation_carries_a_state_of_constant_size():
    net, ids = made(), some(rows=2, length=5)
    lengths = []
    net.model.register_forward_pre_hook(
        lambda _, args, given: lengths.append(given.get("input_ids", args[0] if args else None)
                                              .shape[1]),
        with_kwargs=True,
    )  # fmt: skip
    found = net.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert lengths == [5, 1, 1, 1, 1, 1], "the prompt once, then one token at a time"
    said = ids
    for _ in range(6):
        said = torch.cat([said, net(said).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, said)


@torch.no_grad()
def test_beams_take_their_states_along():
    net, ids = made(seed=4), some(rows=1, length=4)
    way = {"max_new_tokens": 4, "num_beams": 4, "do_sample": False, "pad_token_id": 0,
           "eos_token_id": None, "output_scores": True}  # fmt: skip
    found = net.generate(ids, return_dict_in_generate=True, **way)
    logs = net(found.sequences).logits.log_softmax(-1)[0, 3:-1]
    total = logs.gather(1, found.sequences[0, 4:, None]).sum()
    assert float(found.sequences_scores[0] * 4) == pytest.approx(float(total), abs=1e-4)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cell": "rnn"}, "cell must be lstm or gru, got 'rnn'"),
        ({"weight_drop": 1.0}, "weight_drop must be 0 or more and below 1, got 1"),
        ({"hidden_size": 0}, "hidden_size must be 1 or more, got 0"),
        ({"change_penalty": -1}, "change_penalty must be 0 or more and below inf, got -1"),
    ],
)
def test_settings_that_make_no_net_are_told(given, text):
    with pytest.raises(ConfigError) as raised:
        RNNConfig(**given)
    assert raised.value.code == "E-CONFIG-220" and text in raised.value.details


def test_importing_registers_nothing():
    code = (
        "import sapwood.models.rnn as rnn\n"
        "from transformers import CONFIG_MAPPING\n"
        "assert 'sapwood_rnn' not in CONFIG_MAPPING\n"
        "rnn.register(); rnn.register()\n"
        "assert 'sapwood_rnn' in CONFIG_MAPPING\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_net_learns_what_only_a_state_can_know(cell):
    """The third token repeats the first: nothing but the state carries it over."""
    net = made(cell, layers=1, **QUIET).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.05)
    draws = torch.Generator().manual_seed(0)

    def batch():
        first = torch.randint(3, 9, (64, 1), generator=draws)
        return torch.cat([first, torch.full_like(first, 20), first], 1)

    for _ in range(400):
        optimiser.zero_grad()
        ids = batch()
        labels = torch.full_like(ids, -100)
        labels[:, 2] = ids[:, 2]
        net(ids, labels=labels).loss.backward()
        optimiser.step()
    ids = batch()
    said = net.eval()(ids).logits[:, 1].argmax(-1)
    assert float((said == ids[:, 2]).float().mean()) > 0.95


@torch.no_grad()
def test_as_a_base_it_scores_labels_and_answers():
    """The way of every base that cannot be packed: prompting and readouts take it."""
    net = made("gru").requires_grad_(False)
    decoder = Decoder(net)
    assert "'sapwood_rnn' kind" in decoder.why_padded
    prompts, labels = [[5, 6, 7], [8, 9]], [[10, 11], [10, 12, 13], [14]]
    found = decoder.label_scores(prompts, build_trie(labels), decoder.encode([3, 4]))
    for prompt, row in zip(prompts, found, strict=True):
        for label, score in zip(labels, row, strict=True):
            ids = torch.tensor([[3, 4, *prompt, *label]])
            logs = net(ids[:, :-1]).logits.log_softmax(-1)[0, -len(label) :]
            wanted = logs.gather(1, torch.tensor(label)[:, None]).sum()
            assert score == pytest.approx(float(wanted), abs=1e-4)
    states = net.model(torch.tensor([[3, 4, 5, 6, 7]])).last_hidden_state[0, -1]
    assert torch.allclose(
        torch.from_numpy(decoder.features(prompts, decoder.encode([3, 4])))[0], states, atol=1e-5
    )
    said = generate(decoder, prompts, decoder.encode([3, 4]), sampling=Sampling(tokens=4))
    row = torch.tensor([[3, 4, 5, 6, 7]])
    for token in said[0][0].ids:
        assert token == int(net(row).logits[0, -1].argmax())
        row = torch.cat([row, torch.tensor([[token]])], 1)
