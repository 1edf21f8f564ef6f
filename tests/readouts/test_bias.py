"""One operator and its estimators: what they find, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from sapwood.errors import ConfigError, DataError
from sapwood.metrics import log_loss
from sapwood.readouts import bias

scores = arrays(np.float64, (6, 3), elements=st.floats(-50, 0))
GOLD = np.array([0, 1, 2, 0, 1, 1])
ESTIMATORS = {
    name: lambda s, estimator=estimator: estimator.fit(s, GOLD, np.array([3.0, 1.0, 2.0]))
    for name, estimator in bias.BIASES.items()
}
UNLABELLED = [name for name, e in bias.BIASES.items() if e.reads != "labelled rows"]
each_estimator = pytest.mark.parametrize("estimate", ESTIMATORS.values(), ids=list(ESTIMATORS))


@each_estimator
@given(scores=scores)
def test_applied_scores_are_log_probabilities_and_the_shift_sums_to_zero(estimate, scores):
    found = estimate(scores)
    assert np.allclose(np.exp(found.apply(scores)).sum(1), 1)
    assert found.shift.sum() == pytest.approx(0, abs=1e-9)
    assert found.slope >= 0


@each_estimator
@given(scores=scores, added=arrays(np.float64, (6, 1), elements=st.floats(-100, 100)))
def test_a_constant_added_to_a_row_changes_nothing(estimate, scores, added):
    found, again = estimate(scores), estimate(scores + added)
    assert np.allclose(found.shift, again.shift, atol=1e-5)
    assert np.allclose(found.apply(scores), again.apply(scores + added), atol=1e-4)


@pytest.mark.parametrize("name", UNLABELLED)
@given(scores=scores, order=st.permutations(range(3)))
def test_permuting_the_classes_permutes_the_shift(name, scores, order):
    fit, prior = bias.BIASES[name].fit, np.array([3.0, 1.0, 2.0])
    moved = fit(scores[:, order], prior=prior[list(order)])
    assert np.allclose(fit(scores, prior=prior).shift[list(order)], moved.shift)


@given(scores=scores, order=st.permutations(range(3)))
def test_permuting_labelled_classes_permutes_the_shift(scores, order):
    place = np.argsort(order)
    moved = bias.labels(scores[:, order], place[GOLD], slope=True)
    found = bias.labels(scores, GOLD, slope=True)
    assert np.allclose(found.shift[list(order)], moved.shift, atol=1e-4)
    assert found.slope == pytest.approx(moved.slope, abs=1e-4)


@each_estimator
def test_saved_and_rebuilt_is_bit_equal(estimate):
    seen = np.log(np.random.default_rng(0).dirichlet(np.ones(3), 6))
    found = estimate(seen)
    again = bias.Bias.from_state(*found.state())
    assert again.source == found.source
    assert np.array_equal(again.apply(seen), found.apply(seen))


@pytest.mark.parametrize("name", bias.BIASES)
@given(scores=scores, prior=arrays(np.float64, 3, elements=st.floats(0.1, 10)))
def test_every_estimator_is_its_papers_formula(name, scores, prior):
    """Each as its paper writes it: with a ratio of probabilities, not with a shift of logs."""
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    fitted = bias.BIASES[name].fit(scores, GOLD, prior)
    mean = p.mean(0)
    if name in ("content-free", "premise", "domain"):
        ratio = p / mean
    elif name in ("batch", "generated"):
        ratio = p / mean * prior
    elif name == "none":
        ratio = p
    else:
        with np.errstate(divide="ignore"):
            ratio = np.maximum(p, np.exp(-200)) ** fitted.slope / np.exp(fitted.shift)
    expected = ratio / ratio.sum(1, keepdims=True)
    assert np.allclose(np.exp(fitted.apply(scores)), expected, atol=1e-9)
    assert fitted.source == name


@given(scores=scores, asked=arrays(np.float64, 3, elements=st.floats(-20, 0)))
def test_pmi_is_contextual_calibration_with_the_premise_as_the_only_input(scores, asked):
    fitted = bias.premise(asked[None])
    pmi = scores - asked  # log p(y | x) - log p(y | premise), neither normalised over the labels
    first, second = np.sort(pmi, axis=1)[:, -1], np.sort(pmi, axis=1)[:, -2]
    clear = first - second > 1e-6
    assert (fitted.apply(scores).argmax(1) == pmi.argmax(1))[clear].all()
    assert np.array_equal(fitted.shift, bias.content_free(asked[None]).shift)


@each_estimator
@given(scores=scores)
def test_what_a_row_is_told_never_depends_on_the_rows_beside_it(estimate, scores):
    fitted = estimate(scores)
    alone = np.concatenate([fitted.apply(scores[n : n + 1]) for n in range(len(scores))])
    assert np.array_equal(fitted.apply(scores), alone)
    with pytest.raises(AttributeError):
        fitted.shift = np.zeros(3)


def test_content_free_makes_the_content_free_answer_even():
    seen = np.array([[-1.0, -3.0, -0.2]])
    assert np.allclose(np.exp(bias.content_free(seen).apply(seen)), 1 / 3)


def skewed(rows: int, prior: list[float], seed: int = 0):
    """Return (scores, gold) of a model that knows the answer but likes class 0 too much."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(len(prior), rows, p=prior)
    evidence = rng.normal(size=(rows, len(prior))) + 2.5 * np.eye(len(prior))[gold]
    return evidence + np.array([4.0, 0.0, 0.0]), gold


