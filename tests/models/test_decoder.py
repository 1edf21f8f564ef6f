"""Packed scoring equals the naive way on each kind, and the padded path equals both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ModelError
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.encoder import Encoder
from sapwood.models.layout import Row
from sapwood.models.trie import build_trie
from sapwood.testing import KINDS, tiny_net

LABELS = [[5], [6, 7], [6, 8, 9], [6, 8], [10, 11, 12, 13]]


def naive_scores(net, context, prompts, labels) -> np.ndarray:
    """Return log p(label | context, prompt), one full forward for each pair."""
    rows = []
    for prompt in prompts:
        row = []
        for label in labels:
            before = [*context, *prompt]
            ids = torch.tensor([[*before, *label]])
            logp = net(ids, attention_mask=torch.ones_like(ids)).logits[0].double().log_softmax(-1)
            row.append(sum(float(logp[len(before) - 1 + n, t]) for n, t in enumerate(label)))
        rows.append(row)
    return np.array(rows)


@pytest.fixture
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [list(map(int, rng.integers(20, 300, n))) for n in (4, 30, 11, 12, 3, 25)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [0, 5, 40])
def test_label_scores_equal_the_naive_way(kind, context, prompts):
    net = tiny_net(kind)
    ids = list(range(20, 20 + context))
    with torch.no_grad():
        expected = naive_scores(net, ids, prompts, LABELS)
    decoder = Decoder(net)
    assert decoder.why_padded == ""
    prefix = decoder.encode(ids)
    found = decoder.label_scores(prompts, build_trie(LABELS), prefix)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_path_equals_packed(kind, prompts):
    decoder = Decoder(tiny_net(kind))
    trie, context = build_trie(LABELS), list(range(20, 50))
    packed = decoder.label_scores(prompts, trie, decoder.encode(context))
    decoder.why_padded = "asked for by the test"
    padded = decoder.label_scores(prompts, trie, decoder.encode(context))
    np.testing.assert_allclose(padded, packed, rtol=0, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    context=st.integers(0, 30),
    budget=st.integers(1, 60),
)
def test_a_row_never_depends_on_its_neighbours(lengths, context, budget):
    decoder = Decoder(tiny_net("gemma3_text"))
    rng = np.random.default_rng(len(lengths))
    prompts = [list(map(int, rng.integers(20, 300, n))) for n in lengths]
    prefix = decoder.encode(list(range(20, 20 + context)))
    rows = [Row(ids=p, wanted=(len(p) - 1,)) for p in prompts]
    together = {}
    for owners, states in decoder.hidden(rows, prefix, budget=budget):
        together |= dict(zip(owners.tolist(), states, strict=True))
    for number, prompt in enumerate(prompts):
        alone = decoder.features([prompt], prefix)[0]
        np.testing.assert_allclose(together[number].numpy(), alone, rtol=0, atol=2e-5)


def test_long_prefix_in_chunks_equals_one_piece(monkeypatch, prompts):
    from sapwood.models import decoder as module

    context = list(range(20, 220))
    whole = Decoder(tiny_net("gemma3_text"))
    expected = whole.features(prompts, whole.encode(context))
    monkeypatch.setattr(module, "PACK_TOKENS", 16)
    chunked = Decoder(tiny_net("gemma3_text"))
    found = chunked.features(prompts, chunked.encode(context))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_cut_prefix_equals_shorter_prefix(prompts):
    decoder = Decoder(tiny_net("qwen3"))
    context = list(range(20, 60))
    cut = decoder.encode(context).cut(25)
    fresh = decoder.encode(context[:25])
    np.testing.assert_allclose(
        decoder.features(prompts, cut), decoder.features(prompts, fresh), atol=2e-5
    )


def test_a_cached_prefix_does_not_outlive_the_weights_that_made_it():
    key = ["first"]
    decoder = Decoder(tiny_net("llama"), weights_key=lambda: key[0])
    context = list(range(20, 60))
    one = decoder.encode(context)
    assert decoder.encode(context) is one
    key[0] = "second"
    assert decoder.encode(context) is not one


def test_trie_scores_are_a_distribution_over_label_paths():
    decoder = Decoder(tiny_net("gpt2"))
    labels = [[5, 6], [5, 7], [8], [9, 4, 3]]
    scores = decoder.label_scores([[30, 31]], build_trie(labels), normalise="trie")
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, atol=1e-6)


def test_too_long_a_prompt_is_named_before_the_forward():
    decoder = Decoder(tiny_net("gpt2"))
    with pytest.raises(ModelError, match=r"600 tokens; this base reads at most 512"):
        decoder.features([[20] * 600], Prefix())


def test_packed_encoder_equals_each_text_alone(prompts):
    net = tiny_net("bert")
    with torch.no_grad():
        alone = []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            alone.append(net(ids).last_hidden_state[0].mean(0).numpy())
    found = Encoder(net).features(prompts * 30)
    np.testing.assert_allclose(found, np.stack(alone * 30), rtol=0, atol=1e-5)
