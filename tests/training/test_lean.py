"""Leaner training is the same training: recomputed blocks, untouched lower blocks, kept states."""

import pytest
import torch

from sapwood.errors import ConfigError, ModelError
from sapwood.methods import parts
from sapwood.methods.adapter import Adapter
from sapwood.methods.depth import untouched
from sapwood.methods.dora import Dora
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.prefix_tuning import Prefix as PrefixTuning
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix
from sapwood.models.layout import Row
from sapwood.models.recomputing import recomputing
from sapwood.models.trie import build_trie
from sapwood.training import Recipe, Supervision, fit, make_optimiser, target
from sapwood.training.lean import Lean

LABELS = [[10, 11], [10, 12, 13], [20]]
OPENING = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
KINDS = ("llama", "gemma3_text", "gpt2")
METHODS = {
    "lora": Lora(rank=4, alpha=8.0, dropout=0.2),
    "dora": Dora(rank=4, alpha=8.0),
    "ia3": Ia3(),
    "adapter": Adapter(),
}


def shaken(net, method, seed=1):
    """Attach a method and move its tensors, so that every one of them has a gradient."""
    method.attach(net, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for tensor in parts.weights(net).values():
        tensor.data += 0.05 * torch.randn(tensor.shape, generator=generator)
    return net


def examples(count=18, seed=3):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 40, (count,), generator=generator).tolist()
    trie = build_trie(LABELS)
    return trie, [
        target(torch.randint(30, 290, (n,), generator=generator).tolist(), n % 3, trie)
        for n in lengths
    ]


def supervise(net, opening="none", lean=Lean(), count=18):  # noqa: B008
    """Return a supervision whose rows follow nothing, shared tokens, or a cached prefix."""
    key = str(float(net.get_input_embeddings().weight.sum()))
    decoder = Decoder(net, weights_key=lambda: key)
    trie, targets = examples(count)
    if opening == "shared":
        return Supervision(decoder, targets, trie, shared=OPENING, lean=lean)
    prefix = NO_PREFIX
    if opening == "cached":
        training = net.training
        with parts.disabled(net.eval()):  # GPT-2's own dropout stays out of what is encoded
            prefix = decoder.encode(OPENING)
        net.train(training)
    return Supervision(decoder, targets, trie, prefix=prefix, lean=lean)


def gradients(supervision, tensors, budget=300):
    """Return the loss, the gradients, and the bytes kept for the backward pass on the way."""
    saved: dict[int, int] = {}
    held = []  # keeps storages alive, so that no address is counted twice

    def keep(tensor):
        storage = tensor.untyped_storage()
        held.append(storage)
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)  # dropout masks
    total, inputs = 0.0, 0
    for tensor in tensors:
        tensor.grad = None
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for part, tokens in supervision.losses(range(len(supervision)), budget):
            part.backward()
            total += float(part.detach())
            if supervision.lean.checkpointing:  # inputs of blocks are held outside autograd's hooks
                config = supervision.decoder.net.config
                inputs += config.num_hidden_layers * tokens * config.hidden_size * 4
    return total, [t.grad.clone() for t in tensors], sum(saved.values()) + inputs


