"""What vLLM, llama.cpp and PEFT make of folders, and plain LoRAs folded out of the rest."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.dora import Dora
from sapwood.methods.folder import load_trained, write_method
from sapwood.methods.folding import (
    as_folder,
    fold,
    fold_parts,
    total_loss,
    write_folder,
)
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import stored, transposed, weights
from sapwood.methods.portable import BaseFacts, Shipped, consult, read_folder
from sapwood.methods.vera import Vera
from sapwood.testing import tiny_net

IDS = torch.arange(20, 32)[None]
PLAIN = ("llama", "qwen2", "qwen3", "gemma3_text")
UP = "model.layers.1.mlp.up_proj"


def trained(method, kind="llama"):
    """Return a net with a method on it, all its tensors random."""
    net = tiny_net(kind)
    method.attach(net, seed=1)
    torch.manual_seed(1)
    for name, tensor in weights(net).items():
        std = 0.1 * float(tensor.detach().abs().mean()) if "magnitude" in name else 0.1
        with torch.no_grad():
            tensor += std * torch.randn_like(tensor)
    return net


def written(net, method, folder):
    """Write a method and return the folder as a consumer finds it."""
    write_method(stored(net), method, folder, base="tiny", transposed=transposed(net))
    return read_folder(folder)


def added(branches, kind):
    """Return the logits of a plain net with what a consumer adds."""
    net = tiny_net(kind)
    with torch.no_grad():
        for path, branch in branches.items():
            module = net.get_submodule(path)
            delta = branch.delta()
            module.weight += delta if isinstance(module, nn.Linear) else delta.t()
    return net(IDS).logits


def effects(reading):
    return {(f.effect, f.what) for f in reading.findings if f.effect != "note"}


def changed(shipped, **config):
    return Shipped(config={**shipped.config, **config}, tensors=shipped.tensors)


@pytest.mark.parametrize("consumer", ["vllm", "llamacpp", "peft"])
@pytest.mark.parametrize("kind", PLAIN)
def test_a_lora_written_here_is_read_exactly_by_all_three(kind, consumer, tmp_path):
    method = Lora(rank=4, alpha=6.0)
    net = trained(method, kind)
    reading = consult(written(net, method, tmp_path), consumer, BaseFacts(kind=kind))
    assert reading.exact, reading.findings
    torch.testing.assert_close(added(reading.branches, kind), net(IDS).logits, rtol=0, atol=3e-4)
    assert len(reading.branches) == len(weights(net)) / 2


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (Lora(rank=4, rslora=True), {"llamacpp"}),
        (Lora(rank=4, alpha_pattern={"up_proj": 3.0}), {"vllm", "llamacpp"}),
        (Lora(rank=4, rank_pattern={"up_proj": 2}), {"vllm"}),
        (Lora(rank=4, rslora=True, rank_pattern={UP: 2}), {"vllm", "llamacpp"}),
    ],
)
def test_scales_that_are_ignored_are_found_and_baked(method, wrong, tmp_path):
    net = trained(method)
    shipped = written(net, method, tmp_path / "own")
    for consumer in ("vllm", "llamacpp", "peft"):
        reading = consult(shipped, consumer, BaseFacts(kind="llama"))
        assert reading.exact is (consumer not in wrong)
        if consumer in wrong:
            assert {f.effect for f in reading.findings} == {"ignored"}
            assert "--fold OUT" in reading.findings[0].cure
    merged = fold(shipped)
    assert set(merged.lost.values()) == {0.0}
    write_folder(as_folder(merged, shipped.config), tmp_path / "folded")
    again = read_folder(tmp_path / "folded")
    assert (again.config["r"], again.config["lora_alpha"]) == (4, 4)
    for consumer in ("vllm", "llamacpp", "peft"):
        reading = consult(again, consumer, BaseFacts(kind="llama"))
        assert reading.exact, reading.findings
        same = added(reading.branches, "llama")
        torch.testing.assert_close(same, net(IDS).logits, rtol=0, atol=3e-4)
    fresh = tiny_net("llama")
    load_trained(fresh, tmp_path / "folded")
    torch.testing.assert_close(fresh(IDS).logits, net(IDS).logits, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # peft's own
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dora", [False, True])
def test_a_folder_of_pefts_is_folded_to_the_same_logits(kind, dora, tmp_path):
    peft = pytest.importorskip("peft", reason="peft comes with the dev extra")
    first = "mlp.c_fc" if kind == "gpt2" else "mlp.up_proj"
    net = peft.get_peft_model(
        tiny_net(kind),
        peft.LoraConfig(
            r=3, lora_alpha=5, target_modules="all-linear", use_rslora=True, use_dora=dora,
            rank_pattern={first: 5}, alpha_pattern={rf".*\.1\.{first}": 2},
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    for name, tensor in net.named_parameters():
        if "lora_" in name:
            noise = 0.1 * torch.randn_like(tensor)
            tensor.data = tensor.data * (1 + noise) if "magnitude" in name else noise
    net.eval().save_pretrained(tmp_path / "theirs")
    shipped = read_folder(tmp_path / "theirs")
    assert consult(shipped, "peft").exact
    base = tiny_net(kind)

    def weight(path):
        held = base.get_submodule(path).weight
        return held.t() if kind == "gpt2" else held

    merged = fold(shipped, weight=weight, rank=128 if dora else None)
    write_folder(as_folder(merged, shipped.config), tmp_path / "folded")
    again = peft.PeftModel.from_pretrained(tiny_net(kind), tmp_path / "folded")
    torch.testing.assert_close(again(IDS).logits, net(IDS).logits, rtol=0, atol=3e-4)
    assert total_loss(merged) < 1e-5
    if dora:
        less = fold(shipped, weight=weight)
        path = next(iter(less.branches))
        branch = less.branches[path]
        assert branch.rank == 5
        full = merged.branches[path].delta()
        lost = float((full - branch.delta()).norm() / full.norm())
        assert less.lost[path] == pytest.approx(lost, abs=1e-4)
        assert 0.05 < total_loss(less) < 1
        with pytest.raises(ConfigError, match="folding it needs them"):
            fold(shipped)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "method",
    [Dora(rank=2), Vera(rank=6), Ia3(targets=("ff-out",), inputs=())],
    ids=lambda method: method.name,
)
def test_attached_methods_fold_exactly_at_full_rank_and_say_what_less_loses(method, kind, tmp_path):
    if kind == "gpt2" and method.name == "ia3":  # it scales the biases too
        with pytest.raises(ModelError, match="Ia3Layer changes more than one weight"):
            fold_parts(trained(method, kind))
        return
    net = trained(method, kind)
    before = net(IDS).logits
    merged = fold_parts(net, rank=64)
    assert total_loss(merged) < 1e-5
    config = {"fan_in_fan_out": kind == "gpt2", "base_model_name_or_path": "tiny"}
    write_folder(as_folder(merged, config), tmp_path / "folded")
    fresh = tiny_net(kind)
    load_trained(fresh, tmp_path / "folded")
    torch.testing.assert_close(fresh(IDS).logits, before, rtol=0, atol=5e-4)
    less = fold_parts(net)
    assert total_loss(less) > 0.05 or method.name == "vera"
    assert torch.equal(net(IDS).logits, before)


def test_dora_within_its_stated_error(tmp_path):
    method = Dora(rank=2)
    net = trained(method)
    plain, full = tiny_net("llama")(IDS).logits, net(IDS).logits.detach()
    errors = []
    for rank in (2, 8, 16, 24, 32):
        merged = fold_parts(net, rank=rank)
        off = float((added(merged.branches, "llama") - full).norm() / (plain - full).norm())
        errors.append((total_loss(merged), off))
    stated, seen = zip(*errors, strict=True)
    assert list(stated) == sorted(stated, reverse=True)
    assert stated[0] > 0.3
    assert stated[-1] < 1e-5
    assert all(off < 2.5 * said + 1e-4 for said, off in errors), errors
    assert seen[-1] < 1e-3


@pytest.mark.parametrize(
    ("config", "consumer", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, "vllm", "modules_to_save is ['lm_head']"),
        ({"use_dora": True}, "vllm", "use_dora is true"),
        ({"use_dora": True}, "llamacpp", "DoRA's magnitudes"),
        ({"use_dora": True}, "peft", "has no magnitude"),
        ({"bias": "lora_only"}, "vllm", "bias is 'lora_only'"),
        ({"peft_type": "IA3"}, "vllm", "serves LoRA only"),
        ({"peft_type": "IA5"}, "peft", "which PEFT 0.21 lacks"),
        ({"r": None}, "vllm", "lacks r"),
        ({"lora_alpha": None}, "llamacpp", "lacks lora_alpha"),
        ({"fan_in_fan_out": True}, "llamacpp", "transposes GPT-2's layers"),
        ({"fan_in_fan_out": True}, "vllm", "takes no LoRA there"),
        ({"alora_invocation_tokens": [1]}, "vllm", "alora_invocation_tokens is set"),
        ({"layer_replication": [[0, 2]]}, "llamacpp", "layer_replication is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "vllm", "training began from a changed base"),
        ({"target_modules": ["q_proj"]}, "peft", "is not among target_modules"),
        ({"r": 9}, "peft", "rank 4 in the file, 9 in adapter_config.json"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_settings_that_do_not_come_through(config, consumer, words, tmp_path):
    method = Lora(rank=4)
    shipped = written(trained(method), method, tmp_path)
    assert consult(shipped, consumer).exact
    reading = consult(changed(shipped, **config), consumer)
    assert not reading.exact
    assert any(words in f.what for f in reading.findings), reading.findings


def test_llamacpp_takes_invocation_tokens(tmp_path):
    method = Lora(rank=4)
    shipped = written(trained(method), method, tmp_path)
    assert consult(changed(shipped, alora_invocation_tokens=[1]), "llamacpp").exact


@pytest.mark.parametrize(
    ("name", "vllm", "llamacpp"),
    [
        ("model.lm_head.weight", "no LoRA weight it knows", "is no low-rank factor"),
        ("model.norm.weight", "no LoRA weight it knows", "normalisation weights"),
        ("x.q_proj.lora_B.bias", "no LoRA weight it knows", "is no low-rank factor"),
        ("x.token_adapter.trainable_tokens_delta", "no LoRA weight", "is no low-rank factor"),
        ("model.layers.0.self_attn.q_proj.base_layer.bias", "no LoRA weight", "no low-rank factor"),
        ("model.embed_tokens.base_layer.weight", "", ""),
        ("model.layers.0.mlp.strange.lora_A.weight", "is no layer of its llama", "no name in GGUF"),
        ("layers.0.self_attn.q_proj.lora_A.weight", "names no layer there", "has lora_A only"),
        ("model.embed_tokens.lora_embedding_A", "is for 7 tokens, the base has 300", "lora_A only"),
        ("lm_head.lora_A.weight", "lm_head has lora_A only", "ties it to its embedding"),
        ("prompt_embeddings", "no LoRA weight it knows", "is no low-rank factor"),
    ],
)
def test_tensors_that_do_not_come_through(name, vllm, llamacpp, tmp_path):
    method = Lora(rank=4)
    shipped = written(trained(method), method, tmp_path)
    tensors = {**shipped.tensors, "base_model.model." + name: torch.ones(4, 7)}
    given = Shipped(config=shipped.config, tensors=tensors)
    base = BaseFacts(kind="llama", tied=True, vocabulary=300)
    for consumer, words in (("vllm", vllm), ("llamacpp", llamacpp)):
        reading = consult(given, consumer, base)
        assert reading.exact is not bool(words)
        assert any(words in f.what for f in reading.findings) or not words, reading.findings


def test_gpt2_goes_to_neither(tmp_path):
    method = Lora(rank=4)
    shipped = written(trained(method, "gpt2"), method, tmp_path)
    assert consult(shipped, "peft").exact
    assert effects(consult(shipped, "vllm", BaseFacts(kind="gpt2"))) >= {
        ("refused", "the base is gpt2, which takes no LoRA there")
    }
    assert not consult(shipped, "llamacpp").exact


def test_ranks_that_vllm_must_be_told_and_those_it_cannot_take(tmp_path):
    for rank, words in ((16, None), (20, "--max-lora-rank 32"), (513, "above its largest, 512")):
        method = Lora(rank=rank, targets=("up_proj",))
        shipped = written(trained(method), method, tmp_path / str(rank))
        reading = consult(shipped, "vllm", BaseFacts(kind="llama"))
        assert reading.exact is (rank <= 512)
        assert [f for f in reading.findings if words and words in f.what] or not words
    merged = fold(shipped, rank=32)  # the layer is 64 x 32: nothing is lost
    assert total_loss(merged) < 1e-5
    assert merged.rank == 32


def test_what_cannot_be_folded_is_refused_with_all_reasons(tmp_path):
    method = Lora(rank=4)
    shipped = written(trained(method), method, tmp_path)
    tensors = {**shipped.tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}
    config = {**shipped.config, "bias": "all", "modules_to_save": ["lm_head"]}
    with pytest.raises(ModelError) as caught:
        fold(Shipped(config=config, tensors=tensors))
    for words in ("modules_to_save is set", "bias is 'all'", "lm_head.weight is no factor"):
        assert words in str(caught.value)
    with pytest.raises(ModelError, match="not a linear change"):
        fold_parts(tiny_net("llama"))


def test_only_safetensors_are_opened(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    (tmp_path / "adapter_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(ModelError, match="a pickle can run any code"):
        read_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"config": {}, "name": "x"}))
    with pytest.raises(ModelError, match="AdapterHub folder"):
        read_folder(tmp_path)


def test_a_fold_replaces_nothing_else(tmp_path):
    method = Lora(rank=4)
    shipped = written(trained(method), method, tmp_path / "own")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match="would be replaced"):
        write_folder(shipped, tmp_path / "mine")
    for _ in range(2):
        write_folder(as_folder(fold(shipped), shipped.config), tmp_path / "folded")
    held = load_file(tmp_path / "folded" / "adapter_model.safetensors")
    assert set(held) == set(shipped.tensors)


def test_a_factor_alone_is_refused_by_all(tmp_path):
    method = Lora(rank=4)
    written(trained(method), method, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[f"base_model.model.{UP}.lora_B.weight"]
    save_file(tensors, file)
    for consumer in ("vllm", "llamacpp", "peft"):
        found = effects(consult(read_folder(tmp_path), consumer))
        assert ("refused", f"{UP} has lora_A only") in found
