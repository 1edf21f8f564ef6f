"""Packed weights: how far they are from the base, and that training on them is exact."""

import sys

import pytest
import torch
from torch import nn

from sapwood.adaptation import BaseRef
from sapwood.errors import ConfigError, ModelError
from sapwood.launch import Runtime, choose_runtime
from sapwood.methods import parts
from sapwood.methods.dora import Dora
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.report import attached_report
from sapwood.methods.requantised import merge_rounded
from sapwood.models.decoder import Decoder
from sapwood.models.load import load_base
from sapwood.models.quantised import (
    FORMATS,
    Int4Matrix,
    Int8Matrix,
    PackedLayer,
    format_hash,
    quantise,
    weight_bytes,
)

IDS = torch.arange(20, 40)[None]
KINDS = ("llama", "gemma3_text", "gpt2")


def needs(form):
    if form == "int4":
        pytest.importorskip("bitsandbytes")


def unpacked(net, made):
    """Return a plain net, `made`, whose weights are the packed ones of `net`, rounded."""
    for path, module in net.named_modules():
        if isinstance(module, PackedLayer):
            made.get_submodule(path).weight.data = module.weight.clone()
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_within_half_a_step_of_every_weight(dtype):
    torch.manual_seed(0)
    weight = torch.randn(40, 64).to(dtype)
    weight[3] = 0
    weight[4] *= 1e-3
    packed = Int8Matrix(weight)
    found = packed.unpack()
    assert found.dtype is dtype and packed.bytes == 40 * 64 + 40 * dtype.itemsize
    step = weight.float().abs().amax(1, keepdim=True) / 127
    rounding = torch.finfo(dtype).eps * weight.float().abs()
    error = (found.float() - weight.float()).abs()
    assert bool((error <= 0.51 * step + rounding + step * 127 * torch.finfo(dtype).eps / 2).all())
    assert bool((found[3] == 0).all())
    assert torch.equal(Int8Matrix(found).numbers, packed.numbers)


def test_int4_takes_little_more_than_four_bits_a_weight():
    needs("int4")
    torch.manual_seed(0)
    weight = torch.randn(256, 512)
    packed = Int4Matrix(weight)
    assert packed.bytes * 8 / weight.numel() < 4.2
    assert float((packed.unpack() - weight).norm() / weight.norm()) < 0.1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_net_is_the_net_of_rounded_weights(tiny_net, kind, form):
    needs(form)
    net, plain = tiny_net(kind), tiny_net(kind)
    whole, before = net(IDS).logits, weight_bytes(net)
    count = quantise(net, form)
    assert count == sum(isinstance(m, PackedLayer) for m in net.modules()) > 0
    assert not isinstance(net.get_output_embeddings(), PackedLayer)
    assert weight_bytes(net) < before
    rounded = unpacked(net, plain)(IDS).logits
    torch.testing.assert_close(net(IDS).logits, rounded, atol=1e-4, rtol=1e-4)
    if form == "int8":
        assert float((rounded - whole).norm() / whole.norm()) < 0.05


@pytest.mark.parametrize("method", [Lora(rank=4), Dora(rank=4), Ia3()], ids=lambda m: m.name)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_methods_train_on_packed_weights_as_on_rounded_ones(tiny_net, kind, form, method):
    needs(form)
    net, plain = tiny_net(kind), tiny_net(kind)
    quantise(net, form)
    unpacked(net, plain)
    found = []
    for one in (net, plain):
        method.attach(one, seed=1)
        generator = torch.Generator().manual_seed(2)
        for tensor in parts.weights(one).values():
            tensor.data += 0.05 * torch.randn(tensor.shape, generator=generator)
        logits = one(IDS).logits
        logits.logsumexp(-1).sum().backward()
        found.append((logits, {n: t.grad for n, t in parts.weights(one).items()}))
    (packed, gradients), (expected, wanted) = found
    torch.testing.assert_close(packed, expected, atol=1e-4, rtol=1e-4)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-3, rtol=1e-3)
    assert parts.transposed(net) is (kind == "gpt2")


def test_gradients_pass_through_and_nothing_is_saved():
    torch.manual_seed(0)
    base = nn.Linear(32, 24).requires_grad_(False)
    net = nn.Sequential(base)
    quantise(net, "int8")
    x = torch.randn(2, 5, 32, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda tensor: tensor):
        out = net(x)
    assert saved == []
    grad = torch.randn_like(out)
    out.backward(grad)
    torch.testing.assert_close(x.grad, grad @ net[0].weight)
    torch.testing.assert_close(out, x @ net[0].weight.t() + base.bias)


def test_detaching_leaves_the_packed_base(tiny_net):
    net = tiny_net("llama")
    quantise(net, "int8")
    before = net(IDS).logits
    Lora(rank=2).attach(net)
    parts.detach(net)
    assert torch.equal(net(IDS).logits, before)


