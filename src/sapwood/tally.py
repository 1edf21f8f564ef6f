"""Scores of any task as functions of summed counts: one interval and one comparison for them all.

A row of any task leaves a few counts behind: right or wrong, spans found and wanted, nats and
bytes. A score is a function of the sums of these counts over rows, so that drawing rows again (the
bootstrap, Efron 1979) is one product of two matrices, whatever the task and its metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats, Integers, Score
from sapwood.metrics import CELLS, Z95, paired_difference, wilson

WHOLE_BITS = 8.0  # of a byte that nothing is known of
RESAMPLES = 2000  # the ends of a 95 % interval then rest on 50 draws each
Function = Callable[[Floats], Floats]  # sums (..., k) -> score (...)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The counts of every row and the score of their sums.

    `counts`: (rows, k); `score`: sums (..., k) -> (...), called on many resamples at once; `higher`
    tells whether more is better. `trials`: the same shapes, for a score that is a share: of how
    many yes-or-no outcomes it is one; None for scores that are none, such as bits a byte.
    Raises DataError: no rows (E-DATA-061), a count that is not a finite number (E-DATA-062).
    """

    metric: str
    counts: Floats
    score: Function
    higher: bool = True
    trials: Function | None = None

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or not len(self.counts):
            raise DataError(
                "E-DATA-061",
                f"The score '{self.metric}' needs at least 1 row of counts, "
                f"got an array of shape {self.counts.shape}.",
            )
        if not np.isfinite(self.counts).all():
            row = int(np.flatnonzero(~np.isfinite(self.counts).all(1))[0])
            raise DataError(
                "E-DATA-062", f"Row {row + 1} of '{self.metric}' has a count that is not a number."
            )

    @property
    def value(self) -> float:
        """Return the score of all rows."""
        return float(self.score(self.counts.sum(0)))

    def of(self, rows: Integers) -> Tally:
        """Return the tally of these rows (0-based places), for a race that looks at a part."""
        return replace(self, counts=self.counts[rows])

    def interval(self, seed: int = 0, resamples: int = RESAMPLES) -> Score:
        """Return the score with its 95 % interval from `resamples` draws of the rows.

        A share of rows answered rightly gets Wilson's interval. Other shares (F1) get the
        percentile bootstrap, made at least as wide as Wilson's interval for as many spans, because
        no bootstrap sees an error that did not occur: 40 spans all found are no proof of 100 %. A
        macro mean scores lower in a resample than in the sample, by as much as the sample scores
        below the truth, so that bias is taken off twice, as `metrics.bootstrap_interval` does.
        """
        value = self.value
        trials = float(self.trials(self.counts.sum(0))) if self.trials else 0.0
        if self.score is ratio and self.trials and _is_yes_or_no(self.counts):
            low, high = wilson(value * trials, round(trials))
            return Score(metric=self.metric, value=value, low=low, high=high)
        draws = np.concatenate(
            [self.score(sums) for sums in _resampled(self.counts, resamples, seed)]
        )
        if self.score is macro_f1:
            draws = draws - 2 * (float(draws.mean()) - value)
        low, high = (float(end) for end in np.percentile(draws, [2.5, 97.5]))
        if self.trials:
            # A score of nothing (no span anywhere) is 0 of 1 trial: it says next to nothing.
            least, most = wilson(value * max(trials, 1.0), max(round(trials), 1))
            low, high = max(0.0, min(low, least)), min(1.0, max(high, most))
        return Score(metric=self.metric, value=value, low=min(low, value), high=max(high, value))


