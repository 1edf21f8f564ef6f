"""One operator and its estimators: subtract what the model would say anyway.

A model in context prefers some labels whatever it reads. Every calibration of its label scores in
use is the same pure shift in log space, `scores - bias`, and differs only in which inputs the bias
is read from:

content-free  inputs without content (contextual calibration, Zhao et al. 2021, arXiv 2102.09690)
premise       the prompt without an input (PMI_DC, Holtzman et al. 2021, arXiv 2104.08315): the most
              probable label after contextual calibration with that one input is exactly its answer
domain        random words of the task's own texts (Fei et al. 2023, arXiv 2305.19148)
generated     texts sampled from the model itself (Jiang et al. 2023, arXiv 2310.10266)
batch         unlabelled rows (batch calibration, Zhou et al. 2023, arXiv 2309.17249)
labels        labelled rows, by maximum likelihood; with a slope also temperature scaling (Platt
              1999; Guo et al. 2017, arXiv 1706.04599)

`BIASES` is their table, `choose_bias` takes the one that predicts held-out rows best. All are
fitted before and frozen: what one row is told never depends on the rows beside it. A shift moves
the boundary between labels and cannot rotate it; a probe can.

Scores are log-probabilities, shape (rows, classes), not normalised over the classes: a constant
added to a row changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats, Integers
from sapwood.metrics import log_loss
from sapwood.registry import did_you_mean

Float64 = NDArray[np.float64]

# Below this a class is out of the running; it keeps 0 x (-inf) out of the arithmetic.
LOWEST = -1e4
SHIFT_SPREAD = 2.0  # nats: small models prefer a label word by a few nats before calibration
SLOPE_SPREAD = 1.0
NEWTON_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Bias:
    """Calibrated log-probabilities are log softmax(slope * scores - shift).

    `source` names the estimator; `shift`: (classes,), in nats, sums to 0; `slope` is 0 or more and
    is 1 for a pure shift.
    """

    source: str
    shift: Float64
    slope: float = 1.0

    def apply(self, scores: Floats) -> Float64:
        """Return calibrated log-probabilities, shape (rows, classes), rows normalised.

        `scores`: (rows, classes). Raises DataError (E-DATA-063) on another shape or on
        not-a-number.
        """
        return log_softmax(self.slope * _checked(scores, len(self.shift)) - self.shift)

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        return {"source": self.source, "slope": self.slope}, {"shift": self.shift}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        return cls(
            source=str(settings["source"]),
            slope=float(settings["slope"]),
            shift=np.asarray(arrays["shift"], np.float64),
        )


def none(classes: int) -> Bias:
    """Return the bias that changes nothing but the normalisation."""
    return Bias(source="none", shift=np.zeros(classes))


def content_free(scores: Floats) -> Bias:
    """Return the log of the mean answer to inputs without content, see `inputs`.

    Contextual calibration (Zhao et al. 2021). `scores`: (inputs, classes), at least one input.
    """
    return _mean_answer("content-free", scores)


def premise(scores: Floats) -> Bias:
    """Return the log of the answer to the prompt without an input, `scores`: (1, classes).

    PMI_DC (Holtzman et al. 2021) takes the label with the most log p(y | x) - log p(y | premise).
    Both terms may be normalised over the labels, which adds a constant: the same operator.
    """
    return _mean_answer("premise", scores)


def domain(scores: Floats) -> Bias:
    """Return the log of the mean answer to random words of the domain, see `inputs`.

    Fei et al. 2023. `scores`: (inputs, classes).
    """
    return _mean_answer("domain", scores)


def generated(scores: Floats, prior: Floats | None = None) -> Bias:
    """Return the log of the mean answer to texts the model wrote, less the log of the class prior.

    Generative calibration (Jiang et al. 2023): the mean is the model's own p(label) under its
    context. `scores`: (inputs, classes); `prior`: see `batch`.
    """
    return _mean_answer("generated", scores, prior)


def batch(scores: Floats, prior: Floats | None = None) -> Bias:
    """Return the log of the mean answer over unlabelled inputs, less the log of the class prior.

    Batch calibration (Zhou et al. 2023) takes the classes to be equally common; on unbalanced data
    that pushes the frequent class away. `prior`: (classes,), positive, proportional to how common
    the classes are; None means equally common. `scores`: (rows, classes).

    Raises ConfigError (E-CONFIG-062) on a prior of another length or with an entry of 0 or less.
    """
    return _mean_answer("batch", scores, prior)


def labels(scores: Floats, gold_index: Integers, slope: bool = False) -> Bias:
    """Return the most probable shift (and slope) given labelled rows, by Newton's method.

    The likelihood is that of multinomial logistic regression on the scores; a normal prior holds
    the shift near 0 (spread 2 nats a class) and the slope near 1 (spread 1), so that a handful of
    rows do not overfit. The slope is never below 0: that would read the answers backwards.

    `scores`: (rows, classes); `gold_index`: (rows,), in [0, classes). Raises DataError
    (E-DATA-063) on other shapes, on not-a-number, and on an index out of range.
    """
    checked = _checked(scores)
    rows, classes = checked.shape
    gold = np.asarray(gold_index)
    if gold.shape != (rows,) or (gold < 0).any() or (gold >= classes).any():
        raise DataError(
            "E-DATA-063",
            f"Calibration on labels needs {rows} gold indices in [0, {classes}), one a row.",
        )
    fitted = _maximum(checked, gold, free_slope=slope, start=1.0)
    if fitted[-1] < 0:
        fitted = _maximum(checked, gold, free_slope=False, start=0.0)
    source = "labels+slope" if slope else "labels"
    return Bias(source=source, shift=_centred(fitted[:-1]), slope=float(fitted[-1]))


class Fit(Protocol):
    """How an estimator is called; each reads of `gold` and `prior` what it needs."""

    def __call__(
        self, scores: Floats, gold: Integers | None = None, prior: Floats | None = None
    ) -> Bias:
        """Return the bias from scores (rows, classes) of the inputs that the estimator reads."""
        ...


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """A named way to fit a bias. `reads` is the kind of inputs whose scores `fit` takes: a key of
    the scores given to `choose_bias`.
    """

    name: str
    reads: str
    fit: Fit


def _labelled(scores: Floats, gold: Integers | None, *, slope: bool) -> Bias:
    assert gold is not None, "this estimator reads labelled rows"
    return labels(scores, gold, slope)


_ESTIMATORS = (
    Estimator(name="none", reads="nothing", fit=lambda s, gold=None, prior=None: none(s.shape[1])),
    Estimator(
        name="content-free",
        reads="content-free inputs",
        fit=lambda s, gold=None, prior=None: content_free(s),
    ),
    Estimator(name="premise", reads="premise", fit=lambda s, gold=None, prior=None: premise(s)),
    Estimator(name="domain", reads="domain inputs", fit=lambda s, gold=None, prior=None: domain(s)),
    Estimator(
        name="generated",
        reads="generated inputs",
        fit=lambda s, gold=None, prior=None: generated(s, prior),
    ),
    Estimator(
        name="batch", reads="unlabelled rows", fit=lambda s, gold=None, prior=None: batch(s, prior)
    ),
    Estimator(
        name="labels",
        reads="labelled rows",
        fit=lambda s, gold=None, prior=None: _labelled(s, gold, slope=False),
    ),
    Estimator(
        name="labels+slope",
        reads="labelled rows",
        fit=lambda s, gold=None, prior=None: _labelled(s, gold, slope=True),
    ),
)
# Cheapest first: of estimators that predict alike the first is chosen.
BIASES = {estimator.name: estimator for estimator in _ESTIMATORS}


def choose_bias(
    scores: Mapping[str, Floats],
    gold: Integers,
    prior: Floats | None = None,
    *,
    allowed: Sequence[str] = tuple(BIASES),
    folds: int = 5,
) -> tuple[Bias, dict[str, float]]:
    """Return the bias that predicts labelled rows best, and the log loss of each that was tried.

    `scores`: what an estimator `reads` -> scores (rows, classes) of such inputs; "labelled rows"
    must be there, for they are what is predicted. An estimator whose inputs are not there is not
    tried; "unlabelled rows" are, where none are given, the labelled ones without their labels.
    `gold`: (labelled rows,). Estimators of labelled rows are fitted without the fold they predict,
    the others once; the chosen one is then fitted on all rows.

    Raises ConfigError (E-CONFIG-001) on an unknown name in `allowed`.
    """
    known, index = np.asarray(scores["labelled rows"], np.float64), np.asarray(gold)
    losses: dict[str, float] = {}
    made: dict[str, Bias] = {}
    for name in allowed:
        estimator = _estimator(name)
        own = estimator.reads == "unlabelled rows" and estimator.reads not in scores
        if own or estimator.reads in ("nothing", "labelled rows"):
            made[name] = estimator.fit(known, index, prior)
            losses[name] = _crossed_loss(estimator, known, index, prior, folds)
        elif estimator.reads in scores:
            made[name] = estimator.fit(scores[estimator.reads], None, prior)
            losses[name] = log_loss(np.exp(made[name].apply(known)), index)
    if not losses:
        return none(known.shape[1]), {}
    return made[min(losses, key=lambda name: losses[name])], losses


def _estimator(name: str) -> Estimator:
    if name not in BIASES:
        raise ConfigError(
            "E-CONFIG-001",
            f"Unknown bias '{name}'.{did_you_mean(name, BIASES)}",
            fix=f"use one of: {', '.join(BIASES)}",
        )
    return BIASES[name]


def _crossed_loss(
    estimator: Estimator, scores: Float64, gold: Integers, prior: Floats | None, folds: int
) -> float:
    """Return the mean log loss of held-out rows, each fold's bias fitted on the others."""
    fold = np.arange(len(scores)) % folds
    total = 0.0
    for number in range(folds):
        held = fold == number
        if held.any() and not held.all():
            fitted = estimator.fit(scores[~held], gold[~held], prior)
            total += log_loss(np.exp(fitted.apply(scores[held])), gold[held]) * held.sum()
    return float(total / len(scores))


