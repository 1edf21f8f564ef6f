"""One operator, four estimators: subtract what the model would say anyway.

A model in context prefers some labels whatever it reads. Every calibration of its label scores in
use is the same pure shift in log space, `scores - bias`, and differs only in where the bias comes
from:

- `content_free`: inputs without content (Zhao et al. 2021, arXiv 2102.09690);
- `batch`: the mean over unlabelled inputs (Zhou et al. 2023, arXiv 2309.17249);
- `labels`: maximum likelihood on labelled rows, optionally with one slope, which is temperature
  scaling (Guo et al. 2017, arXiv 1706.04599) and vector scaling without its per-class slopes;
- `none`.

A shift moves the boundary between labels and cannot rotate it; a probe can.
Scores are log-probabilities, shape (rows, classes), not normalised over the classes: a constant
added to a row changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats, Integers

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
    """Return the log of the mean answer to inputs such as "N/A", "" and "[MASK]".

    Contextual calibration (Zhao et al. 2021). `scores`: (inputs, classes), at least one input.
    """
    return Bias(source="content_free", shift=_centred(_log_mean(_checked(scores))))


def batch(scores: Floats, prior: Floats | None = None) -> Bias:
    """Return the log of the mean answer over unlabelled inputs, less the log of the class prior.

    Batch calibration (Zhou et al. 2023) takes the classes to be equally common; on unbalanced data
    that pushes the frequent class away. `prior`: (classes,), positive, proportional to how common
    the classes are; None means equally common. `scores`: (rows, classes).

    Raises ConfigError (E-CONFIG-062) on a prior of another length or with an entry of 0 or less.
    """
    checked = _checked(scores)
    classes = checked.shape[1]
    shares = np.ones(classes) if prior is None else np.asarray(prior, np.float64)
    if shares.shape != (classes,) or not bool((np.isfinite(shares) & (shares > 0)).all()):
        raise ConfigError(
            "E-CONFIG-062",
            f"A class prior needs {classes} positive numbers, one a class, got {shares.tolist()}.",
            fix="count the labels of the training rows and add 1 to each count",
        )
    return Bias(source="batch", shift=_centred(_log_mean(checked) - np.log(shares)))


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
    return Bias(source="labels", shift=_centred(fitted[:-1]), slope=float(fitted[-1]))


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
