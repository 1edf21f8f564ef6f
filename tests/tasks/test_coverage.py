"""Accuracy against coverage, thresholds, and the label that means none of the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.errors import ConfigError
from sapwood.metrics import wilson
from sapwood.tasks.coverage import (
    answered_above,
    coverage_details,
    outside_details,
    outside_label,
    outside_threshold,
    risk_coverage,
)

ROWS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)


def test_the_risk_of_the_surest_rows_is_counted_by_hand():
    risk = risk_coverage(np.array([0.9, 0.5, 0.8, 0.6]), np.array([1.0, 0.0, 1.0, 0.0]))
    np.testing.assert_allclose(risk, [0, 0, 1 / 3, 1 / 2])


def test_rows_of_equal_confidence_count_as_their_mean():
    risk = risk_coverage(np.array([0.7, 0.7]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(risk, [0.5, 0.5])


@given(rows=ROWS, seed=st.integers(0, 9))
def test_the_area_does_not_depend_on_the_order_of_rows_and_lies_between_its_bounds(rows, seed):
    confidence = np.array([c for c, _ in rows], float)
    right = np.array([r for _, r in rows], float)
    found = coverage_details(confidence, right)
    order = np.random.default_rng(seed).permutation(len(rows))
    again = coverage_details(confidence[order], right[order])
    assert again["area"] == pytest.approx(found["area"])
    assert found["area_at_best"] - 1e-9 <= found["area"]
    assert found["area_by_chance"] == pytest.approx(1 - right.mean())
    assert found["coverage"][-1] == 1 and found["accuracy"][-1] == pytest.approx(
        right.mean(), abs=1e-6
    )
    flat = coverage_details(np.zeros(len(rows)), right)
    assert flat["area"] == pytest.approx(flat["area_by_chance"])


def test_a_threshold_answers_the_rows_that_reach_it():
    confidence, right = np.array([0.9, 0.7, 0.5]), np.array([1.0, 1.0, 0.0])
    found = answered_above(confidence, right, 0.7)
    low, high = wilson(2, 2)
    assert found == {
        "threshold": 0.7, "coverage": 2 / 3, "answered": 2, "accuracy": 1.0, "low": low,
        "high": high,
    }  # fmt: skip
    none = answered_above(confidence, right, 0.99)
    assert none["answered"] == 0 and none["accuracy"] is None


@pytest.mark.parametrize(
    "label",
    ["oos", "out_of_scope", "out-of-scope", "Other", "None of the above", "其他", "ood"],
)
def test_a_label_outside_is_known_by_its_name(label):
    assert outside_label(["play", label, "stop"]) == label


def test_a_label_outside_can_be_named_and_must_be_there():
    assert outside_label(["play", "noise"], "noise") == "noise"
    assert outside_label(["play", "stop"]) is None
    assert outside_label(["oos", "other"]) is None  # which of the two it is, is not guessed
    with pytest.raises(ConfigError, match=r"No row has the label 'nois'. Did you mean 'noise'?"):
        outside_label(["play", "noise"], "nois")


def test_rows_outside_and_inside_are_told_apart():
    gold = ["oos", "oos", "play", "play", "stop"]
    said = ["oos", "play", "play", "oos", "stop"]
    found = outside_details(gold, said, "oos")
    assert (found["rows"], found["inside_rows"]) == (2, 3)
    assert found["recall"]["value"] == 0.5 and found["precision"]["value"] == 0.5
    assert found["inside"]["value"] == pytest.approx(2 / 3)
    silent = outside_details(gold, said, "oos", np.array([0, 1, 0, 0, 1], bool))
    assert silent["recall"]["value"] == 1 and silent["inside"]["value"] == pytest.approx(1 / 3)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("oab"), st.sampled_from("oab"), st.integers(0, 4)),
        min_size=2, max_size=30,
    )
)  # fmt: skip
def test_the_threshold_is_the_best_of_all(rows):
    gold, said = [g for g, _, _ in rows], [s for _, s, _ in rows]
    confidence = np.array([c / 4 for _, _, c in rows])
    found = outside_threshold(gold, said, confidence, "o")
    if "o" not in gold or set(gold) == {"o"}:
        assert found is None
        return

    def mean(threshold):
        told = outside_details(gold, said, "o", confidence < threshold)
        return told["recall"]["value"] + told["inside"]["value"]

    best = max(mean(threshold) for threshold in (0, 0.25, 0.5, 0.75, 1, 1.5))
    assert mean(found) == pytest.approx(best)