def log_softmax(logits: Floats) -> Float64:
    """Return log-probabilities of the same shape, each row (last axis) summing to 1 as exp."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), np.float64)


def _checked(scores: Floats, classes: int | None = None) -> Float64:
    """Return normalised log-probabilities (rows, classes), none below LOWEST."""
    array = np.asarray(scores, np.float64)
    wrong = (
        array.ndim != 2 or array.size == 0 or (classes is not None and array.shape[1] != classes)
    )
    if wrong or np.isnan(array).any() or not bool(np.isfinite(array.max(1)).all()):
        raise DataError(
            "E-DATA-063",
            "Calibration needs scores of shape (rows, "
            f"{classes or 'classes'}), each row with a finite best score; got shape {array.shape}.",
            fix="look for an input that the model scored as not-a-number (an overflow, often)",
        )
    return np.maximum(log_softmax(array), LOWEST)


def _mean_answer(source: str, scores: Floats, prior: Floats | None = None) -> Bias:
    """Return the log of the mean answer, less that of the prior (classes,) where one is given."""
    checked = _checked(scores)
    classes = checked.shape[1]
    shares = np.ones(classes) if prior is None else np.asarray(prior, np.float64)
    if shares.shape != (classes,) or not bool((np.isfinite(shares) & (shares > 0)).all()):
        raise ConfigError(
            "E-CONFIG-062",
            f"A class prior needs {classes} positive numbers, one a class, got {shares.tolist()}.",
            fix="count the labels of the training rows and add 1 to each count",
        )
    return Bias(source=source, shift=_centred(_log_mean(checked) - np.log(shares)))


def _centred(shift: Float64) -> Float64:
    return np.asarray(shift - shift.mean(), np.float64)


def _log_mean(log_probabilities: Float64) -> Float64:
    """Return the log of each class's mean probability over the rows, shape (classes,)."""
    highest = log_probabilities.max(0)
    return np.asarray(highest + np.log(np.exp(log_probabilities - highest).mean(0)), np.float64)