@pytest.mark.parametrize("method", [Lora(rank=4), Ia3()], ids=lambda m: m.name)
@pytest.mark.parametrize("kind", KINDS)
def test_merging_is_refused_and_leaves_all_as_it_was(tiny_net, kind, method):
    net = tiny_net(kind)
    quantise(net, "int8")
    method.attach(net)
    for tensor in parts.weights(net).values():
        tensor.data += 0.05
    before, count = net(IDS).logits, len(list(parts.parts(net)))
    with pytest.raises(ConfigError, match="E-CONFIG-037") as refused:
        parts.merge(net)
    assert "--weights full" in refused.value.fix
    assert len(list(parts.parts(net))) == count
    assert torch.equal(net(IDS).logits, before)


@pytest.mark.parametrize("method", [Lora(rank=4), Ia3()], ids=lambda m: m.name)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_forced_merge_is_measured(tiny_net, kind, form, method):
    needs(form)
    net = tiny_net(kind)
    quantise(net, form)
    plain = net(IDS).logits
    method.attach(net)
    generator = torch.Generator().manual_seed(2)
    for tensor in parts.weights(net).values():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    attached = net(IDS).logits.detach()
    change = merge_rounded(net, lambda: net(IDS).logits)
    after = net(IDS).logits
    assert not list(parts.parts(net))
    assert any(isinstance(m, PackedLayer) for m in net.modules())
    assert change.mean == pytest.approx(float((after - attached).abs().mean()), rel=1e-4)
    assert change.largest == pytest.approx(float((after - attached).abs().max()), rel=1e-4)
    assert change.trained == pytest.approx(float((attached - plain).abs().mean()), rel=1e-4)
    assert "Merging rounded" in change.line()
    if form == "int8":
        assert change.mean < 0.2 * change.trained


def test_a_forced_merge_refuses_before_it_changes_anything(tiny_net):
    from sapwood.methods.adapter import Adapter

    net = tiny_net("llama")
    quantise(net, "int8")
    Adapter().attach(net)
    before = net(IDS).logits
    with pytest.raises(ConfigError, match="E-CONFIG-023"):
        merge_rounded(net, lambda: net(IDS).logits)
    assert torch.equal(net(IDS).logits, before)


def test_the_format_is_part_of_the_identity(tiny_checkpoint):
    needs("int4")
    folder = str(tiny_checkpoint("llama"))
    seen = {}
    for form in ("full", *FORMATS):
        runtime = Runtime(device="cpu", dtype="float32", threads=1, weights=form)
        base = load_base(folder, runtime)
        decoder = Decoder(base.net, weights_key=lambda base=base: base.sha256)
        seen[form] = (base.sha256, decoder.stored_key([1, 2, 3]))
        assert len(base.sha256) == 64
        packed = any(isinstance(m, PackedLayer) for m in base.net.modules())
        assert packed is (form != "full")
    assert len({sha for sha, _ in seen.values()}) == len({key for _, key in seen.values()}) == 3
    assert seen["int8"][0] == format_hash(seen["full"][0], "int8")


def test_an_adaptation_of_packed_weights_finds_them_again(tiny_checkpoint):
    """What an adaptation says of its base decides; a base that is loaded otherwise is refused."""
    from sapwood.evaluation import Bases

    runtime = Runtime(device="cpu", dtype="float32", threads=1, weights="int8")
    reference = Bases(runtime).reference(str(tiny_checkpoint("llama")))
    assert isinstance(reference, BaseRef)
    full = Bases(Runtime(device="cpu", dtype="float32", threads=1))
    assert full.expect(reference).sha256 == reference.sha256
    full = Bases(Runtime(device="cpu", dtype="float32", threads=1))
    full.get(reference.name)
    with pytest.raises(ModelError, match="E-MODEL-050"):
        full.expect(reference)


def test_encoders_stay_in_full(tiny_checkpoint):
    runtime = Runtime(device="cpu", dtype="float32", threads=1, weights="int8")
    base = load_base(str(tiny_checkpoint("bert")), runtime)
    assert not any(isinstance(m, PackedLayer) for m in base.net.modules())
    assert base.sha256 == load_base(base.name, choose_runtime("cpu", "float32")).sha256


def test_unknown_formats_and_a_missing_library_say_what_to_do(tiny_net, monkeypatch):
    with pytest.raises(ConfigError, match="E-CONFIG-036"):
        quantise(tiny_net("llama"), "int3")
    with pytest.raises(ConfigError, match="E-CONFIG-010"):
        choose_runtime("cpu", "float32", "int3")
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    net = tiny_net("llama")
    with pytest.raises(ConfigError, match="E-CONFIG-036") as missing:
        quantise(net, "int4")
    assert "pip install 'sapwood[quantised]'" in missing.value.fix
    assert not any(isinstance(m, PackedLayer) for m in net.modules())


@pytest.mark.parametrize("form", ["full", *FORMATS])
def test_packed_parameters_count_as_the_base(tiny_net, form):
    needs(form)
    net = tiny_net("llama")
    total = sum(p.numel() for p in net.parameters())
    if form != "full":
        quantise(net, form)
    method = Lora(rank=2, layers=(1,))
    method.attach(net)
    report = attached_report(net, method)
    assert report["share"] == report["trainable"] / (report["trainable"] + total)
    assert report["unmoved"] == [] and report["blocks_without_gradient"] == 1
