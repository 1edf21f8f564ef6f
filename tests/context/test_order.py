"""Orders: sampled as a trie, judged as the papers say."""

from __future__ import annotations

from collections import Counter
from math import log, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.order import (
    MOST,
    ORDERS,
    DescriptionLength,
    GlobalEntropy,
    Likelihood,
    LocalEntropy,
    SimilarLast,
    permutations,
    shared_tokens,
    spread,
)
from sapwood.errors import ConfigError, DataError
from sapwood.registry import resolve


@given(k=st.integers(0, 12), count=st.integers(1, MOST), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=100, deadline=None)
def test_permutations_are_distinct_sorted_and_repeatable(k, count, seed, data):
    stem = data.draw(st.integers(0, k))
    found = permutations(k, count, seed, stem=stem)
    assert found == permutations(k, count, seed, stem=stem) == sorted(set(found))
    assert len(found) == min(count, int(np.prod(np.arange(1, k + 1))))
    assert all(sorted(order) == list(range(k)) for order in found)


def trie_tokens(orders, lengths) -> int:
    """Count the tokens of a tree of the orders, every beginning once."""
    beginnings = {order[: n + 1] for order in orders for n in range(len(order))}
    return sum(lengths[beginning[-1]] for beginning in beginnings)


@given(k=st.integers(1, 8), seed=st.integers(0, 99), stem=st.integers(0, 1))
@settings(max_examples=50, deadline=None)
def test_sorted_orders_share_every_beginning(k, seed, stem):
    lengths = np.random.default_rng(seed).integers(1, 50, k).tolist()
    orders = permutations(k, 24, seed, stem=stem)
    saved, total = shared_tokens(orders, lengths)
    assert total == len(orders) * sum(lengths)
    assert total - saved == trie_tokens(orders, lengths)


def test_bunches_save_what_random_orders_do_not():
    lengths = [40] * 16
    loose = shared_tokens(permutations(16, 24, 0), lengths)
    bunched = permutations(16, 24, 0, stem=8)
    saved = shared_tokens(bunched, lengths)
    assert loose[0] / loose[1] < 0.06
    assert saved[0] / saved[1] > 0.4
    assert sorted(Counter(order[:8] for order in bunched).values()) == [6, 6, 6, 6]


def test_every_place_is_as_likely_with_a_stem_as_without():
    last = Counter(o[-1] for seed in range(60) for o in permutations(5, 24, seed, stem=2))
    assert len(last) == 5
    assert max(last.values()) < 1.35 * min(last.values())


@pytest.mark.parametrize("wrong", [{"k": -1}, {"count": 0}, {"count": 25}, {"stem": 5}])
def test_impossible_draws_are_refused(wrong):
    with pytest.raises(ConfigError, match="Cannot draw"):
        permutations(**{"k": 4, **wrong})


def test_similar_last_by_embeddings_and_by_words():
    rule = SimilarLast()
    shown = ["east", "north", "north-east"]
    vectors = np.array([[3.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    north = np.array([[0.2, 1.0]])
    assert rule.arrange(shown, ["?"], embeddings=vectors, query_embeddings=north) == (0, 2, 1)
    both = np.array([[0.2, 1.0], [1.0, 0.3]])  # on average north-east
    assert rule.arrange(shown, ["?"] * 2, embeddings=vectors, query_embeddings=both)[-1] == 2
    words = ["菜的味道不错", "房间很干净", "快递太慢"]
    assert rule.arrange(words, ["味道很好"])[-1] == 0
    assert rule.arrange(words, []) == rule.arrange(words, ["nothing alike"]) == (0, 1, 2)
    assert rule.arrange([], ["x"]) == ()


scores_of = st.integers(0, 9999).map(
    lambda seed: np.random.default_rng(seed).normal(size=(5, 7, 3)) * 3
)


def naive(rule: str, scores, gold) -> list[float]:
    """Judge each order with plain sums."""
    out = []
    for order in scores:
        rows = [np.exp(row) / sum(np.exp(row)) for row in order]
        entropies = [-sum(p * log(p) for p in row) for row in rows]
        answers = Counter(int(np.argmax(row)) for row in rows)
        shares = [n / len(rows) for n in answers.values()]
        out.append(
            {
                "likelihood": sum(log(row[g]) for row, g in zip(rows, gold, strict=True)) / 7,
                "global-entropy": -sum(s * log(s) for s in shares),
                "local-entropy": sum(entropies) / len(rows),
                "mdl": sum(sum(p * log2(p) for p in row) for row in rows) / len(rows),
            }[rule]
        )
    return out


JUDGED = [name for name in ORDERS if resolve("order", ORDERS, name).judged]


@pytest.mark.parametrize("name", JUDGED)
@given(scores=scores_of)
@settings(max_examples=30, deadline=None)
def test_values_are_the_papers(name, scores):
    gold = np.arange(7) % 3
    values = resolve("order", ORDERS, name)().values(scores, gold)
    np.testing.assert_allclose(values, naive(name, scores, gold), atol=1e-9)


def test_entropies_at_their_ends():
    even = np.zeros((1, 4, 2))
    one_sided = np.array([[[0.0, -np.inf]] * 4])
    assert LocalEntropy().values(even) == pytest.approx(log(2))
    assert LocalEntropy().values(one_sided) == pytest.approx(0.0)
    assert GlobalEntropy().values(one_sided) == pytest.approx(0.0)
    assert DescriptionLength().values(even) == pytest.approx(-1.0)
    split = np.array([[[0.0, -9.0], [-9.0, 0.0]] * 2])
    assert GlobalEntropy().values(split) == pytest.approx(log(2))


def test_the_two_readings_of_confidence_are_opposite():
    scores = np.random.default_rng(1).normal(size=(6, 9, 4))
    sure, unsure = DescriptionLength().values(scores), LocalEntropy().values(scores)
    assert np.argsort(sure).tolist() == np.argsort(-unsure).tolist()


def test_what_cannot_be_judged_is_said():
    for wrong in (np.zeros((2, 3)), np.full((1, 2, 2), np.nan), np.full((1, 2, 2), -np.inf)):
        with pytest.raises(DataError, match="shape"):
            LocalEntropy().values(wrong)
    with pytest.raises(
        DataError, match=r"needs 3 label numbers from 0 to 1\.(.|\n)*global-entropy"
    ):
        Likelihood().values(np.zeros((2, 3, 2)))
    with pytest.raises(DataError, match="label numbers"):
        Likelihood().values(np.zeros((2, 3, 2)), np.array([0, 1, 2]))


def test_the_spread_names_the_first_of_the_best():
    orders = permutations(3)
    found = spread("likelihood", orders, np.array([-2.0, -0.5, -1.0, -0.5, -3.0, -1.0]))
    assert found.best == orders[1]
    assert (found.orders, found.low, found.high) == (6, -3.0, -0.5)
    assert found.describe() == "likelihood of 6 orders: -3.000 to -0.500, mean -1.333"
