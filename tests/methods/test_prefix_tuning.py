"""Trained prefixes: the same answers as transformers' own cache, before rows and nothing else."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DynamicCache

from sapwood.adaptation import seed
from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import ConfigError, ModelError
from sapwood.methods.folder import attach_trained
from sapwood.methods.keys_values import (
    cache_name,
    expected_shape,
    split_layers,
    stack_layers,
    turned,
)
from sapwood.methods.lora import Lora
from sapwood.methods.parts import detach, disabled, parts, stored, weights, weights_key
from sapwood.methods.prefix import read_prefix, to_stored, write_prefix
from sapwood.methods.prefix_tuning import Prefix, encoded, from_peft, start_from, to_peft
from sapwood.models.blocks import Blocks
from sapwood.models.channel import channel_scores
from sapwood.models.decoder import Decoder, behind
from sapwood.models.encoder import Encoder
from sapwood.models.generate import Sampling, generate, stream
from sapwood.models.layout import Row
from sapwood.models.recomputing import recomputing
from sapwood.models.trie import build_trie
from sapwood.testing import KINDS, tiny_net
from sapwood.training import Seat, Supervision, packed, target
from sapwood.training.lean import Lean

pytestmark = [  # what peft itself warns of
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
METHODS = (
    Prefix(tokens=5), Prefix(tokens=5, start="text", text_ids=(7, 8, 9)),
    Prefix(tokens=5, start="random"), Prefix(tokens=5, start="random", width=6),
)  # fmt: skip
IDS, CONTEXT = list(range(40, 60)), list(range(20, 33))
TRIE = build_trie([[10, 11], [20]])


def of(net):
    return net.trained_prefix


def shaken(net):
    """Move what is trained away from where it starts."""
    torch.manual_seed(1)
    for name, tensor in weights(net).items():
        nn.init.normal_(tensor, std=0.5 if "prompt_embeddings" in name else 0.3)
    return net


def plainly(net, layers, ids, start):
    """Return the last hidden states that transformers gives for `ids` after keys and values."""
    cache = DynamicCache()
    for number, (key, value) in enumerate(layers):
        cache.update(key, value, number)
    at = torch.arange(start, start + len(ids))[None]
    body = getattr(net, net.base_model_prefix, net)
    return body(
        input_ids=torch.tensor([ids]), **{cache_name(body): cache}, position_ids=at
    ).last_hidden_state[0]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "gemma3_text"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.start}-{m.width}")
def test_packed_rows_equal_transformers_cache(kind, method):
    net = shaken(method.attach(tiny_net(kind)))
    rows, plain = [IDS, IDS[3:10], [50]], tiny_net(kind)
    layers = split_layers(of(net).table(), torch.float32, torch.device("cpu"))
    ((owners, states),) = Decoder(net).hidden([Row(ids=r, wanted=range(len(r))) for r in rows])
    for number, row in enumerate(rows):
        with torch.no_grad():
            wanted = plainly(plain, layers, row, 5)
        torch.testing.assert_close(states[owners == number], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [*KINDS, "bert"])
def test_a_plain_call_of_the_net_has_it_too(kind):
    net = shaken(Prefix(tokens=5).attach(tiny_net(kind)))
    ids = torch.tensor([IDS, [*IDS[:7], *[0] * 13]])
    mask = torch.tensor([[1] * 20, [1] * 7 + [0] * 13])
    if kind == "bert":
        states = Encoder(net).states([IDS, IDS[:7]])
        found = net(input_ids=ids, attention_mask=mask).last_hidden_state
    else:
        found = net(input_ids=ids, attention_mask=mask).logits
        rows = [Row(ids=r, wanted=range(len(r))) for r in (IDS, IDS[:7])]
        ((owners, packed_states),) = Decoder(net).hidden(rows)
        head = net.get_output_embeddings()
        states = [head(packed_states[owners == n]) for n in range(2)]
    torch.testing.assert_close(states[0], found[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(states[1], found[1, :7], atol=1e-4, rtol=0)


def test_an_encoder_has_it_with_gradients():
    net = shaken(Prefix(tokens=5).attach(tiny_net("bert")))
    layers = split_layers(of(net).table().detach(), torch.float32, torch.device("cpu"))
    found = Encoder(net).states([IDS, IDS[:4]], gradient=True)
    for states, ids in zip(found, (IDS, IDS[:4]), strict=True):
        with torch.no_grad():
            wanted = plainly(tiny_net("bert"), layers, ids, 5)
        torch.testing.assert_close(states, wanted, atol=1e-5, rtol=0)
    sum(states.square().sum() for states in found).backward()
    (tensor,) = weights(net).values()
    assert (tensor.grad.abs().amax((0, 2, 3)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_keys_turn_to_where_the_base_would_have_put_them(kind):
    """Of the first layer: above it, tokens at other positions are other states in GPT-2 alone."""
    net = tiny_net(kind)
    ids = torch.tensor([IDS])
    at = torch.arange(13, 33)[None]
    kept = DynamicCache()
    with torch.no_grad():
        net(input_ids=ids, position_ids=at, **{cache_name(net): kept})
    wanted = stack_layers([(layer.keys, layer.values) for layer in kept.layers])
    found = turned(encoded(net, IDS), net, 13)
    if kind == "gpt2":
        assert torch.equal(found, encoded(net, IDS))
        return
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(turned(found, net, -13), encoded(net, IDS), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_stands_between_context_and_rows_and_the_context_never_sees_it(kind):
    net, plain = tiny_net(kind), tiny_net(kind)
    alone = Decoder(tiny_net(kind)).encode(CONTEXT)
    shaken(Prefix(tokens=5).attach(net))
    decoder = Decoder(net)
    context = decoder.encode(CONTEXT)
    for pair, before in zip(context.layers, alone.layers, strict=True):
        assert torch.equal(pair[0], before[0]) and torch.equal(pair[1], before[1])
    with torch.no_grad():
        joined = behind(decoder, context)
    assert joined.next_position == 18 and not joined.exact
    ((_, states),) = decoder.hidden([Row(ids=IDS, wanted=range(20))], context)
    if kind != "gemma3_text":  # whose windows transformers takes from its own kind of cache
        own = split_layers(turned(of(net).table(), plain, 13), torch.float32, torch.device("cpu"))
        layers = [
            (torch.cat((c[0], p[0]), 2), torch.cat((c[1], p[1]), 2))
            for c, p in zip(context.layers, own, strict=True)
        ]
        with torch.no_grad():
            wanted = plainly(plain, layers, IDS, 18)
        torch.testing.assert_close(states, wanted, atol=1e-4, rtol=0)
    # a prefix that is real tokens at their places stands for them
    tensor = stack_layers(Decoder(plain).encode([*CONTEXT, *IDS[:5]]).layers)[13:]
    with torch.no_grad():
        of(net).prompt_embeddings.copy_(turned(tensor, plain, -13))
    ((_, states),) = decoder.hidden([Row(ids=IDS, wanted=range(20))], context)
    whole = Row(ids=[*CONTEXT, *IDS[:5], *IDS], wanted=range(18, 38))
    ((_, wanted),) = Decoder(plain).hidden([whole])
    torch.testing.assert_close(states, wanted, atol=1e-4, rtol=0)


def test_blocks_are_followed_by_it():
    net = Prefix(tokens=5).attach(tiny_net("llama"))
    decoder = Decoder(net)
    context = Blocks(decoder, CONTEXT).prefix([IDS[:6], IDS[:9]])
    joined = behind(decoder, context)
    assert context.start == 22 and joined.next_position == 27
    assert joined.positions.tolist() == [*context.positions.tolist(), *range(22, 27)]
    with pytest.raises(ConfigError, match="blocks"):
        to_stored(joined.layers, origin="x", positions=joined.positions)


def losses(net, seat, checkpointing=False):
    """Return gradients of everything trained, for rows packed behind a seat."""
    net.zero_grad()
    rows = [Row(ids=IDS, wanted=(19,)), Row(ids=IDS[:6], wanted=(2, 5))]
    with recomputing(net, checkpointing):
        for _, states, _ in packed(Decoder(net), rows, seat, 1000):
            states.square().sum().backward()
    return {n: t.grad.clone() for n, t in weights(net).items()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "gemma3_text"])
def test_gradients_with_lora_under_a_context_equal_padded_ones(kind, checkpointing):
    net = tiny_net(kind)
    Lora(rank=4).attach(net)
    Prefix(tokens=5).attach(net)
    shaken(net)
    found = losses(net, Seat(shared=tuple(CONTEXT)), checkpointing)
    assert all(g.abs().max() > 0 for g in found.values())
    net.zero_grad()
    for row, wanted in ((IDS, [19]), (IDS[:6], [2, 5])):
        cache = DynamicCache()
        body = getattr(net, net.base_model_prefix)
        body(input_ids=torch.tensor([CONTEXT]), **{cache_name(body): cache})
        own = of(net).layers(net, 13)
        layers = [
            (torch.cat((c.keys, p[0]), 2), torch.cat((c.values, p[1]), 2))
            for c, p in zip(cache.layers, own, strict=True)
        ]
        plainly(net, layers, row, 18)[wanted].square().sum().backward()
    for name, tensor in weights(net).items():
        torch.testing.assert_close(found[name], tensor.grad, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.start}-{m.width}")
def test_gradients_reach_every_trained_tensor_and_no_other(kind, method):
    net = shaken(method.attach(tiny_net(kind)))
    targets = [target(IDS[:9], 0, TRIE), target(IDS, 1, TRIE)]
    decoder = Decoder(net)
    found = []
    for checkpointing in (False, True):
        net.zero_grad()
        supervision = Supervision(
            decoder, targets, TRIE, prefix=decoder.encode(CONTEXT),
            lean=Lean(checkpointing=checkpointing),
        )  # fmt: skip
        for loss, _ in supervision.losses([0, 1], 1000):
            loss.backward()
        found.append({n: t.grad.clone() for n, t in weights(net).items()})
    assert all(g.abs().max() > 0 for g in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-3)
    trained = {id(t) for t in weights(net).values()}
    assert all(p.grad is None for p in net.parameters() if id(p) not in trained)


def test_training_counts_its_positions_and_keeps_no_states_below_it(tmp_path):
    net = Prefix(tokens=100).attach(tiny_net("llama"))
    long = [target([30] * 450, 0, TRIE)]
    with pytest.raises(ModelError) as caught:
        Supervision(Decoder(net), long, TRIE)
    assert caught.value.code == "E-MODEL-030" and "551" in str(caught.value)
    with pytest.raises(ModelError, match="reads at most 512"):
        list(Decoder(net).hidden([Row(ids=[30] * 450, wanted=(0,))]))
    short = [target(IDS, 0, TRIE)]
    with pytest.raises(ConfigError, match="every block reads the prefix"):
        Supervision(Decoder(net), short, TRIE, lean=Lean(cache="frozen", folder=tmp_path))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.start}-{m.width}")
def test_disabled_and_detached_give_the_base(method):
    net, plain = tiny_net("qwen3"), tiny_net("qwen3")
    ids, names = torch.tensor([IDS]), [n for n, _ in net.named_modules()]
    wanted = plain(ids).logits
    shaken(method.attach(net))
    key = weights_key(net)
    assert (net(ids).logits - wanted).abs().max() > 1e-3
    with disabled(net):
        assert torch.equal(net(ids).logits, wanted) and weights_key(net) != key
        ((_, states),) = Decoder(net).hidden([Row(ids=IDS, wanted=(19,))])
        ((_, before),) = Decoder(plain).hidden([Row(ids=IDS, wanted=(19,))])
        assert torch.equal(states, before)
    detach(net)
    assert [n for n, _ in net.named_modules()] == names
    assert torch.equal(net(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.start}-{m.width}")
@pytest.mark.parametrize("context", [[], CONTEXT], ids=["alone", "context"])
def test_a_stored_prefix_answers_as_the_trained_one(kind, method, context, tmp_path):
    net = shaken(method.attach(tiny_net(kind)))
    decoder, rows = Decoder(net), [[30, 31, 32], IDS, [50]]
    before = decoder.encode(context)
    wanted = decoder.label_scores(rows, TRIE, before)
    kept = to_stored(behind(decoder, before).layers, origin=method.start)
    assert kept.trained and kept.tokens == 5 + len(context)
    write_prefix(kept.tensor, tmp_path, base="tiny")
    assert torch.equal(read_prefix(tmp_path), kept.tensor)
    detach(net)
    found = decoder.label_scores(rows, TRIE, seed(kept, decoder))
    assert abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.start}-{m.width}")
def test_what_parts_store_answers_as_what_was_trained(method):
    net = shaken(method.attach(tiny_net("llama")))
    tensors = stored(net)
    assert list(tensors) == ["trained_prefix.prompt_embeddings"]
    again = tiny_net("llama")
    attach_trained(again, method.kept(), tensors, where="the test")
    ids = torch.tensor([IDS])
    torch.testing.assert_close(again(ids).logits, net(ids).logits)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.start}-{m.width}")
def test_training_goes_on_where_a_checkpoint_left_it(method, tmp_path):
    def begin():
        net = method.attach(tiny_net("llama"), seed=0)
        held = weights(net)
        return net, held, torch.optim.AdamW(list(held.values()), lr=0.05)

    def steps(net, optimiser, count):
        for _ in range(count):
            optimiser.zero_grad()
            net(torch.tensor([IDS])).logits[0, -1, 7].backward()
            optimiser.step()

    whole, _, optimiser = begin()
    steps(whole, optimiser, 4)
    net, held, optimiser = begin()
    steps(net, optimiser, 2)
    save_checkpoint(tmp_path, step=2, weights=held, optimiser=optimiser, extra={})
    net, held, optimiser = begin()
    assert load_checkpoint(tmp_path, weights=held, optimiser=optimiser)[0] == 2
    steps(net, optimiser, 2)
    assert torch.equal(of(net).table(), of(whole).table())


@pytest.mark.parametrize("kind", KINDS)
def test_starts(kind):
    net, plain = tiny_net(kind), tiny_net(kind)
    Lora(rank=4).attach(net)
    shaken(net)
    Prefix(tokens=5, start="text", text_ids=(7, 8, 9)).attach(net)  # LoRA does not act in it
    real = stack_layers(Decoder(plain).encode([7, 8, 9, 7, 8]).layers)
    torch.testing.assert_close(of(net).table(), real, atol=1e-4, rtol=0)
    rows = [Row(ids=IDS, wanted=range(20))]
    detach(net)
    Prefix(tokens=len(CONTEXT), start="context").attach(net)
    decoder = Decoder(net)
    with disabled(net):
        context = stack_layers(decoder.encode(CONTEXT).layers)
    ((_, wanted),) = Decoder(plain).hidden(rows, Decoder(plain).encode(CONTEXT))
    start_from(net, context)
    ((_, states),) = decoder.hidden(rows)
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=0)
    detach(net)
    Prefix(tokens=5, start="context").attach(net)
    start_from(net, context)  # the first token and the last four, moved together
    assert torch.equal(of(net).table()[0], context[0])
    torch.testing.assert_close(of(net).table()[1:], turned(context, plain, -8)[9:])
    detach(net)
    first = Prefix(tokens=5).attach(net, seed=4).trained_prefix.table().detach().clone()
    detach(net)
    assert torch.equal(Prefix(tokens=5).attach(net, seed=4).trained_prefix.table(), first)


def test_answers_are_generated_behind_it():
    net = shaken(Prefix(tokens=5).attach(tiny_net("qwen3")))
    decoder, settings = Decoder(net), Sampling(tokens=6)
    found = [row[0].ids for row in generate(decoder, [IDS, IDS[:5]], sampling=settings)]
    for prompt, answer in zip((IDS, IDS[:5]), found, strict=True):
        ids = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(net(torch.tensor([ids])).logits[0, -1].argmax()))
        assert ids[len(prompt) :] == list(answer)
        assert tuple(stream(decoder, prompt, sampling=settings)) == answer
    context = decoder.encode(CONTEXT)
    ((one,),) = generate(decoder, [IDS], context, sampling=settings)
    assert tuple(stream(decoder, IDS, context, sampling=settings)) == one.ids
    # nothing behind the prefix is taken for the encoding of tokens
    fresh = Decoder(tiny_net("qwen3")).encode([*CONTEXT, *IDS]).layers[0][0]
    torch.testing.assert_close(decoder.encode([*CONTEXT, *IDS]).layers[0][0], fresh)


def test_the_channel_reads_behind_it():
    net = shaken(Prefix(tokens=5).attach(tiny_net("llama")))
    found = channel_scores(Decoder(net), [[(IDS, 2), (IDS[:1] + IDS, 1)]])
    for (ids, begins), score in zip(((IDS, 2), (IDS[:1] + IDS, 1)), found[0], strict=True):
        logs = net(torch.tensor([ids])).logits[0].log_softmax(-1)
        wanted = sum(float(logs[n - 1, ids[n]]) for n in range(begins, len(ids)))
        assert abs(score - wanted) < 1e-3


def test_a_context_encoded_under_other_weights_is_never_reused():
    net = tiny_net("llama")
    Lora(rank=4).attach(net)
    Prefix(tokens=5).attach(net)
    shaken(net)
    decoder = Decoder(net, weights_key=lambda: weights_key(net))
    first = decoder.label_scores([IDS], TRIE, decoder.encode(CONTEXT))
    kept = decoder.encode(CONTEXT).layers[1][0].clone()
    with torch.no_grad():
        for tensor in weights(net).values():
            tensor.mul_(1.5)
    assert (decoder.encode(CONTEXT).layers[1][0] - kept).abs().max() > 1e-3
    second = decoder.label_scores([IDS], TRIE, decoder.encode(CONTEXT))
    assert abs(second - first).max() > 1e-3


@pytest.mark.parametrize("kind", [*KINDS, "bert"])
def test_peft_reads_and_writes_the_same_prefix(kind, tmp_path):
    peft = pytest.importorskip("peft")
    task = "FEATURE_EXTRACTION" if kind == "bert" else "CAUSAL_LM"

    def answers(net):
        out = net(input_ids=torch.tensor([IDS]))
        return out.last_hidden_state if kind == "bert" else out.logits

    net = shaken(Prefix(tokens=5).attach(tiny_net(kind)))
    config, tensors = to_peft(Prefix(tokens=5), stored(net), task=task)
    config["base_model_name_or_path"] = "tiny"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    theirs = peft.PeftModel.from_pretrained(tiny_net(kind), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(answers(net), answers(theirs), atol=1e-4, rtol=0)
    theirs.save_pretrained(tmp_path / "again")
    given = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    method, own = from_peft(given, load_file(tmp_path / "again" / "adapter_model.safetensors"))
    assert method == Prefix(tokens=5, start="random")
    again = tiny_net(kind)
    attach_trained(again, method, own, where="the test")
    assert torch.equal(of(again).table(), of(net).table())


@pytest.mark.parametrize("projection", [False, True])
def test_what_peft_trains_is_read(projection, tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=projection,
        encoder_hidden_size=16,
    )  # fmt: skip
    model = peft.get_peft_model(tiny_net("qwen3"), config).eval()
    model.save_pretrained(tmp_path)
    given = json.loads((tmp_path / "adapter_config.json").read_text())
    method, tensors = from_peft(given, load_file(tmp_path / "adapter_model.safetensors"))
    net = tiny_net("qwen3")
    attach_trained(net, method, tensors, where="the test")
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([IDS])).logits
        torch.testing.assert_close(net(torch.tensor([IDS])).logits, theirs, atol=1e-4, rtol=0)


def test_wrong_settings_and_nets_are_named():
    from transformers import T5Config, T5ForConditionalGeneration

    with pytest.raises(ConfigError, match="cannot start from 'vocabulary'"):
        Prefix(width=8)
    with pytest.raises(ConfigError) as caught:
        Prefix(tokens=0, start="txt", text_ids=(3,))
    assert len(caught.value.details) == 3
    net = Prefix(tokens=4, start="context").attach(tiny_net("llama"))
    with pytest.raises(ConfigError, match="already"):
        Prefix(tokens=4).attach(net)
    with pytest.raises(ConfigError, match="cannot start from this context"):
        start_from(net, torch.zeros(3, *expected_shape(net.config)))
    with pytest.raises(ModelError, match="does not fit"):
        start_from(net, torch.zeros(4, 8, 2, 8))
    with pytest.raises(ModelError, match=r"generate with sapwood\.models\.generate"):
        net(torch.tensor([IDS]), **{cache_name(net): DynamicCache()})
    decoder = Decoder(net)
    decoder.why_padded = "asked for by the test"
    with pytest.raises(ModelError, match="asked for by the test"):
        list(decoder.hidden([Row(ids=IDS, wanted=(0,))]))
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(ConfigError, match="train a prompt instead") as caught:
        Prefix().attach(t5)
    assert caught.value.code == "E-CONFIG-022" and not list(parts(t5))
