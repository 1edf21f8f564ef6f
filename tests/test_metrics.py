"""Scores against scikit-learn and scipy, and intervals against the truth they claim to hold."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from sapwood import metrics
from sapwood.errors import ConfigError, DataError

LABELS = ("a", "b", "c", "d")
pairs = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1)


def sample(rng: np.random.Generator, rows: int, classes: int, right: float):
    gold = rng.integers(0, classes, rows)
    said = np.where(rng.random(rows) < right, gold, rng.integers(0, classes, rows))
    return [str(g) for g in gold], [str(p) for p in said]


@given(pairs)
def test_point_scores_equal_scikit_learn(rows):
    gold, predicted = [g for g, _ in rows], [p for _, p in rows]
    assert metrics.accuracy(gold, predicted) == pytest.approx(
        reference.accuracy_score(gold, predicted)
    )
    assert metrics.macro_f1(gold, predicted) == pytest.approx(
        reference.f1_score(gold, predicted, average="macro", zero_division=0)
    )
    assert np.array_equal(
        metrics.confusion(gold, predicted, LABELS),
        reference.confusion_matrix(gold, predicted, labels=LABELS),
    )
    columns = reference.precision_recall_fscore_support(
        gold, predicted, labels=LABELS, zero_division=0
    )
    found = metrics.per_class(gold, predicted, LABELS)
    assert [score.label for score in found] == list(LABELS)
    assert np.allclose(
        [[s.precision, s.recall, s.f1, s.support] for s in found], np.array(columns).T
    )


def test_unknown_labels_and_bad_lengths_are_named():
    with pytest.raises(DataError, match=r"1 label\(s\) of these rows are not among the 2 known"):
        metrics.confusion(["a"], ["z"], ["a", "b"])
    with pytest.raises(DataError, match="got 2 and 1"):
        metrics.accuracy(["a", "b"], ["a"])
    with pytest.raises(DataError, match="at least 1, got 0 and 0"):
        metrics.macro_f1([], [])
    with pytest.raises(DataError, match="Row 2 has score nan"):
        metrics.bootstrap_interval([1.0, float("nan")])
    with pytest.raises(ConfigError, match="No interval for metric 'bleu'"):
        metrics.bootstrap_interval((["a"], ["a"]), "bleu")
    with pytest.raises(ConfigError, match="at least 1 bin, got 0"):
        metrics.calibration_bins(np.array([[1.0]]), np.array([0]), bins=0)


def test_log_loss_equals_scikit_learn_and_stays_finite():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 200)
    gold = rng.integers(0, 4, 200)
    assert metrics.log_loss(probabilities, gold) == pytest.approx(
        reference.log_loss(gold, probabilities, labels=range(4))
    )
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(36.04, abs=0.01)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    gold = np.array([0, 1, 1, 1])  # confidences .9 .9 .6 .7; right 1 0 1 1
    bins = metrics.calibration_bins(probabilities, gold, bins=5)
    assert [b.count for b in bins] == [1, 1, 2]  # (.4, .6], (.6, .8], (.8, 1]
    assert [b.accuracy for b in bins] == [1.0, 1.0, 0.5]
    error = metrics.expected_calibration_error(probabilities, gold, bins=5)
    assert error == pytest.approx((0.4 + 0.3 + 2 * 0.4) / 4)


def test_calibration_error_of_true_probabilities_is_small():
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1.0, 20_000)
    gold = (rng.random(20_000) > top).astype(int)
    probabilities = np.stack([top, 1 - top], 1)
    assert metrics.expected_calibration_error(probabilities, gold) < 0.02
    sure = np.stack([np.full(20_000, 0.99), np.full(20_000, 0.01)], 1)
    assert metrics.expected_calibration_error(sure, gold) == pytest.approx(0.24, abs=0.02)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_equals_scipy(rows, share):
    successes = round(rows * share)
    expected = stats.binomtest(successes, rows).proportion_ci(method="wilson")
    assert metrics.wilson(successes, rows) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("answer", ["a", "b"])
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_fifty_rows_all_right_or_all_wrong_are_not_certainty(answer, metric):
    score = metrics.bootstrap_interval((["a"] * 50, [answer] * 50), metric)
    assert score.metric == metric
    assert score.value == float(answer == "a")
    assert score.high - score.low == pytest.approx(0.0714, abs=1e-4)
    assert score.low <= score.value <= score.high


@given(pairs, st.sampled_from(["accuracy", "macro_f1"]))
@settings(max_examples=30, deadline=None)
def test_intervals_hold_the_value_and_repeat(rows, metric):
    data = ([g for g, _ in rows], [p for _, p in rows])
    score = metrics.bootstrap_interval(data, metric, resamples=200, seed=3)
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert score.low < score.high
    assert score == metrics.bootstrap_interval(data, metric, resamples=200, seed=3)


def test_mean_interval_equals_scipy_bootstrap():
    values = np.random.default_rng(0).gamma(2.0, size=300)
    score = metrics.bootstrap_interval(values, "log_loss", resamples=4000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (score.low, score.high) == pytest.approx((expected.low, expected.high), rel=0.02)
    assert score.value == pytest.approx(values.mean())


def test_few_distinct_values_give_the_same_interval_as_many():
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 200)
    apart = values + np.arange(200) * 1e-9  # the same scores, but all distinct
    few = metrics.bootstrap_interval(values, "score", resamples=8000)
    many = metrics.bootstrap_interval(apart, "score", resamples=8000)
    assert (few.low, few.high) == pytest.approx((many.low, many.high), abs=0.006)


def coverage(draw, truth: float, rounds: int = 400) -> float:
    hits = 0
    for number in range(rounds):
        low, high = draw(np.random.default_rng(number))
        hits += low <= truth <= high
    return hits / rounds


@pytest.mark.parametrize(("rows", "right"), [(50, 0.7), (400, 0.9)])
def test_accuracy_intervals_hold_the_truth_95_times_in_100(rows, right):
    def draw(rng):
        score = metrics.bootstrap_interval((rng.random(rows) < right).astype(float))
        return score.low, score.high

    assert 0.92 <= coverage(draw, right) <= 0.99


def test_accuracy_intervals_near_the_end_are_honest_on_average():
    """The exact chance that the interval of 50 rows holds the truth, for truths up to 99.5 %."""
    ends = [metrics.wilson(right, 50) for right in range(51)]
    chances = [
        sum(
            stats.binom.pmf(right, 50, truth)
            for right, (low, high) in enumerate(ends)
            if low <= truth <= high
        )
        for truth in np.arange(0.9, 1.0, 0.005)
    ]
    assert 0.94 <= np.mean(chances) <= 0.97
    assert min(chances) > 0.85  # the bootstrap falls to 0.22 at 99.5 %


@pytest.mark.parametrize(("rows", "classes"), [(100, 4), (400, 20), (1000, 77)])
def test_macro_f1_intervals_hold_the_truth(rows, classes):
    share = 0.8 + 0.2 / classes  # balanced and symmetric: F1 of every class is its accuracy

    def draw(rng):
        data = sample(rng, rows, classes, 0.8)
        score = metrics.bootstrap_interval(data, "macro_f1", resamples=300)
        return score.low, score.high

    assert 0.92 <= coverage(draw, share, rounds=200) <= 1.0


def test_mean_intervals_hold_the_truth():
    def draw(rng):
        score = metrics.bootstrap_interval(rng.gamma(2.0, size=200), "loss", resamples=500)
        return score.low, score.high

    assert 0.91 <= coverage(draw, 2.0) <= 0.98


@pytest.mark.parametrize("rows", [60, 500])
def test_paired_intervals_hold_the_truth(rows):
    def draw(rng):
        luck = rng.random(rows)  # the two systems err on much the same rows
        a, b = luck < 0.85, np.where(rng.random(rows) < 0.8, luck < 0.8, rng.random(rows) < 0.8)
        _, low, high = metrics.paired_difference(a, b, resamples=500)
        return low, high

    assert 0.92 <= coverage(draw, 0.05) <= 0.995


def test_paired_difference_of_equal_systems_is_not_certainty():
    same = np.ones(50)
    mean, low, high = metrics.paired_difference(same, same)
    assert mean == 0
    assert (low, high) == pytest.approx((-0.0377, 0.0377), abs=1e-4)
    _, low, high = metrics.paired_difference(same, 0 * same)
    assert 0.8 < low < 1.0 == high


def test_paired_difference_signs_and_constants():
    rng = np.random.default_rng(0)
    a, b = rng.random(100), rng.random(100) - 1.0
    mean, low, high = metrics.paired_difference(a, b)
    assert 0 < low < mean < high
    assert mean == pytest.approx(float((a - b).mean()))
    assert metrics.paired_difference(np.full(9, 0.75), np.full(9, 0.5)) == (0.25, 0.25, 0.25)
    with pytest.raises(DataError, match="got 3 and 2"):
        metrics.paired_difference([1, 0, 1], [1, 0])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_equals_the_binomial_test(won, lost):
    a, b = [1] * won + [0] * lost + [1], [0] * won + [1] * lost + [1]
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert metrics.mcnemar(a, b) == pytest.approx(expected)


def test_two_thousand_rows_take_less_than_a_second():
    data = sample(np.random.default_rng(0), 2000, 20, 0.8)
    started = time.perf_counter()
    metrics.bootstrap_interval(data, "macro_f1")
    metrics.bootstrap_interval(np.random.default_rng(0).random(2000), "loss")
    assert time.perf_counter() - started < 1.0
