"""Virtual tokens: ids like others everywhere, the same answers as embeddings put in by hand."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.context.prompter import Context, Prompter
from sapwood.context.template import default_template
from sapwood.errors import ConfigError, ModelError
from sapwood.evaluation import Bases, Reader
from sapwood.interfaces import Example
from sapwood.launch import choose_runtime
from sapwood.methods.folder import attach_trained
from sapwood.methods.p_tuning import PTuning
from sapwood.methods.parts import detach, disabled, parts, stored, weights, weights_key
from sapwood.methods.prompt import Prompt, from_peft, to_peft, virtual_ids
from sapwood.models.channel import channel_scores
from sapwood.models.decoder import Decoder
from sapwood.models.encoder import Encoder
from sapwood.models.layout import Row
from sapwood.models.trie import build_trie
from sapwood.testing import KINDS, tiny_net
from sapwood.training import Supervision, target

pytestmark = [  # what peft itself warns of
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
METHODS = (Prompt(tokens=5), PTuning(tokens=5, width=16))
IDS = list(range(40, 60))
LABELS = ("negative", "positive")


def table(net):
    return next(part for _, part in parts(net) if hasattr(part, "table")).table()


def by_hand(kind, rows, ids):
    """Return a plain net's last states of `ids` after `rows` of embeddings."""
    net = tiny_net(kind)
    words = net.get_input_embeddings()(torch.tensor([ids]))
    whole = torch.cat((rows[None].to(words.dtype), words), dim=1)
    body = getattr(net, net.base_model_prefix, net)
    return body(inputs_embeds=whole).last_hidden_state[0, len(rows) :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_packed_rows_equal_embeddings_put_in_front(kind, method):
    net = method.attach(tiny_net(kind))
    decoder = Decoder(net)
    rows = [IDS, IDS[3:10], [50]]
    before = virtual_ids(net)
    assert len(before) == 5 and min(before) == 300
    prefix = decoder.encode([*before, 20, 21])  # as what all rows share, and within each row
    shared = decoder.hidden([Row(ids=r, wanted=range(len(r))) for r in rows], prefix)
    own = decoder.hidden([Row(ids=[*before, *r], wanted=range(5, 5 + len(r))) for r in rows])
    with torch.no_grad():
        rest = table(net)
        for found, lead in ((shared, [20, 21]), (own, [])):
            ((owners, states),) = found
            for number, row in enumerate(rows):
                wanted = by_hand(kind, rest, [*lead, *row])[len(lead) :]
                torch.testing.assert_close(states[owners == number], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_an_encoder_puts_them_in_front_itself(method):
    net = method.attach(tiny_net("bert"))
    found = Encoder(net).states([IDS, IDS[:4]], gradient=True)
    for states, ids in zip(found, (IDS, IDS[:4]), strict=True):
        torch.testing.assert_close(states, by_hand("bert", table(net), ids), atol=1e-5, rtol=0)
    sum(s.sum() for s in found[0]).backward()
    assert all(t.grad.abs().max() > 0 for t in weights(net).values())
    detach(net)
    plain = Encoder(net).states([IDS])[0]
    torch.testing.assert_close(plain, tiny_net("bert")(torch.tensor([IDS])).last_hidden_state[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_gradients_reach_every_trained_tensor_and_no_other(kind, method):
    net = method.attach(tiny_net(kind), seed=3)
    trie = build_trie([[10, 11], [20]])
    rows = [target(IDS[:9], 0, trie), target(IDS, 1, trie)]
    given = virtual_ids(net)
    gradients = []
    supervision = Supervision(Decoder(net), rows, trie, shared=given)
    for loss, _ in supervision.losses([0, 1], 1000):
        loss.backward()
    gradients.append({n: t.grad.clone() for n, t in weights(net).items()})
    assert all(g.abs().max() > 0 for g in gradients[0].values())
    trained = {id(t) for t in weights(net).values()}
    assert all(p.grad is None for p in net.parameters() if id(p) not in trained)
    net.zero_grad()
    inside = [target([*given, *IDS[:9]], 0, trie), target([*given, *IDS], 1, trie)]
    for loss, _ in Supervision(Decoder(net), inside, trie).losses([0, 1], 1000):
        loss.backward()
    for name, tensor in weights(net).items():
        torch.testing.assert_close(tensor.grad, gradients[0][name], atol=1e-4, rtol=1e-3)


def test_starts():
    net = tiny_net("gemma3_text")  # scales its embeddings
    embedding = net.get_input_embeddings()
    real = embedding(torch.arange(300))
    Prompt(tokens=4, start="text", text_ids=(7, 8, 9)).attach(net)
    torch.testing.assert_close(table(net), real[[7, 8, 9, 7]])
    detach(net)
    Prompt(tokens=4).attach(net, seed=1)
    first = table(net).detach().clone()
    assert all(bool((real == row).all(1).any()) for row in first)
    detach(net)
    torch.testing.assert_close(table(Prompt(tokens=4).attach(net, seed=1)), first)
    detach(net)
    Prompt(tokens=40, start="random").attach(net)
    assert 0.5 < float(table(net).std() / real.std()) < 2
    detach(net)
    PTuning(tokens=40).attach(net)
    assert 0.5 < float(table(net).std() / real.std()) < 2
    detach(net)
    assert net.get_input_embeddings() is embedding


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_disabled_and_detached_give_the_base(method):
    net, plain = tiny_net("qwen3"), tiny_net("qwen3")
    embedding, names = net.get_input_embeddings(), [n for n, _ in net.named_modules()]
    method.attach(net)
    key = weights_key(net)
    with disabled(net):
        assert virtual_ids(net) == () and weights_key(net) != key
        assert torch.equal(net(torch.tensor([IDS])).logits, plain(torch.tensor([IDS])).logits)
    assert weights_key(net) == key
    detach(net)
    assert virtual_ids(net) == () and net.get_input_embeddings() is embedding
    assert [n for n, _ in net.named_modules()] == names


def test_what_is_stored_answers_as_what_was_trained():
    net = PTuning(tokens=5, width=16).attach(tiny_net("llama"), seed=2)
    ids = torch.tensor([[*virtual_ids(net), *IDS]])
    before, method = net(ids).logits.detach(), PTuning(tokens=5, width=16).kept()
    assert method == Prompt(tokens=5, start="random")
    tensors = stored(net)
    assert list(tensors) == ["virtual_tokens.prompt_embeddings"]
    again = tiny_net("llama")
    attach_trained(again, method, tensors, where="the test")
    torch.testing.assert_close(again(ids).logits, before)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_training_goes_on_where_a_checkpoint_left_it(method, tmp_path):
    def begin():
        net = method.attach(tiny_net("llama"), seed=0)
        held = weights(net)
        return net, held, torch.optim.AdamW(list(held.values()), lr=0.05)

    def steps(net, optimiser, count):
        for _ in range(count):
            optimiser.zero_grad()
            net(torch.tensor([[*virtual_ids(net), *IDS]])).logits[0, -1, 7].backward()
            optimiser.step()

    whole, _, optimiser = begin()
    steps(whole, optimiser, 4)
    net, held, optimiser = begin()
    steps(net, optimiser, 2)
    save_checkpoint(tmp_path, step=2, weights=held, optimiser=optimiser, extra={})
    net, held, optimiser = begin()
    assert load_checkpoint(tmp_path, weights=held, optimiser=optimiser)[0] == 2
    steps(net, optimiser, 2)
    assert torch.equal(table(net), table(whole))


def test_a_context_encoded_under_other_rows_is_never_reused():
    net = Prompt(tokens=5).attach(tiny_net("llama"))
    decoder = Decoder(net, weights_key=lambda: weights_key(net))
    ids = [*virtual_ids(net), *IDS]
    first = decoder.encode(ids).layers[1][0].clone()
    run = decoder.tokens_run
    decoder.encode(ids)
    assert decoder.tokens_run == run
    with torch.no_grad():
        next(iter(weights(net).values())).mul_(1.5)
    assert (decoder.encode(ids).layers[1][0] - first).abs().max() > 1e-3
    with disabled(net):
        before = decoder.encode(IDS).layers[1][0]
    with torch.no_grad():
        next(iter(weights(net).values())).mul_(1.5)
    run = decoder.tokens_run
    with disabled(net):  # the plain base has not changed
        assert torch.equal(decoder.encode(IDS).layers[1][0], before)
    assert decoder.tokens_run == run


CONTEXT = Context(
    template=default_template(LABELS, ["english"]),
    demonstrations=(
        Example(text="an awful film", label="negative", row=1),
        Example(text="a lovely film", label="positive", row=2),
    ),
    shots=2,
)


@pytest.mark.parametrize("encoding", ["exact", "blocks"])
@pytest.mark.parametrize("scope", ["all", "suffix"])
def test_a_reader_puts_them_where_its_scope_says(tiny_checkpoint, scope, encoding):
    bases, name = Bases(choose_runtime("cpu", "float32")), str(tiny_checkpoint("llama"))
    net = bases.get(name).net
    prompter = Prompter(bases.get(name).tokenizer, CONTEXT)
    (rest,) = prompter.rest(["a fine cast"])
    context = Context(**{**vars(CONTEXT), "encoding": encoding})
    reader = Reader(bases, name, context, LABELS, scope=scope)
    plain = reader.read(["a fine cast"]).scores
    Prompt(tokens=5).attach(net)
    given = list(virtual_ids(net))
    found = reader.read(["a fine cast"]).scores
    assert abs(found - plain).max() > 1e-3
    asked, prefix = reader.prompts(["a fine cast"])
    if encoding == "exact":
        whole = [*given, *prompter.prefix, *rest]
        opening = tuple(whole[: 5 + len(prompter.prefix)])
        if scope == "suffix":
            whole, opening = [*prompter.prefix, *given, *rest], prompter.prefix
        assert reader.opening() == opening and [*prefix.ids, *asked[0]] == whole
        by_rows = Decoder(net).label_scores([whole], reader.trie)
        assert abs(found - by_rows).max() < 1e-4
    else:
        assert (list(prefix.ids[:5]) == given) is (scope == "all")
        assert (asked[0][:5] == given) is (scope == "suffix")
    with disabled(net):
        assert abs(reader.read(["a fine cast"]).scores - plain).max() < 1e-6


@pytest.mark.parametrize("scope", ["all", "suffix"])
def test_the_channel_and_the_premise_have_them_too(tiny_checkpoint, scope):
    bases, name = Bases(choose_runtime("cpu", "float32")), str(tiny_checkpoint("llama"))
    net = bases.get(name).net
    reader = Reader(bases, name, CONTEXT, LABELS, scope=scope, scorer="channel")
    Prompt(tokens=5).attach(net)
    given = list(virtual_ids(net))
    (rows,) = reader.prompter.channel_rows(["a fine cast"], LABELS)
    before = reader.prompter.prefix
    lead = [*given, *before] if scope == "all" else [*before, *given]
    whole = [[([*lead, *ids], len(lead) + begins) for ids, begins in rows]]
    found = reader.read(["a fine cast"]).scores
    assert abs(found - channel_scores(Decoder(net), whole)).max() < 1e-3
    direct = Reader(bases, name, CONTEXT, LABELS, scope=scope)
    premise = direct.prompter.premise()
    before = direct.prompter.prefix
    lead = [*given, *before] if scope == "all" else [*before, *given]
    wanted = Decoder(net).label_scores([[*lead, *premise]], direct.trie)
    assert abs(direct.premise() - wanted).max() < 1e-4


TASKS = {"llama": "CAUSAL_LM", "gemma3_text": "CAUSAL_LM", "gpt2": "CAUSAL_LM"}


def answers(net, kind, ids):
    out = net(input_ids=torch.tensor([ids]))
    return out.last_hidden_state[0] if kind == "bert" else out.logits[0]


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "bert"])
def test_peft_reads_what_is_written(kind, tmp_path):
    peft = pytest.importorskip("peft")
    net = Prompt(tokens=5).attach(tiny_net(kind))
    nn.init.normal_(table(net), std=0.5)
    config, tensors = to_peft(
        Prompt(tokens=5), stored(net), task=TASKS.get(kind, "FEATURE_EXTRACTION")
    )
    config["base_model_name_or_path"] = "tiny"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    theirs = peft.PeftModel.from_pretrained(tiny_net(kind), tmp_path).eval()
    with torch.no_grad():
        ours = answers(net, kind, [*virtual_ids(net), *IDS])
        torch.testing.assert_close(ours, answers(theirs, kind, IDS), atol=1e-4, rtol=0)
    method, again = from_peft(config, tensors)
    assert method == Prompt(tokens=5, start="random")
    assert torch.equal(again["virtual_tokens.prompt_embeddings"], table(net))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "bert"])