def same(found, expected, tolerance=1e-6):
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_no_gradient_of_any_method(tiny_net, kind, name):
    net = shaken(tiny_net(kind), METHODS[name])
    net.train()
    tensors = list(parts.weights(net).values())
    plain = gradients(supervise(net), tensors)
    again = gradients(supervise(net, lean=Lean(checkpointing=True)), tensors)
    assert again[0] == pytest.approx(plain[0], rel=1e-6)
    same(again[1], plain[1])
    assert again[2] < 0.5 * plain[2]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("opening", ["shared", "cached"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_is_right_after_a_context(tiny_net, kind, opening, training):
    """pain: layouts and caches that blocks are given by keyword are lost when they run again."""
    net = shaken(tiny_net(kind), Lora(rank=4))
    net.train(training)
    tensors = list(parts.weights(net).values())
    plain = gradients(supervise(net, opening), tensors)
    again = gradients(supervise(net, opening, Lean(checkpointing=True)), tensors)
    same(again[1], plain[1])
    assert again[2] < 0.5 * plain[2]
    blocks = [m for m in net.modules() if hasattr(m, "gradient_checkpointing")]
    assert not any(m.gradient_checkpointing for m in blocks)
    assert all(m.training is training for m in net.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_reaches_a_trained_prefix(tiny_net, kind):
    net = tiny_net(kind)
    decoder = Decoder(net)
    layers = decoder.encode(OPENING).layers
    trained = [t.clone().requires_grad_() for pair in layers for t in pair]
    pairs = tuple(zip(trained[::2], trained[1::2], strict=True))
    trie, targets = examples()

    def run(lean):
        prefix = Prefix(layers=pairs)
        supervision = Supervision(decoder, targets, trie, prefix=prefix, lean=lean)
        return gradients(supervision, trained)

    plain, again = run(Lean()), run(Lean(checkpointing=True))
    assert all(float(gradient.abs().sum()) > 0 for gradient in plain[1])
    same(again[1], plain[1])
    assert again[2] < 0.5 * plain[2]


@pytest.mark.parametrize("opening", ["none", "shared", "cached"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_is_right_with_prefix_tuning(tiny_net, kind, opening):
    net = shaken(tiny_net(kind), PrefixTuning(tokens=6))
    tensors = list(parts.weights(net).values())
    plain = gradients(supervise(net, opening), tensors)
    again = gradients(supervise(net, opening, Lean(checkpointing=True)), tensors)
    assert any(float(gradient.abs().sum()) > 0 for gradient in plain[1])
    same(again[1], plain[1])
    assert again[2] < plain[2]


def test_a_net_without_such_blocks_is_refused():
    with pytest.raises(ModelError, match="E-MODEL-037"), recomputing(torch.nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_autograd_keeps_nothing_below_the_lowest_part(tiny_net, kind):
    net = tiny_net(kind)
    last = net.config.num_hidden_layers - 1
    whole = shaken(tiny_net(kind), Lora(rank=4))
    shaken(net, Lora(rank=4, layers=(last,)))
    assert (untouched(net), untouched(whole)) == (last, 0)
    seen = []
    blocks = net.base_model.h if kind == "gpt2" else net.base_model.layers
    for block in blocks[:last]:
        block.register_forward_hook(lambda module, given, out: seen.append(out.requires_grad))
    upper = gradients(supervise(net), list(parts.weights(net).values()))
    assert seen and not any(seen)
    everywhere = gradients(supervise(whole), list(parts.weights(whole).values()))
    assert upper[2] < (0.5 if last > 1 else 0.65) * everywhere[2]


def test_parts_outside_the_blocks_count_where_they_run(tiny_net):
    from sapwood.methods.bitfit import LayerNorm

    net = tiny_net("llama")
    Lora(rank=2, targets=("lm_head",)).attach(net)
    assert untouched(net) == 2
    LayerNorm().attach(net)
    assert untouched(net) == 0


def test_layers_that_do_not_exist_are_refused(tiny_net):
    with pytest.raises(ConfigError, match=r"block 7 has no target"):
        Lora(layers=(1, 7)).attach(tiny_net("llama"))


def losses(net, lean, opening="none", steps=9, count=18):
    """Train for three epochs; return the loss of every step and the supervision."""
    shaken(net, Lora(rank=4, layers=(net.config.num_hidden_layers - 1,)))
    supervision = supervise(net, opening, lean, count)
    recipe = Recipe(learning_rate=1e-2, batch_size=6, pack_tokens=120)
    optimiser = make_optimiser(list(parts.weights(net).values()), recipe)
    found = [step.loss for step in fit(supervision, optimiser, recipe, total=steps)]
    return found, supervision


def frozen(folder, **given):
    return Lean(cache="frozen", folder=folder, **given)


@pytest.mark.parametrize("opening", ["none", "shared", "cached"])
@pytest.mark.parametrize("kind", KINDS)
def test_kept_states_give_the_losses_of_the_whole_net(tiny_net, tmp_path, kind, opening):
    plain, _ = losses(tiny_net(kind), Lean(), opening)
    cold, first = losses(tiny_net(kind), frozen(tmp_path), opening)
    warm, second = losses(tiny_net(kind), frozen(tmp_path), opening)
    assert first.below.computed == len(list(tmp_path.glob("*.safetensors"))) > 0
    assert second.below.computed == 0
    assert cold == warm
    assert cold == pytest.approx(plain, abs=1e-5)


def test_checkpointing_goes_with_kept_states(tiny_net, tmp_path):
    cold, _ = losses(tiny_net("llama"), frozen(tmp_path))
    both, _ = losses(tiny_net("llama"), frozen(tmp_path, checkpointing=True))
    assert both == pytest.approx(cold, abs=1e-6)


def test_what_is_on_disk_changes_no_bit(tiny_net, tmp_path):
    """A damaged, a cut and a deleted file are computed again, and the run is told."""
    expected, _ = losses(tiny_net("llama"), frozen(tmp_path), count=120)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) >= 3
    flipped = bytearray(files[0].read_bytes())
    flipped[-5] ^= 1  # one bit of the states: the header still reads well
    files[0].write_bytes(flipped)
    files[1].write_bytes(files[1].read_bytes()[:-100])
    files[2].unlink()
    notes: list[str] = []
    found, again = losses(tiny_net("llama"), frozen(tmp_path, note=notes.append), count=120)
    assert found == expected
    assert again.below.computed == 3
    assert len(notes) == 2 and all("computed again" in note for note in notes)
    assert sorted(tmp_path.glob("*.safetensors")) == files


def test_the_bound_holds_and_rows_beyond_it_run_whole(tiny_net, tmp_path):
    plain, _ = losses(tiny_net("llama"), Lean(), count=120)
    width = 32 * 4
    bound = 1300 * width
    found, supervision = losses(tiny_net("llama"), frozen(tmp_path, cache_bytes=bound), count=120)
    assert 0 < supervision.below.rows < 120
    assert supervision.below.store.bytes() <= bound
    assert found == pytest.approx(plain, abs=1e-5)
    again, other = losses(tiny_net("llama"), frozen(tmp_path, cache_bytes=bound), count=120)
    assert again == found and other.below.computed == 0
    assert other.below.rows == supervision.below.rows


def test_older_files_make_room(tiny_net, tmp_path):
    bound = 1300 * 32 * 4
    _, first = losses(tiny_net("llama", seed=1), frozen(tmp_path, cache_bytes=bound), count=120)
    old = set(tmp_path.glob("*.safetensors"))
    _, second = losses(tiny_net("llama", seed=2), frozen(tmp_path, cache_bytes=bound), count=120)
    assert first.below.computed == second.below.computed == len(old) > 0
    assert old.isdisjoint(tmp_path.glob("*.safetensors"))


def test_other_weights_tokens_depth_or_contexts_have_other_files(tiny_net, tmp_path):
    seen: set[str] = set()
    for weights in ("one", "two"):
        for opening in ("none", "shared", "cached"):
            for layers in ((2,), (3,)):
                net = tiny_net("gemma3_text")
                shaken(net, Lora(rank=2, layers=layers))
                decoder = Decoder(net, weights_key=lambda weights=weights: weights)
                trie, targets = examples(6)
                given = {}
                if opening == "shared":
                    given = {"shared": OPENING}
                if opening == "cached":
                    given = {"prefix": decoder.encode(OPENING)}
                lean = frozen(tmp_path)
                supervision = Supervision(decoder, targets, trie, lean=lean, **given)
                list(supervision.losses(range(6), 500))
                now = {path.name for path in tmp_path.glob("*.safetensors")}
                assert now > seen
                seen = now


def test_upper_weights_do_not_change_the_files(tiny_net, tmp_path):
    for seed in (1, 2):
        net = shaken(tiny_net("llama"), Lora(rank=4, layers=(1,)), seed)
        supervision = supervise(net, lean=frozen(tmp_path))
        list(supervision.losses(range(6), 500))
        assert supervision.below.computed == (1 if seed == 1 else 0)


@pytest.mark.parametrize("case", ["all blocks", "head", "prefix"])
def test_a_cache_with_nothing_to_keep_is_refused(tiny_net, tmp_path, case):
    net = tiny_net("llama")
    decoder = Decoder(net)
    trie, targets = examples(3)
    prefix = NO_PREFIX
    if case == "prefix":
        shaken(net, Lora(rank=2, layers=(1,)))
        layers = tuple((k.clone().requires_grad_(), v) for k, v in decoder.encode(OPENING).layers)
        prefix = Prefix(layers=layers)
    else:
        targets_of = {"all blocks": ("all-linear",), "head": ("lm_head",)}[case]
        shaken(net, Lora(rank=2, targets=targets_of))
    why = {"all blocks": "first block", "head": "no block is trained", "prefix": "prefix"}[case]
    with pytest.raises(ConfigError, match=rf"E-CONFIG-039(.|\n)*{why}"):
        Supervision(decoder, targets, trie, prefix=prefix, lean=frozen(tmp_path))
    with pytest.raises(ConfigError, match="E-CONFIG-038"):
        Lean(cache="forzen")


def test_rows_with_branches_are_told_apart():
    from sapwood.models.frozen import _key

    plain = Row(ids=(1, 2, 3))
    assert _key(plain) != _key(Row(ids=(1, 2, 3), parents=(-1, 0, 0)))
    assert _key(plain) == _key(Row(ids=[1, 2, 3], wanted=(2,)))