def right(found: bias.Bias, scores: np.ndarray, gold: np.ndarray) -> float:
    return float((found.apply(scores).argmax(1) == gold).mean())


def test_batch_with_the_prior_keeps_what_batch_without_it_loses():
    prior = [0.9, 0.05, 0.05]
    seen, gold = skewed(2000, prior)
    assert right(bias.batch(seen, np.array(prior)), seen, gold) > right(
        bias.batch(seen), seen, gold
    )
    even, even_gold = skewed(2000, [1 / 3] * 3)
    assert right(bias.batch(even), even, even_gold) > right(bias.none(3), even, even_gold) + 0.2
    counts = np.array([90.0, 5.0, 5.0])  # proportional is enough
    assert np.allclose(bias.batch(seen, counts).shift, bias.batch(seen, np.array(prior)).shift)


@pytest.mark.parametrize("prior", [[0.5, 0.5, 0.0], [1.0, 1.0], [1.0, np.nan, 1.0]])
def test_a_prior_that_is_none_is_refused(prior):
    with pytest.raises(ConfigError, match="needs 3 positive numbers"):
        bias.batch(np.zeros((2, 3)), np.array(prior))


def test_labels_find_the_shift_and_the_slope():
    rng = np.random.default_rng(0)
    truth = 3 * rng.normal(size=(4000, 3))
    gold = (truth + rng.gumbel(size=truth.shape)).argmax(1)  # softmax(truth) exactly
    shown = (truth + np.array([2.0, -1.0, -1.0])) / 0.5  # twice too sure, and shifted
    found = bias.labels(shown, gold, slope=True)
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert np.allclose(found.shift, [2.0, -1.0, -1.0], atol=0.15)
    pure = bias.labels(shown, gold)
    assert pure.slope == 1.0
    losses = [log_loss(np.exp(b.apply(shown)), gold) for b in (found, pure, bias.none(3))]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("slope", [False, True])
def test_labels_reach_the_optimum_that_scipy_finds(slope):
    seen, gold = skewed(40, [0.5, 0.3, 0.2])
    normal = bias.log_softmax(seen)

    def loss(at):
        logits = (at[3] if slope else 1.0) * normal - at[:3]
        fit = -bias.log_softmax(logits)[np.arange(40), gold].sum()
        return fit + (at[:3] ** 2).sum() / (2 * 2.0**2) + (at[3] - 1) ** 2 / 2

    best = minimize(loss, np.array([0.0, 0, 0, 1]), tol=1e-10).x
    found = bias.labels(seen, gold, slope=slope)
    assert np.allclose(found.shift, best[:3] - best[:3].mean(), atol=1e-3)
    assert found.slope == pytest.approx(best[3] if slope else 1.0, abs=1e-3)


def test_eight_rows_do_not_overfit():
    seen = np.zeros((8, 2))
    found = bias.labels(seen, np.zeros(8, np.int64))  # all of one class: the likelihood has no end
    assert 0.8 < np.exp(found.apply(seen))[0, 0] < 0.99
    gains = []
    for seed in range(30):
        few, few_gold = skewed(8, [0.4, 0.3, 0.3], seed)
        many, many_gold = skewed(1000, [0.4, 0.3, 0.3], seed + 1000)
        gains.append(
            right(bias.labels(few, few_gold, slope=True), many, many_gold)
            - right(bias.none(3), many, many_gold)
        )
    assert np.mean(gains) > 0.1
    assert min(gains) > -0.05


