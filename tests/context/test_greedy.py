"""Greedy forward selection: what the judge is asked, and that its word counts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.greedy import Greedy, rounds
from sapwood.interfaces import Example

POOL = [Example(text=f"t{i}", label="ab"[i % 2]) for i in range(12)]


def run(judge, k=4, pool=POOL, queries=(), seed=0, candidates=8):
    return Greedy(judge=judge, candidates=candidates).select(
        pool, list(queries), k, seed, labels=("a", "b")
    )


def test_choices_of_a_round_differ_in_the_last_only():
    rounds = []

    def judge(choices):
        rounds.append(list(choices))
        return np.arange(len(choices), 0, -1)

    (chosen,) = run(judge)
    assert [len(r) for r in rounds] == [8, 8, 8, 8]
    for length, choices in enumerate(rounds):
        assert {choice[:-1] for choice in choices} == {chosen[:length]}
        assert len(set(choices)) == len(choices)
        left = Counter(POOL[i].label for i in set(range(12)) - set(chosen[:length]))
        tried = Counter(POOL[c[-1]].label for c in choices)
        assert all(tried[label] >= min(4, left[label]) for label in "ab")
        assert chosen[: length + 1] == choices[-1]  # the last had the lowest loss


@given(seed=st.integers(0, 99), k=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_with_every_candidate_it_is_exact_greedy(seed, k):
    worth = np.random.default_rng(seed).normal(size=(12, 12))

    def loss(choice):
        return -worth[np.ix_(choice, choice)].sum()

    (chosen,) = run(lambda choices: np.array([loss(c) for c in choices]), k, candidates=12)
    naive: tuple[int, ...] = ()
    for _ in range(k):
        naive = min(((*naive, i) for i in range(12) if i not in naive), key=loss)
    assert loss(chosen) == pytest.approx(loss(naive))
    assert chosen == naive


def test_it_never_shows_a_query_nor_runs_out():
    zero = lambda choices: np.zeros(len(choices))  # noqa: E731
    chosen = run(zero, 12, queries=["T3 ", "t4"])
    assert chosen[0] == chosen[1]
    assert sorted(chosen[0]) == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
    assert run(zero, 0) == [()]


def test_a_loss_that_is_no_number_is_never_chosen():
    judge = lambda choices: np.array([np.nan] * (len(choices) - 1) + [9e9])  # noqa: E731
    seen = []
    (chosen,) = run(lambda c: (seen.append(c[-1]), judge(c))[1], 2)
    assert chosen == seen[-1]


def test_a_judge_must_answer_for_every_choice():
    with pytest.raises(ValueError, match=r"a judge of 8 choices returned \(1,\) losses"):
        run(lambda choices: np.zeros(1))


def test_the_loop_can_be_the_callers():
    worth = np.random.default_rng(3).normal(size=12)
    growth = rounds(POOL, 3, 7, labels=("a", "b"), usable=[i for i in range(12) if i != 5])
    choices, seen = next(growth), []
    with pytest.raises(StopIteration) as end:
        while True:
            seen.append(choices)
            choices = growth.send(np.array([-worth[list(c)].sum() for c in choices]))
    judge = lambda found: np.array([-worth[list(c)].sum() for c in found])  # noqa: E731
    assert [end.value.value] == run(judge, 3, queries=["t5"], seed=7)
    assert len(seen) == 3