def paired(
    a: Tally, b: Tally, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Return (difference, low, high) of two systems on the same rows, with a 95 % interval.

    The difference is a minus b where more is better and b minus a where less is, so that above zero
    always says that `a` is better. Both are drawn with the same rows. Two systems that answer all
    of 50 spans alike are within about 4 points of each other, not proven equal (Agresti and Min
    2005, Statistics in Medicine 24:729). The columns of the two may differ (types that only one of
    them answers). Raises DataError (E-DATA-061) on unequal rows and ConfigError (E-CONFIG-062) on
    two different metrics.
    """
    if a.metric != b.metric or a.higher != b.higher:
        raise ConfigError(
            "E-CONFIG-062", f"'{a.metric}' and '{b.metric}' cannot be compared: two metrics."
        )
    if len(a.counts) != len(b.counts):
        raise DataError(
            "E-DATA-061",
            f"Two systems are compared on the same rows, got {len(a.counts)} and {len(b.counts)}.",
        )
    plain = all(t.score is ratio and t.trials and _is_yes_or_no(t.counts) for t in (a, b))
    if plain and a.higher:
        return paired_difference(a.counts[:, 0], b.counts[:, 0], seed=seed, resamples=resamples)
    sign = 1.0 if a.higher else -1.0
    both, width = np.hstack([a.counts, b.counts]), a.counts.shape[1]
    value = sign * (a.value - b.value)
    draws = sign * np.concatenate(
        [a.score(s[:, :width]) - b.score(s[:, width:]) for s in _resampled(both, resamples, seed)]
    )
    low, high = (float(end) for end in np.percentile(draws, [2.5, 97.5]))
    if a.trials and b.trials:
        least = min(float(t.trials(t.counts.sum(0))) for t in (a, b) if t.trials)
        half = Z95 / (least + 2.0)  # Agresti and Min with half an outcome won and half lost
        low, high = max(-1.0, min(low, value - half)), min(1.0, max(high, value + half))
    return value, min(low, value), max(high, value)


def ratio(sums: Floats) -> Floats:
    """Return the first sum over the second, (..., 2) -> (...); 0 where the second is 0.

    >>> float(ratio(np.array([3.0, 4.0])))
    0.75
    """
    return _divide(sums[..., 0], sums[..., 1])


def micro_f1(sums: Floats) -> Floats:
    """Return F1 from (right, wanted, answered), (..., 3) -> (...); 0 where there is nothing.

    >>> float(micro_f1(np.array([1.0, 2.0, 2.0])))
    0.5
    """
    return _divide(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def macro_f1(sums: Floats) -> Floats:
    """Return the mean F1 over types from (right, wanted, answered) a type, (..., 3 types) -> (...).

    A type that is neither wanted nor answered has no F1 and does not count.
    """
    f1, seen = _by_type(sums)
    return _divide(f1.sum(-1), seen.sum(-1).astype(np.float64))


def bits(sums: Floats) -> Floats:
    """Return bits a byte from (nats, bytes), (..., 2) -> (...)."""
    return np.asarray(ratio(sums) / np.log(2.0))


def saved(sums: Floats) -> Floats:
    """Return the share of bits saved from (nats, bytes), (..., 2) -> (...)."""
    return 1.0 - bits(sums) / WHOLE_BITS


def exponential(sums: Floats) -> Floats:
    """Return the perplexity from (nats, units), (..., 2) -> (...); a unit is a token or a word."""
    return np.exp(ratio(sums))


def share(metric: str, right: Floats) -> Tally:
    """Return the tally of a share of rows; `right`: (rows,), 1.0 where a row is right, else 0.0."""
    return Tally(metric=metric, counts=_with_ones(right), score=ratio, trials=_second)


def mean(metric: str, values: Floats, *, higher: bool = True) -> Tally:
    """Return the tally of a mean over rows; `values`: (rows,), any finite numbers."""
    return Tally(metric=metric, counts=_with_ones(values), score=ratio, higher=higher)


def bits_saved(counts: Floats) -> Tally:
    """Return the tally of the share of bits saved; `counts`: (rows, 2): nats, bytes."""
    return Tally(metric="bits_saved", counts=counts, score=saved)


def f1(metric: str, counts: Floats) -> Tally:
    """Return the tally of a micro F1; `counts`: (rows, 3): right, wanted, answered."""
    return Tally(metric=metric, counts=counts, score=micro_f1, trials=_spans)


def f1_of_types(metric: str, counts: Floats) -> Tally:
    """Return the tally of a macro F1; `counts`: (rows, 3 types): right, wanted, answered a type."""
    return Tally(metric=metric, counts=counts, score=macro_f1, trials=_spans)


def bits_a_byte(nats: Floats, size: Floats) -> Tally:
    """Return the tally of bits a byte; `nats` and `size` in bytes of UTF-8: (rows,) each."""
    counts = np.stack([nats, size], 1).astype(np.float64)
    return Tally(metric="bits_a_byte", counts=counts, score=bits, higher=False)


def perplexity(metric: str, nats: Floats, units: Floats) -> Tally:
    """Return the tally of a perplexity; `nats` and `units` (tokens, words): (rows,) each."""
    counts = np.stack([nats, units], 1).astype(np.float64)
    return Tally(metric=metric, counts=counts, score=exponential, higher=False)


def _with_ones(values: Floats) -> Floats:
    return np.stack([np.asarray(values, np.float64), np.ones(len(values))], 1)


def _second(sums: Floats) -> Floats:
    return sums[..., 1]


def _spans(sums: Floats) -> Floats:
    """Return half of all that is wanted or answered: what F1 is a share of."""
    return np.asarray((sums[..., 1::3].sum(-1) + sums[..., 2::3].sum(-1)) / 2)


def _divide(above: Floats, below: Floats) -> Floats:
    """Return a quotient that is 0 where `below` is 0."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))


def _by_type(sums: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return (F1, whether the type is seen), both (..., types)."""
    right, both = sums[..., 0::3], sums[..., 1::3] + sums[..., 2::3]
    return _divide(2 * right, both), both > 0


def _is_yes_or_no(counts: Floats) -> bool:
    """Tell whether each row is one outcome, right or wrong."""
    right = counts[:, 0]
    return bool((counts[:, 1] == 1).all() and ((right == 0) | (right == 1)).all())


def _resampled(counts: Floats, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks (draws, k) of the sums of as many rows, drawn with replacement.

    Rows of equal counts are interchangeable, so where these are many only how often each kind is
    drawn is drawn (a multinomial): the same bootstrap for far less work.
    """
    rng = np.random.default_rng(seed)
    rows = len(counts)
    kinds, times = np.unique(counts, axis=0, return_counts=True)
    few = len(kinds) * 8 <= rows
    block = max(1, CELLS // (len(kinds) if few else rows))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if few:
            yield rng.multinomial(rows, times / rows, size).astype(np.float64) @ kinds
            continue
        drawn = rng.integers(0, rows, (size, rows))
        drawn += np.arange(size)[:, None] * rows
        weights = np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)
        yield weights.astype(np.float64) @ counts