@pytest.mark.parametrize("theirs", ["PromptTuningConfig", "PromptEncoderConfig"])
def test_what_peft_writes_is_read(kind, theirs, tmp_path):
    peft = pytest.importorskip("peft")
    more = {"encoder_hidden_size": 16} if theirs == "PromptEncoderConfig" else {}
    task = TASKS.get(kind, "FEATURE_EXTRACTION")
    torch.manual_seed(0)
    config = getattr(peft, theirs)(task_type=task, num_virtual_tokens=4, **more)
    model = peft.get_peft_model(tiny_net(kind), config).eval()
    model.save_pretrained(tmp_path)
    given = json.loads((tmp_path / "adapter_config.json").read_text())
    method, tensors = from_peft(given, load_file(tmp_path / "adapter_model.safetensors"))
    net = tiny_net(kind)
    attach_trained(net, method, tensors, where=str(tmp_path))
    with torch.no_grad():
        ours = answers(net, kind, [*virtual_ids(net), *IDS])
        torch.testing.assert_close(ours, answers(model, kind, IDS), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"peft_type": "LORA"}, "E-MODEL-022", "not PROMPT_TUNING or P_TUNING"),
        ({"num_virtual_tokens": None}, "E-MODEL-022", "num_virtual_tokens is None"),
        ({"num_transformer_submodules": 2}, "E-MODEL-022", "decoder"),
        ({"num_virtual_tokens": 9}, "E-MODEL-028", "9 rows, 32 wide"),
    ],
)
def test_a_folder_that_cannot_be_loaded_exactly_is_refused(change, code, words):
    config, tensors = to_peft(Prompt(tokens=4), {"x": torch.zeros(4, 32)})
    with pytest.raises(ModelError) as caught:
        from_peft(config | change, tensors)
    assert caught.value.code == code and words in str(caught.value)


