"""What class probabilities go through before they are told: a temperature, and when to keep silent.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599): p^(1/T), normalised again. The order of the
labels stays; only how sure they are said changes. Answering only where the largest probability is
high enough is the reject option (Chow 1970, IEEE Trans. Inf. Theory 16:41). Both are fitted on
development rows and frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError
from sapwood.interfaces import Floats, Integers
from sapwood.readouts.bias import log_softmax

Float64 = NDArray[np.float64]

# With fewer rows a temperature is mostly noise: fitted on 50 rows of calibrated probabilities
# (5 classes, right in 80 %) it is off by 22 %, on 500 rows by 6 % (simulated, standard deviations).
LEAST_ROWS = 50
FOLDS = 5
COLDEST, HOTTEST = 0.05, 20.0  # the ends of the search; nets tuned to the end need 1.5 to 4
HALVINGS = 50
SHARES = 101  # thresholds are kept for every percent of coverage
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How probabilities become answers.

    `temperature` > 0, 1 for none; `quantiles`: the confidences of development rows after it at
    every percent, ascending, (101,), or none; `losses`: held-out log loss on these rows without
    and with the fitted temperature, whether or not it was taken, or none.
    """

    temperature: float = 1.0
    quantiles: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()

    def apply(self, probabilities: Floats) -> Floats:
        """Return probabilities (rows, classes) at the temperature; rows sum to 1."""
        return _raised(probabilities, 1.0 / self.temperature)

    def undo(self, probabilities: Floats) -> Floats:
        """Return what `apply` was given, but for rounding."""
        return _raised(probabilities, self.temperature)

    def threshold(self, coverage: float) -> float:
        """Return the confidence that a share `coverage` of the development rows reaches.

        Raises ConfigError: E-CONFIG-160 a coverage outside (0, 1], E-CONFIG-161 without quantiles.
        """
        if not 0 < coverage <= 1:
            raise ConfigError(
                "E-CONFIG-160",
                f"The coverage is {coverage:g}; it is the share of rows to answer.",
                fix="give a number above 0 and up to 1, such as --coverage 0.9",
            )
        if not self.quantiles:
            raise ConfigError(
                "E-CONFIG-161",
                "This adaptation does not know how sure it was of its development rows, so no "
                "threshold follows from a coverage.",
                fix="name the threshold with --abstain 0.7, or make the adaptation again",
            )
        if coverage == 1:
            return 0.0
        shares = np.linspace(0.0, 1.0, len(self.quantiles))
        return float(np.interp(1.0 - coverage, shares, self.quantiles))

    def state(self) -> dict[str, Any]:
        """Return all there is to save, JSON-ready."""
        return {
            "temperature": self.temperature,
            "quantiles": list(self.quantiles),
            "losses": list(self.losses),
        }

    @classmethod
    def from_state(cls, content: Mapping[str, Any]) -> Self:
        """Rebuild exactly what `state` gave."""
        return cls(
            temperature=float(content["temperature"]),
            quantiles=tuple(map(float, content["quantiles"])),
            losses=tuple(map(float, content["losses"])),
        )


def fit_decision(probabilities: Floats, gold_index: Integers, *, seed: int = 0) -> Decision:
    """Return the decision of these rows; the temperature is 1 unless held-out rows gain by it.

    `probabilities`: (rows, classes); `gold_index`: (rows,), -1 for a label that is no class: such
    rows have a confidence and no part in the temperature. Fitted on four fifths of the rows and
    judged on the last fifth, five times (`seed` draws them), it must lower the log loss by more
    than the standard error of that gain.
    """
    known = np.asarray(gold_index) >= 0
    scores, gold = _logs(probabilities[known]), np.asarray(gold_index)[known]
    temperature = 1.0
    losses: tuple[float, ...] = ()
    if len(gold) >= LEAST_ROWS and (scores != scores[0]).any():  # else as sure of every row
        before, after = _nats(scores, gold, 1.0), _crossed(scores, gold, seed)
        gain = before - after
        losses = (round(float(before.mean()), 6), round(float(after.mean()), 6))
        if gain.mean() > gain.std() / np.sqrt(len(gain)):
            temperature = round(fit_temperature(scores, gold), 4)
    made = Decision(temperature=temperature, losses=losses)
    if not len(probabilities):
        return made
    confidence = made.apply(probabilities).max(1)
    quantiles = np.quantile(confidence, np.linspace(0.0, 1.0, SHARES))
    return Decision(
        temperature=temperature,
        quantiles=tuple(round(float(q), 6) for q in quantiles),
        losses=made.losses,
    )


def fit_temperature(scores: Floats, gold: Integers) -> float:
    """Return the temperature of the lowest log loss, in [COLDEST, HOTTEST].

    `scores`: log-probabilities (rows, classes); `gold`: (rows,). The loss is convex in 1/T, so its
    slope changes its sign once: halving finds where.
    """
    rows = np.arange(len(gold))
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        said = np.exp(log_softmax(np.exp(middle) * scores))
        slope = float(((said * scores).sum(1) - scores[rows, gold]).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _crossed(scores: Float64, gold: Integers, seed: int) -> Float64:
    """Return the nats of each row at the temperature of the other folds, (rows,)."""
    fold = np.random.default_rng(seed).permutation(len(gold)) % FOLDS
    found = np.zeros(len(gold))
    for number in range(FOLDS):
        held = fold == number
        temperature = fit_temperature(scores[~held], gold[~held])
        found[held] = _nats(scores[held], gold[held], temperature)
    return found


def _nats(scores: Float64, gold: Integers, temperature: float) -> Float64:
    return np.asarray(-log_softmax(scores / temperature)[np.arange(len(gold)), gold])


def _logs(probabilities: Floats) -> Float64:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), TINY))


def _raised(probabilities: Floats, power: float) -> Floats:
    if power == 1.0 or not len(probabilities):
        return probabilities
    return np.exp(log_softmax(power * _logs(probabilities)))
