"""Scores with honest 95 % intervals: numpy only, no net, no scikit-learn.

Point scores (`accuracy`, `macro_f1`, `per_class`, `confusion`), quality of the probabilities
(`log_loss`, `expected_calibration_error`, `calibration_bins`), and what is known about them from
finitely many rows (`wilson`, `bootstrap_interval`, `paired_difference`, `mcnemar`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import exp, lgamma, log, sqrt
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats, Integers, Score

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]
Pair = tuple[Sequence[str], Sequence[str]]

Z95 = 1.959963984540054  # 97.5 % point of the standard normal: two-sided 95 %
CELLS = 4_000_000  # numbers held at once while resampling: 32 MB, whatever the number of rows


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One label's precision, recall and F1 in [0, 1]; `support` counts its gold rows."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Rows of similar confidence: their mean confidence, their accuracy (both [0, 1]), how many."""

    confidence: float
    accuracy: float
    count: int


def label_indices(labels_of_rows: Sequence[str | None], labels: Sequence[str]) -> Index:
    """Return the place of each row's label in `labels`, shape (rows,).

    Raises DataError (E-DATA-060) that lists every label that `labels` lacks.
    """
    place: dict[str | None, int] = {label: index for index, label in enumerate(labels)}
    unknown = sorted({str(label) for label in labels_of_rows if label not in place})
    if unknown:
        raise DataError(
            "E-DATA-060",
            f"{len(unknown)} label(s) of these rows are not among the {len(labels)} known labels.",
            details=[f"'{label}'" for label in unknown[:10]],
            fix=f"use only: {', '.join(list(labels)[:20])}",
        )
    return np.fromiter((place[label] for label in labels_of_rows), np.int64, len(labels_of_rows))


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Return the share of rows whose prediction is the gold label, in [0, 1].

    Raises DataError (E-DATA-061) on no rows or on unequal lengths.

    >>> accuracy(["a", "b"], ["a", "a"])
    0.5
    """
    return float(correct(gold, predicted).mean())


def correct(gold: Sequence[str], predicted: Sequence[str]) -> Float64:
    """Return 1.0 for each row answered rightly and 0.0 for the others, shape (rows,)."""
    _same_length(len(gold), len(predicted))
    return np.array([g == p for g, p in zip(gold, predicted, strict=True)], np.float64)


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> Index:
    """Return counts, shape (classes, classes): gold label by row, predicted label by column.

    Raises DataError: unequal lengths (E-DATA-061), a label outside `labels` (E-DATA-060).
    """
    _same_length(len(gold), len(predicted))
    size = len(labels)
    cell = label_indices(gold, labels) * size + label_indices(predicted, labels)
    return np.bincount(cell, minlength=size * size).reshape(size, size).astype(np.int64)


def per_class(
    gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]
) -> list[ClassScore]:
    """Return one ClassScore a label, in the order of `labels`; an undefined ratio counts as 0."""
    counts = confusion(gold, predicted, labels)
    right, said, support = np.diag(counts), counts.sum(0), counts.sum(1)
    return [
        ClassScore(
            label=label,
            precision=float(right[i] / max(said[i], 1)),
            recall=float(right[i] / max(support[i], 1)),
            f1=float(2 * right[i] / max(said[i] + support[i], 1)),
            support=int(support[i]),
        )
        for i, label in enumerate(labels)
    ]


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Return the mean F1 over the labels that occur in `gold` or in `predicted`, in [0, 1].

    A label in neither has no F1 and is left out, as scikit-learn does when no labels are named.
    """
    cells, right, gold_of, said_of = _cells(gold, predicted)
    return float(_macro_f1(cells[None, :].astype(np.float64), right, gold_of, said_of)[0])


def log_loss(probabilities: Floats, gold_index: Integers) -> float:
    """Return the mean of -log p(gold) in nats, at least 0.

    `probabilities`: (rows, classes), rows summing to 1; `gold_index`: (rows,). A probability of 0
    counts as the smallest step of float64 (2.2e-16), so one wrong certainty costs 36 nats, not inf.
    """
    chosen = _chosen(probabilities, gold_index)
    eps = float(np.finfo(np.float64).eps)
    return float(-np.log(np.clip(chosen, eps, 1.0)).mean())


def calibration_bins(
    probabilities: Floats, gold_index: Integers, bins: int = 15
) -> list[CalibrationBin]:
    """Return the filled ones of `bins` equal-width bins of top-class confidence, lowest first.

    The reliability diagram of Guo et al. (2017), arXiv 1706.04599. Shapes as in `log_loss`.
    """
    _chosen(probabilities, gold_index)
    if bins < 1:
        raise ConfigError("E-CONFIG-060", f"Calibration needs at least 1 bin, got {bins}.")
    confidence = np.asarray(probabilities, np.float64).max(1)
    right = np.argmax(probabilities, 1) == gold_index
    # A bin is (low, high]: a confidence on an edge belongs below it.
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return [
        CalibrationBin(
            confidence=float(confidence[place == b].mean()),
            accuracy=float(right[place == b].mean()),
            count=int((place == b).sum()),
        )
        for b in np.unique(place)
    ]


