"""Vote-k against the formula written out, and against memory."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context import votek
from sapwood.context.votek import nearest, vote_k
from sapwood.errors import ConfigError, DataError


def naive_scores(voted, labelled, rho) -> dict[int, Fraction]:
    """Count every unlabelled text's votes: who has it as a neighbour, and how satisfied they are.

    `voted`: a set of neighbours for each text.
    """
    count = len(voted)
    return {
        u: sum(
            (Fraction(1, rho) ** len(voted[v] & labelled))
            for v in range(count)
            if u in voted[v] and v not in labelled
        )
        for u in range(count)
        if u not in labelled
    }


@given(
    seed=st.integers(0, 999),
    count=st.integers(2, 25),
    neighbours=st.integers(1, 6),
    before=st.sets(st.integers(0, 24), max_size=3),
    rho=st.sampled_from([2, 10]),
)
@settings(max_examples=80, deadline=None)
def test_every_choice_has_the_most_votes(seed, count, neighbours, before, rho):
    vectors = np.random.default_rng(seed).normal(size=(count, 4))
    labelled = {place for place in before if place < count}
    budget = count - len(labelled)
    if budget == 0:
        return
    chosen = vote_k(
        vectors, budget, neighbours=neighbours, rho=rho, seed=seed, chosen=sorted(labelled)
    )
    voted = [set(row) for row in nearest(vectors, min(neighbours, count - 1)).tolist()]
    assert sorted(chosen) == sorted(set(range(count)) - labelled)
    for place in chosen:
        scores = naive_scores(voted, labelled, rho)
        assert float(scores[place]) == pytest.approx(float(max(scores.values())), abs=1e-8)
        labelled.add(place)


def test_nearest_is_nearest_in_blocks_too(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(40, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T - 9 * np.eye(40)
    expected = [set(row) for row in np.argsort(-cosine, axis=1)[:, :7].tolist()]
    for cells in (1, 90, 10_000):  # one row at a time, two, all
        monkeypatch.setattr(votek, "CELLS", cells)
        assert [set(row) for row in nearest(vectors, 7).tolist()] == expected


def test_the_first_stand_for_the_groups_there_are():
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(5), 20)
    vectors = np.eye(5)[kind] + 0.05 * rng.normal(size=(100, 5))
    assert sorted(kind[vote_k(vectors, 5, neighbours=19)].tolist()) == [0, 1, 2, 3, 4]


def test_the_larger_the_budget_the_fewer_vote():
    vectors = np.random.default_rng(0).normal(size=(200, 6))
    for budget, before, neighbours in ((4, 0, 20), (4, 4, 10), (100, 0, 5)):
        chosen = list(range(before))
        given = vote_k(vectors, budget, neighbours=neighbours, chosen=chosen)
        assert vote_k(vectors, budget, chosen=chosen) == given


def test_what_has_a_label_is_covered():
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(3), (30, 30, 30))
    vectors = np.eye(3)[kind] + 0.05 * rng.normal(size=(90, 3))
    labelled = [int(i) for i in np.flatnonzero(kind == 1)[:12]]
    chosen = vote_k(vectors, 4, neighbours=10, chosen=labelled)
    assert 1 not in kind[chosen]
    assert not set(chosen) & set(labelled)


def test_ties_are_the_seeds_to_break():
    pairs = np.repeat(np.eye(15), 2, axis=0)  # each text has one copy, which votes for it
    first = [vote_k(pairs, 5, neighbours=1, seed=seed) for seed in range(20)]
    assert first[3] == vote_k(pairs, 5, neighbours=1, seed=3)
    assert len({chosen[0] for chosen in first}) > 5
    assert all(len({place // 2 for place in chosen}) == 5 for chosen in first)


def test_one_text_is_a_choice_too():
    assert vote_k(np.ones((1, 2)), 1) == [0]
    assert vote_k(np.ones((2, 2)), 1, chosen=[1]) == [0]


def test_memory_grows_with_the_texts_not_their_square():
    """xlang-ai/icl-selective-annotation holds every pair: 10,000 texts are 800 MB there."""
    vectors = np.random.default_rng(0).normal(size=(6000, 8)).astype(np.float32)
    tracemalloc.start()
    vote_k(vectors, 3, neighbours=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 4 / 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 5}, "Cannot choose 5 texts to label: 4 different ones have no label yet"),
        ({"budget": 0}, "Cannot choose 0 texts"),
        ({"budget": 1, "chosen": [0, 1, 2, 3]}, "0 different ones have no label"),
        ({"budget": 1, "neighbours": 0}, "at least 1 neighbour and rho above 1, got 0 and 10.0"),
        ({"budget": 1, "rho": 1.0}, "got None and 1.0"),
    ],
)
def test_what_cannot_be_is_said(options, said):
    with pytest.raises(ConfigError, match=said):
        vote_k(np.eye(4), **options)


def test_vectors_must_be_numbers():
    for wrong in (np.full((3, 2), np.nan), np.ones(3)):
        with pytest.raises(DataError, match="needs a matrix of finite numbers"):
            vote_k(wrong, 1)
