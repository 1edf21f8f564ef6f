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


CONTEXT = list(range(20, 80))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize(
    ("then", "runs"),
    [
        (CONTEXT, 0),
        (CONTEXT[:25], 0),
        ([*CONTEXT, 90, 91, 92], 3),
        ([*CONTEXT[:40], 90, 91], 2),
        ([99, *CONTEXT], 61),
    ],
)
def test_encode_runs_only_what_follows_a_known_beginning(kind, then, runs, prompts):
    decoder = Decoder(tiny_net(kind))
    decoder.encode(CONTEXT)
    assert (decoder.tokens_run, decoder.tokens_reused) == (len(CONTEXT), 0)
    found = decoder.encode(then)
    assert found.ids == tuple(then)
    assert decoder.tokens_run - len(CONTEXT) == runs
    assert decoder.tokens_reused == len(then) - runs
    fresh = Decoder(tiny_net(kind))
    expected = fresh.features(prompts, fresh.encode(then))
    np.testing.assert_allclose(decoder.features(prompts, found), expected, rtol=0, atol=3e-5)


def test_permutations_in_order_share_their_beginnings():
    """All 24 orders of 4 pieces of 10 tokens: a trie of 64 pieces, not 96."""
    from itertools import permutations

    decoder = Decoder(tiny_net("llama"))
    pieces = [list(range(first, first + 10)) for first in (20, 40, 60, 80)]
    for order in permutations(pieces):
        decoder.encode([token for piece in order for token in piece])
    assert decoder.tokens_run == 10 * (4 + 12 + 24 + 24)
    assert decoder.tokens_reused == 10 * 24 * 4 - decoder.tokens_run


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(20, 22), min_size=1, max_size=8), min_size=1, max_size=8))
def test_whatever_came_before_a_prefix_is_the_same(contexts):
    used = Decoder(tiny_net("gemma3_text"))
    for context in contexts:
        found = used.encode(context)
        fresh = Decoder(tiny_net("gemma3_text")).encode(context)
        for pair, expected in zip(found.layers, fresh.layers, strict=True):
            for one, two in zip(pair, expected, strict=True):
                np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=0, atol=2e-5)


def test_other_weights_share_no_beginning():
    key = ["first"]
    decoder = Decoder(tiny_net("llama"), weights_key=lambda: key[0])
    decoder.encode(CONTEXT)
    key[0] = "second"
    decoder.encode([*CONTEXT, 90])
    assert (decoder.tokens_run, decoder.tokens_reused) == (2 * len(CONTEXT) + 1, 0)


def test_memory_of_kept_prefixes_is_bounded(monkeypatch):
    from sapwood.models import decoder as module

    one = 2 * 2 * 2 * 8 * 60 * 4  # layers, keys and values, key heads, head size, tokens, bytes
    monkeypatch.setattr(module, "_CACHED_PREFIX_BYTES", 3 * one)
    decoder = Decoder(tiny_net("llama"))
    for first in range(30, 40):
        decoder.encode([first, *CONTEXT[1:]])
    before = decoder.tokens_run
    decoder.encode([39, *CONTEXT[1:]])
    decoder.encode([37, *CONTEXT[1:]])
    assert decoder.tokens_run == before
    decoder.encode([30, *CONTEXT[1:]])  # long forgotten
    assert decoder.tokens_run == before + 60


def test_a_context_longer_than_the_base_reads_is_named_before_it_is_encoded():
    decoder = Decoder(tiny_net("gpt2"))
    with pytest.raises(ModelError, match=r"513 tokens; this base reads at most 512"):
        decoder.encode([20] * 513)
    assert decoder.tokens_run == 0


def test_activations_do_not_grow_with_the_prefix(monkeypatch):
    """The largest tensor made while encoding stays that of one chunk; keys and values are apart."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from sapwood.models import decoder as module

    monkeypatch.setattr(module, "PACK_TOKENS", 32)

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            room = function.overloadpacket._qualified_op_name == "aten::new_empty"
            if not room and all(r.alias_info is None for r in function._schema.returns):
                for tensor in made if isinstance(made, tuple) else (made,):
                    self.size = max(self.size, tensor.numel() if torch.is_tensor(tensor) else 0)
            return made

    sizes = []
    for length in (128, 480):
        decoder = Decoder(tiny_net("gemma3_text"))
        with Largest() as seen:
            decoder.encode([20 + n % 200 for n in range(length)])
        sizes.append(seen.size)
    assert sizes[0] == sizes[1]