def expected_calibration_error(
    probabilities: Floats, gold_index: Integers, bins: int = 15
) -> float:
    """Return the mean gap between confidence and accuracy over the bins, weighted by rows, [0, 1].

    Naeini et al. (2015); Guo et al. (2017), arXiv 1706.04599, whose 15 bins are the default.
    """
    filled = calibration_bins(probabilities, gold_index, bins)
    total = sum(b.count for b in filled)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in filled) / total


def wilson(successes: float, rows: int) -> tuple[float, float]:
    """Return Wilson's (1927) 95 % interval for a proportion, both ends in [0, 1].

    Brown, Cai & DasGupta (2001, Statistical Science 16:101) recommend it for every sample size: it
    is not empty at 0 or `rows` successes, where the bootstrap claims certainty.

    >>> low, high = wilson(50, 50)
    >>> round(low, 3), high
    (0.929, 1.0)
    """
    share, z2 = successes / rows, Z95 * Z95
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 * sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows)) / (1 + z2 / rows)
    # At the ends the formula gives exactly 0 or 1; rounding must not move it past the value.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


def bootstrap_interval(
    rows: ArrayLike | Pair, metric: str = "accuracy", *, resamples: int = 2000, seed: int = 0
) -> Score:
    """Return a Score with its 95 % interval.

    `rows` is either per-row scores, shape (rows,), whose mean is the value (`metric` only names
    it), or the pair (gold, predicted) of label sequences with metric "accuracy" or "macro_f1".

    Scores of 0 and 1 get Wilson's interval: it needs no resampling and stays honest when every row
    is right. Other per-row scores get the percentile bootstrap (Efron 1979). So does macro-F1, on
    resampled confusion matrices, with two corrections. A resample misses rows of small classes and
    scores lower than the sample, as the sample does than the truth: that bias is taken off twice
    (without it 69 % of intervals at 150 classes held the truth, with it 95 %). And the interval is
    at least as wide on either side as that of the accuracy of the same rows, because a bootstrap
    cannot see errors that did not occur. With classes of a few rows it remains too narrow (89 % at
    one class of two rows).

    Raises DataError (E-DATA-061: no rows, unequal lengths; E-DATA-062: not a finite number) and
    ConfigError (E-CONFIG-061: a metric that a pair cannot have).
    """
    rng = np.random.default_rng(seed)
    if not isinstance(rows, tuple):
        values = _finite(rows)
        low, high = _mean_interval(values, resamples, rng)
        return Score(metric=metric, value=float(values.mean()), low=low, high=high)
    gold, predicted = cast(Pair, rows)
    scores = correct(gold, predicted)
    share = float(scores.mean())
    low, high = wilson(float(scores.sum()), len(scores))
    if metric == "accuracy":
        return Score(metric=metric, value=share, low=low, high=high)
    if metric != "macro_f1":
        raise ConfigError(
            "E-CONFIG-061",
            f"No interval for metric '{metric}' from gold and predicted labels.",
            fix="use one of: accuracy, macro_f1; or give per-row scores",
        )
    value = macro_f1(gold, predicted)
    draws = _resampled_macro_f1(gold, predicted, resamples, rng)
    f1_low, f1_high = _percentiles(draws - 2 * (float(draws.mean()) - value))
    return Score(
        metric=metric,
        value=value,
        low=max(0.0, min(f1_low, value - (share - low))),
        high=min(1.0, max(f1_high, value + (high - share))),
    )


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Return (mean, low, high) of a minus b over the same rows, with a 95 % interval.

    `a`, `b`: per-row scores, shape (rows,), same order. Percentile bootstrap over rows. For scores
    of 0 and 1 the interval also covers that of Agresti & Min (2005, Statistics in Medicine
    24:729), which adds half a row to each of the four outcomes: two systems that agree on all of 50
    rows are within about 4 points of each other, not proven equal. Other scores whose difference
    is constant give a zero-width interval.

    Raises DataError: no rows or unequal lengths (E-DATA-061), not a finite number (E-DATA-062).
    """
    left, right = _finite(a), _finite(b)
    _same_length(len(left), len(right))
    difference = left - right
    mean = float(difference.mean())
    low, high = _percentiles(_resampled_means(difference, resamples, np.random.default_rng(seed)))
    low, high = min(low, mean), max(high, mean)
    if _is_binary(left) and _is_binary(right):
        won, lost = float((difference > 0).sum()) + 0.5, float((difference < 0).sum()) + 0.5
        total = len(difference) + 2.0
        half = Z95 * sqrt(won + lost - (won - lost) ** 2 / total) / total
        centre = (won - lost) / total
        low, high = max(-1.0, min(low, centre - half)), min(1.0, max(high, centre + half))
    return mean, low, high


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Return the exact two-sided p-value of McNemar's (1947) test, in (0, 1].

    `a`, `b`: per-row scores of 0 and 1 of two systems on the same rows. Only the rows on which they
    differ count; 1.0 when there are none. Raises DataError as `paired_difference` does.
    """
    left, right = _finite(a), _finite(b)
    _same_length(len(left), len(right))
    won, lost = int((left > right).sum()), int((left < right).sum())
    n, k = won + lost, min(won, lost)
    tail = (lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) - n * log(2) for i in range(k + 1))
    return min(1.0, 2 * sum(exp(term) for term in tail))


