"""A decoder read as an encoder: every token sees its whole row, in packs as in transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sapwood.methods import parts
from sapwood.methods.together import parse
from sapwood.models.decoder import PACKED, Decoder
from sapwood.models.encoder import Unmasked
from sapwood.models.layout import Row
from sapwood.testing import tiny_net

ROWS = [list(range(5, 26)), [7, 3, 9], list(range(40, 52))]


def of_transformers(net, ids):
    """Return the last states of one row by transformers' own attention under a mask of ours."""
    at = torch.arange(len(ids))
    near = (at[:, None] - at[None, :]).abs() < (getattr(net.config, "sliding_window", None) or 999)
    masks = {"full_attention": torch.zeros(1, 1, len(ids), len(ids))}
    masks["sliding_attention"] = torch.zeros(len(ids), len(ids)).masked_fill(~near, -1e9)[
        None, None
    ]
    given = masks if net.config.model_type == "gemma3_text" else masks["full_attention"]
    body = getattr(net, net.base_model_prefix)
    return body(input_ids=torch.tensor([ids]), attention_mask=given).last_hidden_state[0]


@pytest.mark.parametrize("kind", PACKED)
def test_equals_transformers_under_an_open_mask(kind):
    net = tiny_net(kind)
    wanted = [of_transformers(net, ids) for ids in ROWS]
    found = Unmasked(net).states(ROWS)
    for own, expected in zip(found, wanted, strict=True):
        assert_close(own, expected, atol=2e-5, rtol=2e-5)


def test_the_first_token_knows_the_last():
    net = tiny_net("llama")
    rows = [[5, 6, 7, 8], [5, 6, 7, 9]]
    first = [states[0] for states in Unmasked(net).states(rows)]
    assert (first[0] - first[1]).abs().max() > 1e-3
    causal = [s for _, s in Decoder(net).hidden([Row(ids=ids, wanted=(0,)) for ids in rows])]
    assert_close(causal[0][0], causal[0][1])


def test_the_decoder_over_the_same_net_stays_causal():
    net = tiny_net("gemma3_text")
    decoder = Decoder(net)
    before = decoder.features(ROWS)
    Unmasked(net).features(ROWS)
    np.testing.assert_array_equal(decoder.features(ROWS), before)


@pytest.mark.parametrize("method", ["prefix(tokens=3)", "prompt(tokens=3)", "lora"])
def test_gradients_reach_what_trains(method):
    net = parse(method).attach(tiny_net("qwen3"))
    tensors = parts.weights(net)
    loss = sum(states.square().sum() for states in Unmasked(net).states(ROWS, gradient=True))
    loss.backward()
    assert all(torch.isfinite(t.grad).all() for t in tensors.values())
    assert any(t.grad.abs().max() > 0 for t in tensors.values())
