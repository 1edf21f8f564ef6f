"""The determinantal point process, against determinants themselves."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.diverse import Diverse, greedy_map
from sapwood.context.select import make_selector
from sapwood.errors import ConfigError
from sapwood.interfaces import Example


def kernel(seed: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(size, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (1 + vectors @ vectors.T) / 2, rng.normal(size=size)


def log_determinant(similarity, log_quality, places) -> float:
    scale = np.exp(log_quality[list(places)] / 2)
    block = scale[:, None] * similarity[np.ix_(places, places)] * scale
    return float(np.linalg.slogdet(block)[1])


def naive_greedy(similarity, log_quality, count) -> list[int]:
    """Add, one at a time, what makes the determinant largest."""
    chosen: list[int] = []
    for _ in range(count):
        rest = [i for i in range(len(similarity)) if i not in chosen]
        gains = [log_determinant(similarity, log_quality, [*chosen, i]) for i in rest]
        chosen.append(rest[int(np.argmax(gains))])
    return chosen


@given(seed=st.integers(0, 999), size=st.integers(1, 12), width=st.integers(12, 20))
@settings(max_examples=60, deadline=None)
def test_each_step_takes_the_largest_determinant(seed, size, width):
    similarity, quality = kernel(seed, size, width)
    count = min(6, size)
    assert greedy_map(similarity, quality, count) == naive_greedy(similarity, quality, count)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_near_the_best_of_all_sets(seed):
    similarity, quality = kernel(seed, 9, 12)
    found = log_determinant(similarity, quality, greedy_map(similarity, quality, 3))
    every = [log_determinant(similarity, quality, c) for c in combinations(range(9), 3)]
    assert sorted(every, reverse=True).index(pytest.approx(found, abs=1e-9)) < 9  # of 84


def test_a_rank_that_runs_out_leaves_quality_to_decide():
    same = np.ones((4, 4))
    assert greedy_map(same, np.array([0.0, 3.0, 1.0, 2.0]), 4) == [1, 3, 2, 0]
    assert greedy_map(same, np.zeros(4), 9) == [0, 1, 2, 3]
    assert greedy_map(np.zeros((0, 0)), np.zeros(0), 3) == []


def test_extreme_scales_do_not_overflow():
    similarity, quality = kernel(1, 8, 12)
    for size in (1e5, 1e-5):
        assert len(set(greedy_map(similarity, quality * size, 5))) == 5
    assert greedy_map(similarity, quality * 1e5, 3) == np.argsort(-quality)[:3].tolist()


def choose(vectors, query, k, **fields):
    pool = [Example(text=f"t{i}", label="no") for i in range(len(vectors))]
    (chosen,) = Diverse(**fields).select(
        pool, ["?"], k, 0, labels=("no",), embeddings=vectors, query_embeddings=query[None]
    )
    return chosen


def test_copies_are_shown_after_everything_else():
    # Two nearly equal texts at the query, one a little off it: a second copy adds little.
    angles = np.array([0.0, 0.001, 0.6, -0.7, 2.5])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    chosen = choose(vectors, np.array([1.0, 0.0]), 3)
    assert set(chosen) == {0, 2, 3}
    assert chosen[-1] == 0  # the most similar last
    nearest = make_selector("nearest").select(
        [Example(text=f"t{i}", label="no") for i in range(5)],
        ["?"], 3, 0, labels=("no",), embeddings=vectors, query_embeddings=np.array([[1.0, 0.0]]),
    )  # fmt: skip
    assert nearest == [(2, 1, 0)]
    assert choose(vectors, np.array([1.0, 0.0]), 3, scale=1e-4) == nearest[0]


def test_only_the_nearest_candidates_are_considered():
    rng = np.random.default_rng(0)
    vectors, query = rng.normal(size=(200, 8)), rng.normal(size=8)
    cosine = vectors @ query / np.linalg.norm(vectors, axis=1)
    best = set(np.argsort(-cosine)[:6].tolist())
    assert set(choose(vectors, query, 4, candidates=6)) <= best
    assert set(choose(vectors, query, 6, candidates=2)) == best  # never fewer than are wanted


def test_it_says_that_it_needs_embeddings():
    pool = [Example(text="a", label="no")]
    with pytest.raises(ConfigError, match="needs embeddings of the pool and of the queries"):
        Diverse().select(pool, ["b"], 1, 0, labels=("no",))
