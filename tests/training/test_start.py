"""LoRA that starts from its inputs (EVA): the directions are those of the training rows."""

from __future__ import annotations

import torch

from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.testing import tiny_net
from sapwood.training import Supervision, started, target


def supervision(net) -> Supervision:
    trie = build_trie([[10, 11], [20]])
    targets = [target([5 + n, 7, 9, 30 + n], n % 2, trie) for n in range(24)]
    return Supervision(Decoder(net), targets, trie)


def test_a_starts_in_the_directions_of_its_inputs_and_nothing_moves():
    net = tiny_net("llama")
    Lora(rank=4, start="eva").attach(net)
    lossy = supervision(net)
    before = [float(part.detach()) for part, _ in lossy.losses(range(24), 4096)]
    drawn = {name: tensor.clone() for name, tensor in parts.weights(net).items()}
    seen = {}
    layer = net.model.layers[1].self_attn.q_proj
    hook = layer.register_forward_pre_hook(lambda _, given: seen.update(x=given[0].detach()))
    started(net, lossy)
    hook.remove()
    assert [float(part.detach()) for part, _ in lossy.losses(range(24), 4096)] == before
    _, _, right = torch.linalg.svd(seen["x"].flatten(0, -2), full_matrices=False)
    found = layer.lora_A
    torch.testing.assert_close(found @ found.t(), torch.eye(4), rtol=0, atol=1e-5)
    overlap = torch.linalg.svdvals(found @ right[:4].t())
    torch.testing.assert_close(overlap, torch.ones(4), rtol=0, atol=1e-3)
    for name, tensor in parts.weights(net).items():
        assert torch.equal(tensor, drawn[name]) == name.endswith("lora_B.weight")


def test_other_starts_look_at_nothing():
    net = tiny_net("llama")
    Lora(rank=4).attach(net)
    lossy = supervision(net)
    drawn = {name: tensor.clone() for name, tensor in parts.weights(net).items()}
    tokens = lossy.decoder.tokens_run
    started(net, lossy)
    assert lossy.decoder.tokens_run == tokens
    assert all(torch.equal(t, drawn[n]) for n, t in parts.weights(net).items())