def _same_length(first: int, second: int) -> None:
    """Raise DataError (E-DATA-061) unless both lengths are equal and not 0."""
    if first == 0 or first != second:
        raise DataError(
            "E-DATA-061",
            f"A score needs equally many rows on both sides and at least 1, got {first} and "
            f"{second}.",
        )


def _finite(values: ArrayLike) -> Float64:
    """Return `values` as float64 (rows,), or raise DataError on none or on not-a-number."""
    array = np.asarray(values, np.float64).reshape(-1)
    _same_length(len(array), len(array))
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise DataError(
            "E-DATA-062", f"Row {bad[0] + 1} has score {array[bad[0]]}, which is not a number."
        )
    return array


def _chosen(probabilities: Floats, gold_index: Integers) -> Float64:
    """Return each row's probability of its gold class, shape (rows,)."""
    _same_length(len(probabilities), len(gold_index))
    return np.asarray(probabilities, np.float64)[np.arange(len(gold_index)), gold_index]


def _is_binary(values: Float64) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _percentiles(draws: Float64) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % points."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _mean_interval(
    values: Float64, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the 95 % interval of a mean: Wilson for 0 and 1, else the percentile bootstrap."""
    if _is_binary(values):
        return wilson(float(values.sum()), len(values))
    low, high = _percentiles(_resampled_means(values, resamples, rng))
    mean = float(values.mean())
    return min(low, mean), max(high, mean)


def _resampled_means(values: Float64, resamples: int, rng: np.random.Generator) -> Float64:
    """Return the means of `resamples` draws of all rows with replacement, shape (resamples,).

    Rows of equal value are interchangeable, so drawing how often each distinct value appears
    (a multinomial) is the same bootstrap, and far cheaper for scores of few values.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) * 8 <= len(values):
        draws = [drawn @ distinct for drawn in _multinomial(counts, resamples, rng)]
        return np.asarray(np.concatenate(draws) / len(values), np.float64)
    means = np.empty(resamples)
    block = max(1, CELLS // len(values))
    for start in range(0, resamples, block):
        size = (min(block, resamples - start), len(values))
        means[start : start + block] = values[rng.integers(0, len(values), size)].mean(1)
    return means


def _multinomial(counts: Index, resamples: int, rng: np.random.Generator) -> Iterator[Float64]:
    """Yield blocks (resamples, kinds): how often each kind of row appears in a resample."""
    rows, block = int(counts.sum()), max(1, CELLS // len(counts))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield rng.multinomial(rows, counts / rows, size).astype(np.float64)


def _cells(
    gold: Sequence[str], predicted: Sequence[str]
) -> tuple[Index, Float64, Float64, Float64]:
    """Return the filled cells of the confusion matrix as counts and three indicator matrices.

    counts: (cells,); right, gold, said: (cells, classes), 1.0 where a row of the cell is a right
    answer of, has as gold label, is answered with, the class.
    """
    _same_length(len(gold), len(predicted))
    labels = sorted(set(chain(gold, predicted)))
    pairs = label_indices(gold, labels) * len(labels) + label_indices(predicted, labels)
    cell, counts = np.unique(pairs, return_counts=True)
    identity = np.eye(len(labels))
    gold_of, said_of = identity[cell // len(labels)], identity[cell % len(labels)]
    return counts.astype(np.int64), gold_of * said_of, gold_of, said_of


def _macro_f1(draws: Float64, right: Float64, gold_of: Float64, said_of: Float64) -> Float64:
    """Return macro-F1 of each draw; `draws`: (resamples, cells), the rest as `_cells` gives."""
    double_right, both = 2 * (draws @ right), draws @ (gold_of + said_of)  # (resamples, classes)
    seen = both > 0
    f1 = np.divide(double_right, both, out=np.zeros_like(both), where=seen)
    return np.asarray(f1.sum(1) / seen.sum(1), np.float64)


def _resampled_macro_f1(
    gold: Sequence[str], predicted: Sequence[str], resamples: int, rng: np.random.Generator
) -> Float64:
    """Return macro-F1 of `resamples` draws of the rows, shape (resamples,)."""
    counts, *indicators = _cells(gold, predicted)
    blocks = _multinomial(counts, resamples, rng)
    return np.concatenate([_macro_f1(drawn, *indicators) for drawn in blocks])
