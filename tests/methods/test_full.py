"""Full fine-tuning: the base trains in place and comes back bit for bit."""

import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.methods.full import Full
from sapwood.methods.lora import Lora
from sapwood.methods.parts import detach, disabled, parts, stored, weights
from sapwood.testing import run_tiny, tiny_net


def train(net, steps=2):
    optimiser = torch.optim.AdamW(weights(net).values(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        run_tiny(net).square().mean().backward()
        optimiser.step()


def test_every_tensor_trains_and_the_bits_come_back():
    net = tiny_net("gemma3_text")
    before = {n: p.clone() for n, p in net.named_parameters()}
    Full().attach(net)
    assert len(weights(net)) == len(before)
    train(net)
    assert all(not torch.equal(p, before[n]) for n, p in net.named_parameters())
    detach(net)
    after = dict(net.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(p, before[n]) and not p.requires_grad for n, p in after.items())


def test_tied_embeddings_stay_tied():
    net = tiny_net("gpt2")
    table, head = net.get_input_embeddings(), net.get_output_embeddings()
    assert table.weight is head.weight
    Full().attach(net)
    assert [n for n in weights(net) if "wte" in n or "lm_head" in n] == [
        "full_tuning.transformer.wte.weight"
    ]
    train(net)
    assert table.weight is head.weight
    with disabled(net):
        assert table.weight.data_ptr() == head.weight.data_ptr()
    detach(net)
    assert table.weight is head.weight


def test_switched_off_the_originals_act_without_a_copy():
    net = tiny_net("llama")
    before, where = run_tiny(net), net.model.norm.weight.data_ptr()
    Full().attach(net)
    train(net)
    trained = run_tiny(net)
    with disabled(net):
        assert torch.equal(run_tiny(net), before)
        assert net.model.norm.weight.data_ptr() == where
        kept = stored(net)
    assert torch.equal(run_tiny(net), trained)
    assert all(torch.equal(kept[name], tensor) for name, tensor in stored(net).items())


def test_merged_the_trained_tensors_stay():
    net = tiny_net("llama")
    Full().attach(net)
    train(net)
    wanted = run_tiny(net)
    method = Full()
    method.merge(net)
    assert not list(parts(net))
    assert torch.equal(run_tiny(net), wanted)


def test_named_tensors_and_what_matches_nothing():
    net = Full(tensors=("layers.1.mlp", "norm.weight")).attach(tiny_net("llama"))
    assert set(weights(net)) == {
        f"full_tuning.model.{name}.weight"
        for name in ("norm", *(f"layers.1.mlp.{p}_proj" for p in ("gate", "up", "down")))
    }
    with pytest.raises(ConfigError) as caught:
        Full(tensors=("lm_heed", "norm.weight", "nothing")).attach(tiny_net("llama"))
    assert "'lm_heed' matches no tensor" in str(caught.value)
    assert "'nothing' matches no tensor" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_a_coarse_format_is_refused(dtype):
    net = tiny_net("llama").to(dtype)
    with pytest.raises(ConfigError) as caught:
        Full().attach(net)
    assert caught.value.code == "E-CONFIG-094"
    assert "--dtype float32" in str(caught.value)
    assert not list(parts(net))


def test_low_rank_branches_and_trained_weights_refuse_each_other():
    """A branch reads its weight past autograd: it would stay as it is, and nobody would know."""
    net = Lora(rank=2, targets=("q_proj",)).attach(tiny_net("llama"))
    with pytest.raises(ConfigError, match="2 of the tensors are read by low-rank branches"):
        Full().attach(net)
    Full(tensors=("norm",)).attach(net)
    with pytest.raises(ConfigError, match="train already"):
        Full(tensors=("embed_tokens",)).attach(net)
    net = Full(tensors=("q_proj",)).attach(tiny_net("llama"))
    with pytest.raises(ConfigError, match="or their weights train"):
        Lora(rank=2).attach(net)
    Lora(rank=2, targets=("v_proj",)).attach(net)
    run_tiny(net).square().mean().backward()
    assert all(t.grad is not None for t in weights(net).values())
