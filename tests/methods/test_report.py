"""The report of what was attached, and whether it takes effect."""

import json

import pytest
import torch

from sapwood.methods import parts
from sapwood.methods.dora import Dora
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.report import attached_report, lines, unmoved


def test_it_counts_modules_parameters_and_bytes(tiny_net):
    net = tiny_net("llama")
    total = sum(p.numel() for p in net.parameters())
    method = Lora(rank=2, targets=("q_proj", "down_proj"), layers=(1,))
    method.attach(net)
    report = attached_report(net, method)
    count = sum(p.numel() for p in parts.weights(net).values())
    assert report["modules"] == {
        "model.layers.*.self_attn.q_proj": 1,
        "model.layers.*.mlp.down_proj": 1,
    }
    assert report["trainable"] == count and report["bytes"] == 4 * count
    assert report["share"] == count / (count + total)
    assert (report["blocks"], report["blocks_without_gradient"]) == (2, 1)
    assert report["unmoved"] == []
    assert json.loads(json.dumps(report)) == report
    (line,) = lines(report)
    assert f"{count:,} weights train" in line and "first 1 of 2 blocks" in line
    assert "q_proj (1)" in line


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "bert"])
@pytest.mark.parametrize("method", [Lora(rank=2), Dora(rank=2), Ia3()], ids=lambda m: m.name)
def test_every_part_moves_the_output_and_nothing_is_changed(tiny_net, kind, method):
    net = tiny_net(kind).train()
    method.attach(net, seed=1)
    before, state = parts.weights_key(net), torch.get_rng_state()
    assert unmoved(net) == []
    assert parts.weights_key(net) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(t.grad is None for t in parts.weights(net).values())
    assert all(module.training for module in net.modules())


def test_a_part_without_effect_is_named(tiny_net):
    net = tiny_net("llama")
    method = Lora(rank=2, targets=("q_proj",))
    method.attach(net)
    net.model.layers[1].self_attn.q_proj.enabled = False
    report = attached_report(net, method)
    assert report["unmoved"] == ["model.layers.1.self_attn.q_proj"]
    assert "1 parts do not move the output: model.layers.1.self_attn.q_proj" in lines(report)[1]