def test_answers_are_never_read_backwards():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 200)
    upside_down = -3.0 * np.eye(2)[gold] + rng.normal(size=(200, 2))
    assert bias.labels(upside_down, gold, slope=True).slope == 0.0


def test_impossible_classes_and_large_scores_stay_finite():
    seen = np.array([[0.0, -np.inf, -900.0], [-2000.0, -1.0, -np.inf]])
    for estimate in (
        bias.content_free,
        bias.batch,
        lambda s: bias.labels(s, np.array([0, 1]), True),
    ):
        found = estimate(seen)
        assert np.isfinite(found.shift).all()
        assert np.isfinite(np.exp(found.apply(seen))).all()


def choosing(rows: int = 200, prior=(0.5, 0.3, 0.2)):
    seen, gold = skewed(rows, list(prior))
    return {"labelled rows": seen}, gold


def test_the_bias_of_the_lowest_held_out_loss_is_chosen():
    scores, gold = choosing()
    scores["content-free inputs"] = np.array([[4.0, 0.0, 0.0]])  # the truth, as it happens
    scores["premise"] = np.array([[0.0, 4.0, 0.0]])  # misleading
    found, losses = bias.choose_bias(scores, gold)
    assert list(losses) == ["none", "content-free", "premise", "batch", "labels", "labels+slope"]
    assert found.source == min(losses, key=losses.get)
    assert losses["content-free"] < losses["none"] < losses["premise"]
    by_hand = bias.content_free(np.array([[4.0, 0.0, 0.0]]))
    own = log_loss(np.exp(by_hand.apply(scores["labelled rows"])), gold)
    assert losses["content-free"] == pytest.approx(own, abs=1e-9)


def test_losses_are_of_rows_the_bias_has_not_seen():
    scores, gold = choosing(60)
    _, losses = bias.choose_bias(scores, gold, folds=4, allowed=("labels", "batch"))
    seen, total = scores["labelled rows"], {"labels": 0.0, "batch": 0.0}
    for row in range(60):
        other = np.arange(60) % 4 != row % 4
        for name in total:
            fitted = bias.BIASES[name].fit(seen[other], gold[other])
            total[name] -= fitted.apply(seen[row : row + 1])[0, gold[row]]
    for name in total:
        assert losses[name] == pytest.approx(total[name] / 60, abs=1e-9)


def test_the_choice_takes_the_prior_and_given_unlabelled_rows():
    scores, gold = choosing(300, prior=(0.9, 0.05, 0.05))
    _, even = bias.choose_bias(scores, gold, allowed=("batch",))
    found, told = bias.choose_bias(scores, gold, np.array([0.9, 0.05, 0.05]), allowed=("batch",))
    assert told["batch"] < even["batch"]
    assert found.source == "batch"
    scores["unlabelled rows"] = np.array([[0.0, 0.0, 0.0]])
    found, _ = bias.choose_bias(scores, gold, allowed=("batch",))
    assert np.allclose(found.shift, 0)


def test_with_nothing_to_go_by_nothing_is_changed():
    one = {"labelled rows": np.array([[0.0, 1.0]])}
    found, _ = bias.choose_bias(one, np.array([1]))
    assert found.source == "none"  # nothing can be held out of one row
    found, losses = bias.choose_bias(one, np.array([1]), allowed=("domain",))
    assert (found.source, losses) == ("none", {})
    with pytest.raises(ConfigError, match=r"Unknown bias 'premis'\. Did you mean 'premise'"):
        bias.choose_bias(one, np.array([1]), allowed=("premis",))


def test_scores_that_cannot_be_used_are_refused():
    for wrong in (
        np.zeros(3),
        np.zeros((0, 3)),
        np.array([[0.0, np.nan]]),
        np.full((1, 2), -np.inf),
    ):
        with pytest.raises(DataError, match="Calibration needs scores of shape"):
            bias.content_free(wrong)
    with pytest.raises(DataError, match=r"\(rows, 3\)"):
        bias.none(3).apply(np.zeros((2, 4)))
    with pytest.raises(DataError, match=r"2 gold indices in \[0, 3\)"):
        bias.labels(np.zeros((2, 3)), np.array([0, 3]))
