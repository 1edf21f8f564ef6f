"""Temperature and thresholds: fitted on rows, frozen, saved and rebuilt."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ConfigError
from sapwood.metrics import expected_calibration_error, log_loss
from sapwood.readouts.bias import log_softmax
from sapwood.readouts.decision import Decision, fit_decision, fit_temperature


def drawn(rows, *, sharper=1.0, classes=4, seed=0):
    """Return (probabilities said, gold drawn from the true ones): said ones are `sharper`."""
    rng = np.random.default_rng(seed)
    scores = log_softmax(rng.normal(0, 2, (rows, classes)))
    gold = np.array([rng.choice(classes, p=np.exp(row)) for row in scores])
    return np.exp(log_softmax(sharper * scores)), gold


def test_the_temperature_is_that_of_the_lowest_loss():
    said, gold = drawn(3000, sharper=2.5)
    found = fit_temperature(np.log(said), gold)
    assert found == pytest.approx(2.5, rel=0.1)

    def loss(temperature):
        return log_loss(Decision(temperature=temperature).apply(said), gold)

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))


def test_overconfident_rows_get_one_and_are_better_calibrated_on_others():
    said, gold = drawn(600, sharper=2.5)
    made = fit_decision(said[:300], gold[:300])
    assert made.temperature > 1.8
    before, after = made.losses
    assert after < before
    others = made.apply(said[300:])
    assert log_loss(others, gold[300:]) < log_loss(said[300:], gold[300:])
    assert expected_calibration_error(others, gold[300:]) < 0.5 * expected_calibration_error(
        said[300:], gold[300:]
    )


@pytest.mark.parametrize("seed", range(5))
def test_calibrated_rows_get_none(seed):
    said, gold = drawn(300, seed=seed)
    made = fit_decision(said, gold)
    assert made.temperature == 1.0 and len(made.losses) == 2


def test_few_rows_and_equal_rows_get_none():
    said, gold = drawn(49, sharper=4)
    assert fit_decision(said, gold).losses == ()
    constant = np.tile([0.7, 0.3], (200, 1))
    assert fit_decision(constant, np.zeros(200, int)).temperature == 1.0


def test_labels_that_are_no_class_do_not_count_for_the_temperature():
    said, gold = drawn(400, sharper=2.0)
    unknown = np.where(np.arange(400) % 4 == 0, -1, gold)
    kept = unknown >= 0
    one, other = fit_decision(said, unknown), fit_decision(said[kept], gold[kept])
    assert one.temperature == other.temperature


@settings(max_examples=50)
@given(temperature=st.floats(0.2, 8), seed=st.integers(0, 99))
def test_the_order_stays_and_undo_gives_back(temperature, seed):
    said, _ = drawn(20, seed=seed)
    made = Decision(temperature=temperature)
    there = made.apply(said)
    np.testing.assert_allclose(there.sum(1), 1)
    assert (np.argsort(there, 1) == np.argsort(said, 1)).all()
    np.testing.assert_allclose(made.undo(there), said, atol=1e-9)


def test_a_coverage_becomes_the_confidence_that_so_many_rows_reach():
    said, gold = drawn(1000)
    made = fit_decision(said, gold)
    confidence = made.apply(said).max(1)
    for coverage in (0.5, 0.8, 0.9, 0.95):
        share = (confidence >= made.threshold(coverage)).mean()
        assert share == pytest.approx(coverage, abs=0.003)
    assert made.threshold(1) == 0.0


def test_coverages_that_cannot_be_are_refused():
    said, gold = drawn(100)
    made = fit_decision(said, gold)
    for wrong in (0.0, -1.0, 1.2):
        with pytest.raises(ConfigError, match="it is the share of rows to answer"):
            made.threshold(wrong)
    with pytest.raises(ConfigError, match="does not know how sure it was") as caught:
        Decision().threshold(0.9)
    assert "--abstain 0.7" in caught.value.fix


def test_saved_and_rebuilt_is_the_same():
    said, gold = drawn(100, sharper=3)
    made = fit_decision(said, gold)
    assert Decision.from_state(json.loads(json.dumps(made.state()))) == made
