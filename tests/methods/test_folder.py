"""Methods on disk in either layout: what is written where, what is refused, what stays whole."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sapwood.errors import ModelError
from sapwood.methods.adapter import Adapter
from sapwood.methods.bitfit import BitFit, LayerNorm
from sapwood.methods.dora import Dora
from sapwood.methods.folder import attach_trained, load_trained, read_method, write_method
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import parts, stored, transposed, weights
from sapwood.methods.peft_folder import export_peft
from sapwood.methods.peft_targets import Targets, names_for, our_pattern, targets_of, their_pattern
from sapwood.methods.vera import Vera
from sapwood.testing import tiny_net

IDS = torch.arange(20, 32)[None]
OWN, THEIRS = {"method.json", "method.safetensors"}, {
    "adapter_config.json", "adapter_model.safetensors",
}  # fmt: skip


def trained(kind, method):
    net = method.attach(tiny_net(kind))
    torch.manual_seed(1)
    for tensor in weights(net).values():
        torch.nn.init.normal_(tensor, mean=0.3, std=0.2)
    return net


def write(net, method, folder):
    write_method(stored(net), method, folder, base="tiny", transposed=transposed(net))


@pytest.mark.parametrize(
    ("method", "files"),
    [
        (Lora(rank=3), THEIRS),
        (Dora(rank=3), THEIRS),
        (Vera(rank=4), THEIRS),
        (Ia3(), THEIRS),
        (LayerNorm(), OWN),  # PEFT keeps whole tensors, which need the net
        (BitFit(), OWN),
        (Adapter(), OWN),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("kind", ["gpt2", "gemma3_text"])
def test_each_layout_gives_the_same_logits_and_tensors(kind, method, files, tmp_path):
    if isinstance(method, BitFit) and kind != "gpt2":
        return  # it has no biases
    net = trained(kind, method)
    write(net, method, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == files
    fresh = tiny_net(kind)
    loaded = load_trained(fresh, tmp_path)
    assert type(loaded) is type(method)
    torch.testing.assert_close(fresh(IDS).logits, net(IDS).logits, rtol=0, atol=1e-5)
    write(fresh, loaded, tmp_path / "again")
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_trained_tensors_that_peft_lacks_keep_the_method_in_our_layout(tmp_path):
    net = trained("llama", Lora(rank=3))
    tensors = {**stored(net), "model.layers.0.mlp.up_proj.gate.weight": torch.ones(1, 32)}
    write_method(tensors, Lora(rank=3), tmp_path, base="tiny", transposed=False)
    assert {path.name for path in tmp_path.iterdir()} == OWN


def test_norms_from_peft_need_no_net_until_they_are_attached(tmp_path):
    net = trained("llama", LayerNorm())
    export_peft(net, LayerNorm(), tmp_path / "a", base="tiny")
    method, tensors = read_method(tmp_path / "a")
    assert method == LayerNorm()
    assert all(name.endswith(".weight") for name in tensors)
    write_method(tensors, method, tmp_path / "b", base="tiny", transposed=False)
    first, again = (load_file(tmp_path / f / "adapter_model.safetensors") for f in "ab")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    fresh = tiny_net("llama")
    attach_trained(fresh, method, tensors, where="here")
    torch.testing.assert_close(fresh(IDS).logits, net(IDS).logits, rtol=0, atol=1e-5)


def test_norms_that_a_file_leaves_out_stay_those_of_the_base(tmp_path):
    net = trained("llama", LayerNorm())
    with torch.no_grad():
        for name, tensor in weights(net).items():
            if "layers.0" in name:
                tensor.zero_()
    export_peft(net, LayerNorm(), tmp_path, base="tiny")
    assert not [n for n in load_file(tmp_path / "adapter_model.safetensors") if "layers.0" in n]
    fresh = tiny_net("llama")
    load_trained(fresh, tmp_path)
    torch.testing.assert_close(fresh(IDS).logits, net(IDS).logits, rtol=0, atol=1e-5)
    still = [t for name, t in weights(fresh).items() if "layers.0" in name]
    assert still and not any(bool(t.any()) for t in still)


def test_norms_of_a_base_in_bfloat16_come_back_bit_for_bit(tmp_path):
    base = tiny_net("llama").bfloat16()
    before = {n: p.clone() for n, p in base.named_parameters() if "norm" in n}
    net = LayerNorm().attach(base)
    for tensor in weights(net).values():
        torch.nn.init.normal_(tensor, std=0.3)
    export_peft(net, LayerNorm(), tmp_path, base="tiny")
    fresh = tiny_net("llama").bfloat16()
    load_trained(fresh, tmp_path)
    assert torch.equal(fresh(IDS).logits, net(IDS).logits)
    assert all(torch.equal(fresh.get_parameter(n.replace("weight", "base_layer.weight")), p)
               for n, p in before.items())  # fmt: skip


def test_a_load_that_fails_leaves_earlier_parts_alone(tmp_path):
    small = trained("llama", Ia3())
    write(small, Ia3(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, file)
    net = trained("llama", Lora(rank=3))
    expected, count = net(IDS).logits, len(list(parts(net)))
    with pytest.raises(ModelError) as caught:
        load_trained(net, tmp_path)
    assert caught.value.code == "E-MODEL-023"
    assert len(list(parts(net))) == count
    assert torch.equal(net(IDS).logits, expected)


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("{", "E-MODEL-021", "cannot be read"),
        ('{"name": "adapter"}', "E-MODEL-021", "'settings'"),
        (json.dumps({"name": "adapter", "settings": {"of_tomorrow": 1}}), "E-MODEL-022",
         "has no setting of_tomorrow"),
    ],
)  # fmt: skip
def test_a_broken_folder_of_ours_is_refused(content, code, message, tmp_path):
    (tmp_path / "method.json").write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_method(tmp_path)
    assert caught.value.code == code


def test_layers_are_counted_as_peft_counts_them():
    experts = "model.layers.1.experts.0.up"
    assert Targets(modules=("up",), layers=(1,)).match(experts)
    assert not Targets(modules=("up",), layers=(0,)).match(experts)
    assert Targets(modules=("up",), layers=(0,), lists=("experts",)).match(experts)
    assert not Targets(modules=("up",), layers=(1,)).match("layers.1.up")  # wants a name before
    assert Targets(modules=("up",), layers=(1,), lists=("layers",)).match("layers.1.up")
    assert Targets(modules=(experts,), layers=(5,)).match(experts)  # a whole path wins
    whole = targets_of({"target_modules": ["up"], "layers_to_transform": 0})
    assert whole.layers == (0,) and not whole.plain
    assert targets_of({"target_modules": ["up"], "layers_to_transform": []}).plain


def test_patterns_say_the_same_in_both_languages():
    paths = ["model.layers.0.up", "model.layers.1.up", "model.layers.10.up"]
    assert our_pattern({"up": 3, "never": 1}, paths) == {"up": 3}
    assert our_pattern({r"layers\.1\..*": 3}, paths) == {"model.layers.1.up": 3}
    assert our_pattern({r"^model.*\.1.*up": 3}, paths) == {
        "model.layers.10.up": 3, "model.layers.1.up": 3,
    }  # fmt: skip
    assert their_pattern({"layers.1.up": 3, "up": 4}, paths) == {"layers.1.up": 3, "up": 4}
    # Sorted, "a.up" would come after "1.up" that hides it.
    shadowed = {"layers.1.up": 3, "1.up": 4}
    made = their_pattern(shadowed, paths)
    assert made == {"model.layers.1.up": 3}
    assert their_pattern({"m.up": 2}, ["m.up", "mxup"]) == {r"^m\.up": 2}


def test_names_are_short_where_the_net_shows_that_they_mean_the_same():
    net = tiny_net("llama")
    paths = [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    assert names_for(("query",), paths, net) == ["q_proj"]
    assert names_for(("query",), paths) == paths
    assert names_for(("q_proj",), paths) == ["q_proj"]
    assert names_for(("query",), paths[:1], net) == paths[:1]
