"""The shared regression: equal to scikit-learn's, whatever the shape of the problem."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sapwood.readouts import logistic
from sapwood.readouts.logistic import fit_logistic, stratified_folds
from sapwood.readouts.probe import Probe, standardisation


def problem(rows: int, width: int, classes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, width))
    weights = rng.normal(size=(width, classes)) / np.sqrt(width)
    return features, (features @ weights + 0.5 * rng.normal(size=(rows, classes))).argmax(1)


@pytest.mark.parametrize("width", [5, 200])  # fewer and more features than rows
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_the_fit_is_scikit_learns(width, classes, kind):
    features, gold = problem(60, width, classes)
    found = fit_logistic(kind(features), gold, classes, strengths=[0.1])
    expected = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(features, gold)
    asked = problem(30, width, classes, seed=1)[0]
    # Both solve one convex problem; ours stops at a gradient of 1e-4.
    assert np.allclose(found.probabilities(kind(asked)), expected.predict_proba(asked), atol=5e-3)
    assert found.strength == 0.1
    assert found.coefficients.dtype == np.float32


def test_the_strength_follows_the_noise():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 10))
    noise = rng.integers(0, 2, 300)
    signal = (features[:, 0] > 0).astype(np.int64)
    strengths = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]
    assert fit_logistic(features, noise, 2, strengths=strengths).strength <= 1e-2
    assert fit_logistic(features, signal, 2, strengths=strengths).strength >= 10.0


def test_rows_beyond_the_limit_are_sampled_for_the_choice_only(monkeypatch):
    monkeypatch.setattr(logistic, "CHOICE_ROWS", 50)
    features, gold = problem(400, 6, 3)
    found = fit_logistic(features, gold, 3, strengths=[0.1, 1.0, 10.0])
    assert found.rows == 400
    assert (found.probabilities(features).argmax(1) == gold).mean() > 0.7


def test_repeated_rows_do_not_break_the_change_of_basis():
    features = np.repeat(np.eye(2, 50), 10, axis=0)
    found = fit_logistic(features, np.repeat([0, 1], 10), 2, strengths=[1.0, 10.0])
    assert found.probabilities(np.eye(2, 50)).argmax(1).tolist() == [0, 1]


def test_folds_spread_every_class():
    gold = np.array([0] * 50 + [1] * 10 + [2])
    fold = stratified_folds(gold, 5, np.random.default_rng(0))
    for number, count in ((0, 10), (1, 2)):
        assert np.bincount(fold[gold == number], minlength=5).tolist() == [count] * 5


def test_folds_do_not_depend_on_the_numbering_of_classes():
    gold = np.random.default_rng(0).integers(0, 4, 60)
    first = stratified_folds(gold, 5, np.random.default_rng(1))
    assert np.array_equal(first, stratified_folds(3 - gold, 5, np.random.default_rng(1)))


def test_many_classes_of_few_rows():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(150, 40))
    gold = np.repeat(np.arange(150), 3)
    features = centres[gold] + 0.1 * rng.normal(size=(450, 40))
    names = [f"intent {i:03d}" for i in range(150)]
    probe = Probe.fit(features, [names[i] for i in gold], labels=names)
    assert (probe.probabilities(centres).argmax(1) == np.arange(150)).mean() > 0.95


def test_more_classes_than_half_the_rows_is_no_reason_to_warn():
    """Warnings are errors here; scikit-learn's others still come through."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 8))
    features = np.concatenate([centres, centres[:10] + 0.1 * rng.normal(size=(10, 8))])
    gold = np.concatenate([np.arange(20), np.arange(10)])
    found = fit_logistic(features, gold, 20, strengths=[0.1, 1.0, 10.0])
    assert (found.probabilities(centres).argmax(1) == np.arange(20)).mean() > 0.9
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        LogisticRegression(C=1.0).fit(features, gold)
    assert any(logistic._FEW_ROWS in str(warning.message) for warning in seen)


def test_constant_and_huge_columns():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 6)).astype(np.float32)
    features[:, 1] = 1234.5678  # constant
    features[:, 2] = 3e4 + features[:, 2] * 1e3  # the massive activations of language models
    features[:, 3] = 0
    gold = ["yes" if x > 0 else "no" for x in features[:, 0]]
    _, scale = standardisation(features.astype(np.float64))
    assert (scale == 0).tolist() == [False, True, False, True, False, False]
    probe = Probe.fit(features, gold, labels=("no", "yes"))
    moved = features.copy()
    moved[:, 1] = -1e6  # never varied in training: must not matter
    assert np.array_equal(probe.probabilities(features), probe.probabilities(moved))
    assert (probe.probabilities(features).argmax(1) == (features[:, 0] > 0)).mean() > 0.95


def test_half_precision_features_do_not_overflow():
    features = (np.random.default_rng(0).normal(size=(40, 4)) * 1e4).astype(np.float16)
    gold = ["yes" if x > 0 else "no" for x in features[:, 0]]
    probabilities = Probe.fit(features, gold, labels=("no", "yes")).probabilities(features)
    assert np.isfinite(probabilities).all()
