"""Thresholds of several labels a text: the best micro F1, told honestly on the same rows."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.readouts.thresholds import LEAST_OWN, choose_thresholds, fitted, labelled, micro

CELLS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=24)


@given(cells=CELLS)
def test_a_shared_threshold_is_the_best_of_all(cells):
    cells = cells[: len(cells) // 2 * 2]
    said = np.array([c / 4 for c, _ in cells]).reshape(-1, 2)
    wanted = np.array([w for _, w in cells]).reshape(-1, 2)
    found = fitted(said, wanted, own=False)
    assert found[0] == found[1]
    best = max(micro(said >= at, wanted) for at in (0, 0.2, 0.4, 0.6, 0.8, 1.1))
    assert not wanted.any() or micro(said >= found, wanted) == pytest.approx(best)


def test_own_thresholds_are_the_best_of_all_pairs():
    rng = np.random.default_rng(0)
    wanted = rng.random((60, 2)) < 0.4
    said = np.clip(0.5 * wanted + rng.random((60, 2)) * [0.6, 0.2], 0, 1).round(1)
    found = fitted(said, wanted, own=True)
    grid = np.linspace(0, 1.05, 22)
    best = max(micro(said >= np.array(pair), wanted) for pair in itertools.product(grid, grid))
    assert micro(said >= found, wanted) == pytest.approx(best)


def test_a_label_of_few_rows_keeps_the_shared_threshold():
    rng = np.random.default_rng(1)
    wanted = np.zeros((100, 2), bool)
    wanted[:50, 0], wanted[: LEAST_OWN - 1, 1] = True, True
    said = np.clip(wanted * 0.4 + rng.random((100, 2)) * 0.5, 0, 1)
    assert fitted(said, wanted, own=True)[1] == fitted(said, wanted, own=False)[1]


def test_labels_that_are_sure_in_different_ways_get_their_own():
    rng = np.random.default_rng(2)
    wanted = rng.random((300, 2)) < 0.5
    said = 0.2 * wanted + 0.15 * rng.random((300, 2)) + [0.0, 0.6]  # cut at 0.2 and at 0.8
    chosen = choose_thresholds(said, wanted)
    assert chosen.own
    assert micro(said >= chosen.thresholds, wanted) == 1.0
    assert micro(chosen.crossed, wanted) > 0.98


def test_noise_gains_nothing_on_rows_that_did_not_choose():
    rng = np.random.default_rng(3)
    wanted, said = rng.random((80, 6)) < 0.2, rng.random((80, 6))
    chosen = choose_thresholds(said, wanted)
    assert micro(chosen.crossed, wanted) <= micro(said >= chosen.thresholds, wanted)


def test_without_any_wanted_label_the_middle_is_taken():
    chosen = choose_thresholds(np.full((10, 3), 0.3), np.zeros((10, 3), bool))
    assert chosen.thresholds.tolist() == [0.5, 0.5, 0.5] and not chosen.crossed.any()


def test_told_labels_are_frames_and_words():
    some, none = labelled(("art", "b; c"), np.array([[True, True], [False, False]]))
    assert [frame.label for frame in some.frames] == ["art", "b; c"]
    assert some.words == 'art; "b; c"'
    assert (none.words, none.frames) == ("none", ())
