"""Every method on every kind of net: it keeps its promises, or it is refused with a reason."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import ConfigError
from sapwood.methods import METHODS
from sapwood.methods.adapter import Adapter
from sapwood.methods.compacter import Compacter
from sapwood.methods.dora import Dora
from sapwood.methods.full import Full
from sapwood.methods.fusion import Fusion
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.p_tuning import PTuning
from sapwood.methods.parts import stored, weights
from sapwood.methods.prefix_tuning import Prefix
from sapwood.methods.prompt import Prompt, virtual_ids
from sapwood.methods.reft import Reft
from sapwood.methods.together import Together
from sapwood.methods.vera import Vera
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.registry import resolve
from sapwood.testing import EVERY_KIND, KINDS, check_method, run_tiny, tiny_net
from sapwood.training import Recipe, Supervision, fit, make_optimiser, target

# Settings that fit nets of hidden size 32; a method that is not here is taken as it comes.
SMALL = {
    "lora": Lora(rank=2),
    "dora": Dora(rank=2),
    "vera": Vera(rank=8),
    "adapter": Adapter(width=8),
    "compacter": Compacter(width=8, placement="pfeiffer"),
    "reft": Reft(rank=2),
    "prompt": Prompt(tokens=3),
    "p_tuning": PTuning(tokens=3, width=8),
    "prefix": Prefix(tokens=3),
    "fusion": Fusion(members=(Adapter(width=4), Adapter(width=8, activation="gelu"))),
    "together": Together(methods=(Lora(rank=2), Adapter(width=8)), gated=True),
}
# What makes no sense, and why.
REFUSED = {
    **{
        ("hub-adapter", kind): "places in a net of the '" + kind + "' kind are not known"
        for kind in ("qwen2", "qwen3", "gemma3_text", "t5", "xlnet")
    },
    **{("bitfit", kind): "has no biases" for kind in ("llama", "qwen3", "gemma3_text", "t5")},
    ("ia3", "xlnet"): "'xlnet' kind has no place 'key': it has no such layer",
    ("prefix", "t5"): "cannot have a trained prefix: its encoder and its decoder would each need",
    ("prefix", "xlnet"): "cannot have a trained prefix: its attention reads a memory",
}
CHANGED_AT_START = ("prompt", "p_tuning", "prefix")
MERGES = ("lora", "dora", "vera", "ia3", "bitfit", "layernorm", "full")
# XLNet reads its mask embedding only while it predicts in permuted order.
IDLE = ("mask_emb",)


def method_of(name):
    return SMALL.get(name) or resolve("method", METHODS, name)()


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_its_promises_or_is_refused(name, kind):
    net, method = tiny_net(kind), method_of(name)
    if (name, kind) in REFUSED:
        before = [path for path, _ in net.named_modules()]
        with pytest.raises(ConfigError) as caught:
            method.attach(net)
        assert REFUSED[name, kind] in str(caught.value)
        assert [path for path, _ in net.named_modules()] == before
        return
    unchanged = name not in CHANGED_AT_START
    found = check_method(method, net, run_tiny, starts_unchanged=unchanged, idle=IDLE)
    assert found.merges == (name in MERGES)
    assert found.packed == (kind in KINDS)
    large = ("full", "fusion")  # fusion trains three whole matrices a place, whatever the adapters
    assert found.trained < 0.25 * sum(p.numel() for p in net.parameters()) or name in large
    assert found.saved_bytes <= 2.0


def test_a_method_that_breaks_a_promise_is_told():
    class Loose(Lora):
        """A LoRA that forgets to freeze a tensor of the base."""

        def attach(self, net, *, seed=0):
            super().attach(net, seed=seed)
            net.model.norm.weight.requires_grad_(True)
            return net

    with pytest.raises(AssertionError, match=r"model\.norm\.weight takes a gradient and is in no"):
        check_method(Loose(), tiny_net("llama"), run_tiny)

    class Random(Adapter):
        """An adapter that starts from whatever state the generator has."""

        def attach(self, net, *, seed=0):
            super().attach(net, seed=int(torch.randint(1000, ())))
            return net

    with pytest.raises(AssertionError, match="changes the state of torch's generator"):
        check_method(Random(), tiny_net("llama"), run_tiny)
    with pytest.raises(AssertionError, match="at its start: outputs differ"):
        check_method(Prompt(tokens=2), tiny_net("bert"), run_tiny)


# The whole of what autograd keeps of q, k and v over one shared input of (512, 1024), in inputs.
# DoRA keeps the three outputs for its magnitudes, IA3 those of k and v, which the attention keeps
# anyway; VeRA's ranks are many by design, here 16 as for the others.
KEPT = [(Lora(rank=16), 1.1), (Vera(rank=16), 1.1), (Dora(rank=16), 4.1), (Ia3(inputs=()), 2.0)]


class Projections(nn.Module):
    """Query, key and value layers of a Llama block, and nothing else."""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"model_type": "llama"})()
        self.self_attn = nn.Module()
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self.self_attn, name, nn.Linear(1024, 1024, bias=False).bfloat16())


@pytest.mark.parametrize(("method", "bound"), KEPT, ids=lambda x: getattr(x, "name", ""))
def test_what_autograd_keeps_of_q_k_v(method, bound):
    net = method.attach(Projections())
    x = torch.randn(512, 1024, dtype=torch.bfloat16, requires_grad=True)
    held = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in held and tensor.numel() > 16 * 1024:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outs = [layer(x) for layer in net.self_attn.children()]
    assert sum(kept.values()) <= bound * x.numel() * x.element_size()
    sum(out.float().sum() for out in outs).backward()


@pytest.mark.parametrize("name", METHODS)
def test_training_resumed_by_the_loop_equals_undisturbed_training(name, tmp_path):
    if (name, "llama") in REFUSED:
        pytest.skip("refused on this kind")
    rows = np.random.default_rng(0).integers(20, 280, (12, 6)).tolist()
    trie = build_trie([[5], [6, 7]])
    recipe = Recipe(learning_rate=1e-2, batch_size=4, epochs=2.0)

    def begin():
        net = tiny_net("llama")
        method_of(name).attach(net)
        decoder = Decoder(net)
        front = virtual_ids(net)
        targets = [target([*front, *row], n % 2, trie) for n, row in enumerate(rows)]
        own = weights(net)
        return net, Supervision(decoder, targets, trie), make_optimiser([*own.values()], recipe)

    net, lesson, optimiser = begin()
    losses = [step.loss for step in fit(lesson, optimiser, recipe, total=6)]
    other, lesson, optimiser = begin()
    for step in fit(lesson, optimiser, recipe, total=6):
        if step.number == 3:
            save_checkpoint(tmp_path, step=3, weights=weights(other), optimiser=optimiser, extra={})
            break
    other, lesson, optimiser = begin()
    load_checkpoint(tmp_path, weights=weights(other), optimiser=optimiser)
    rest = [step.loss for step in fit(lesson, optimiser, recipe, total=6, first=4)]
    assert rest == losses[3:]
    for path, tensor in stored(net).items():
        assert torch.equal(tensor, stored(other)[path]), path


WRONG = {
    "rank": st.integers(max_value=0),
    "width": st.integers(max_value=0),
    "tokens": st.integers(max_value=0),
    "parts": st.integers(max_value=0),
    "alpha": st.floats(max_value=0.0, allow_nan=False),
    "dropout": st.floats(min_value=1.0, allow_nan=False) | st.floats(max_value=-1e-9),
    "plus": st.floats(max_value=0.999, allow_nan=False),
    "placement": st.text("abc", max_size=4),
    "activation": st.text("xyz", max_size=4),
    "positions": st.sampled_from(["", "f0", "x3", "f2+", "f1-l1", "last"]),
    "rank_pattern": st.dictionaries(st.just("q_proj"), st.integers(max_value=0), min_size=1),
}
CHECKED = [SMALL[n] for n in ("lora", "dora", "vera", "adapter", "compacter", "reft", "prompt")]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_all_that_is_out_of_range_is_named_at_once(data):
    method = data.draw(st.sampled_from(CHECKED))
    known = [field.name for field in fields(method) if field.name in WRONG]
    chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
    with pytest.raises(ConfigError) as caught:
        replace(method, **{name: data.draw(WRONG[name], label=name) for name in chosen})
    assert caught.value.code == "E-CONFIG-020"
    said = str(caught.value)
    words = {"rank_pattern": "rank of q_proj"}
    assert [n for n in chosen if words.get(n, n) not in said] == []


def test_a_table_line_is_a_method_of_that_name():
    for name in METHODS:
        assert resolve("method", METHODS, name).name == name
    assert isinstance(method_of("full"), Full)