def _maximum(scores: Float64, gold: Integers, *, free_slope: bool, start: float) -> Float64:
    """Return (shift..., slope) that maximises the posterior; the slope stays `start` if not free.

    A convex problem of classes + 1 unknowns: Newton with a step halved until the loss falls.
    """
    rows, classes = scores.shape
    weight = np.append(np.full(classes, SHIFT_SPREAD**-2), SLOPE_SPREAD**-2)
    centre = np.append(np.zeros(classes), 1.0)
    free = np.append(np.ones(classes, bool), free_slope)
    onehot = np.eye(classes)[gold]
    point = np.append(np.zeros(classes), start)

    def loss(at: Float64) -> float:
        log_p = log_softmax(at[-1] * scores - at[:-1])
        return float(-log_p[np.arange(rows), gold].sum() + (weight * (at - centre) ** 2).sum() / 2)

    value = loss(point)
    for _ in range(NEWTON_STEPS):
        p = np.exp(log_softmax(point[-1] * scores - point[:-1]))  # (rows, classes)
        residual = p - onehot
        gradient = np.append(-residual.sum(0), (residual * scores).sum())
        gradient += weight * (point - centre)
        mean_score = (p * scores).sum(1, keepdims=True)
        hessian = np.diag(weight)
        hessian[:-1, :-1] += np.diag(p.sum(0)) - p.T @ p
        hessian[-1, :-1] = hessian[:-1, -1] = -(p * (scores - mean_score)).sum(0)
        hessian[-1, -1] += (p * (scores - mean_score) ** 2).sum()
        step = np.zeros_like(point)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        decrease, length = float(gradient @ step), 1.0
        while length > 1e-8 and loss(point - length * step) > value - 1e-4 * length * decrease:
            length /= 2
        if decrease < 1e-10 or length <= 1e-8:
            break
        point = point - length * step
        value = loss(point)
    return point
