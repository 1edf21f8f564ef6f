"""Compacter: sums of Kronecker products, one rule for all layers."""

import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.methods.compacter import Compacter, Hypercomplex
from sapwood.methods.parts import parts, weights
from sapwood.testing import run_tiny, tiny_net

SMALL = Compacter(width=8)


def layers(net):
    return [part for _, part in parts(net) if isinstance(part, Hypercomplex)]


def test_the_matrix_is_the_papers_sum_of_kronecker_products():
    net = SMALL.attach(tiny_net("llama"))
    layer = layers(net)[1]
    rule = layers(net)[0].phm_rule
    wanted = sum(
        torch.kron(rule[i], layer.down_left[i] @ layer.down_right[i]) for i in range(len(rule))
    )
    torch.testing.assert_close(layer.matrix(layer.down_left, layer.down_right), wanted)
    assert wanted.shape == (32, 8)


def test_all_layers_share_one_rule_and_it_learns():
    net = SMALL.attach(tiny_net("llama"))
    names = [name for name in weights(net) if name.endswith("phm_rule")]
    assert names == ["model.layers.0.self_attn.o_proj.phm_rule"]
    assert len({id(layer._first[0].phm_rule) for layer in layers(net)}) == 1
    assert len(layers(net)) == 4  # after attention and feed-forward part of two blocks
    with torch.no_grad():
        for tensor in weights(net).values():
            tensor += 0.1
    run_tiny(net).square().mean().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in weights(net).values())


def test_it_trains_fewer_numbers_than_a_bottleneck_of_its_width():
    """The paper: O(k + d) a layer and n^3 once, where a bottleneck has O(k d)."""
    one = sum(t.numel() for t in weights(SMALL.attach(tiny_net("llama"))).values())
    biases, factors = 4 * (8 + 32), 4 * 2 * (8 + 32)
    assert one == 64 + biases + factors


def test_parallel_reads_what_the_feed_forward_part_reads():
    net = tiny_net("llama")
    Compacter(width=8, placement="parallel").attach(net)
    (layer, _) = layers(net)
    seen = []
    layer.added = lambda states: seen.append(states) or torch.zeros_like(states)
    block = net.model.layers[0]
    block.post_attention_layernorm.register_forward_hook(lambda m, i, out: seen.append(out))
    run_tiny(net)
    assert torch.equal(seen[0], seen[1])


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(ConfigError) as caught:
        Compacter(width=10, rank=0, activation="rellu")
    said = str(caught.value)
    assert "width 10 is no multiple of parts, 4" in said
    assert "rank must be 1 or more, got 0" in said
    assert "Did you mean 'relu'?" in said
    with pytest.raises(ConfigError, match="hidden size of the base, 32, is no multiple"):
        Compacter(width=9, parts=3).attach(tiny_net("llama"))