def test_wrong_settings_are_named():
    for method in (Prompt, PTuning):
        with pytest.raises(ConfigError) as caught:
            method(tokens=0, start="vocabulry", text_ids=(-1,))
        said = " ".join(caught.value.details)
        assert "tokens must be 1 or more" in said and "did you mean" in said.lower()
        assert "go together" in said and "0 or more" in said
    with pytest.raises(ConfigError, match="width"):
        PTuning(width=0)
    for method in (Prompt, PTuning):
        with pytest.raises(ConfigError, match="which text to start from") as caught:
            method(tokens=2, start="text").attach(net := tiny_net("llama"))
        assert "text_ids" in caught.value.fix and not list(parts(net))
    with pytest.raises(ConfigError, match="not in the base's vocabulary of 300"):
        Prompt(tokens=2, start="text", text_ids=(4, 300)).attach(tiny_net("llama"))
    net = Prompt(tokens=2).attach(tiny_net("llama"))
    with pytest.raises(ConfigError, match="virtual tokens already"):
        PTuning(tokens=2).attach(net)


def test_t5_reads_them_in_its_encoder():
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    net = T5ForConditionalGeneration(config).eval().requires_grad_(False)
    state = {n: t.clone() for n, t in net.state_dict().items()}
    ids, answer = torch.tensor([IDS]), torch.tensor([[0, 5, 6]])
    words = net.get_input_embeddings()(ids)
    before = net(input_ids=ids, decoder_input_ids=answer).logits
    Prompt(tokens=5).attach(net)
    wanted = net(
        inputs_embeds=torch.cat((table(net)[None], words), dim=1), decoder_input_ids=answer
    ).logits
    found = net(input_ids=torch.tensor([[*virtual_ids(net), *IDS]]), decoder_input_ids=answer)
    torch.testing.assert_close(found.logits, wanted)
    found.logits.sum().backward()
    assert all(t.grad.abs().max() > 0 for t in weights(net).values())
    detach(net)
    assert torch.equal(net(input_ids=ids, decoder_input_ids=answer).logits, before)
    after = net.state_dict()
    assert set(after) == set(state) and all(torch.equal(after[n], t) for n, t in state.items())
