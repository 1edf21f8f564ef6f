"""Answering only where one is sure: accuracy against coverage, and the label that means none.

Selective classification (El-Yaniv and Wiener 2010, JMLR 11:1605): rows below a confidence get no
answer; the coverage is the share that gets one, the risk the share of these that is wrong. The area
under risk over coverage (Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206) tells how well the
confidence orders rows, whatever the threshold. For a label outside all others the recall of its own
rows and the accuracy on all others are told apart, as Larson et al. 2019 (arXiv 1909.02027) do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError
from sapwood.interfaces import Floats
from sapwood.metrics import wilson
from sapwood.registry import did_you_mean

Float64 = NDArray[np.float64]

COVERAGES = (0.8, 0.9, 0.95)
POINTS = 100  # of the curve, one a percent of coverage
# What data sets call the label that means none of the others, letters and digits only.
OUTSIDE = frozenset(
    [
        "oos", "ood", "outofscope", "outofdomain", "other", "others", "noneoftheabove",
        "noneofthese",
        "其他", "其它", "以上都不是", "范围外",
    ]
)  # fmt: skip


def outside_label(labels: Sequence[str], named: str = "") -> str | None:
    """Return the label that means none of the others: the one `named`, or one known by its name.

    None where there is none, or where several names are known ones. Raises ConfigError
    (E-CONFIG-162) when no row has the label `named`.

    >>> outside_label(["book_flight", "out_of_scope"]), outside_label(["good", "bad"])
    ('out_of_scope', None)
    """
    if named:
        if named not in labels:
            raise ConfigError(
                "E-CONFIG-162",
                f"No row has the label '{named}'.{did_you_mean(named, labels)}",
                fix="name a label of the data with --oos",
            )
        return named
    found = [label for label in labels if _letters(label) in OUTSIDE]
    return found[0] if len(found) == 1 else None


def _letters(label: str) -> str:
    return "".join(letter for letter in label.casefold() if letter.isalnum())


def risk_coverage(confidence: Floats, right: Floats) -> Float64:
    """Return the risk when the n surest rows are answered, for n from 1 to all, (rows,).

    `confidence`, `right` (1.0 or 0.0): (rows,). Rows of equal confidence count as their mean: they
    can be answered in any order.
    """
    order = np.argsort(-np.asarray(confidence, np.float64), kind="stable")
    sure, outcome = np.asarray(confidence)[order], np.asarray(right, np.float64)[order]
    _, place, sizes = np.unique(-sure, return_inverse=True, return_counts=True)
    shared = np.bincount(place, weights=outcome)[place] / sizes[place]
    return np.asarray(1.0 - np.cumsum(shared) / np.arange(1, len(sure) + 1))


def coverage_details(confidence: Floats, right: Floats) -> dict[str, Any]:
    """Return the curve of accuracy against coverage and its areas, JSON-ready.

    `area`: the mean risk over all coverages; `area_by_chance`: that of a confidence that says
    nothing; `area_at_best`: that of one which orders every wrong row behind every right one.
    """
    risk = risk_coverage(confidence, right)
    rows = len(risk)
    ends = np.unique(np.ceil(np.linspace(1, POINTS, POINTS) * rows / POINTS).astype(int))
    return {
        "coverage": [round(int(n) / rows, 6) for n in ends],
        "accuracy": [round(float(1.0 - risk[n - 1]), 6) for n in ends],
        "area": float(risk.mean()),
        "area_by_chance": float(risk[-1]),
        "area_at_best": float(risk_coverage(right, right).mean()),
    }


def answered_above(confidence: Floats, right: Floats, threshold: float) -> dict[str, Any]:
    """Return coverage and accuracy of the rows that reach a threshold, with its 95 % interval."""
    kept = np.asarray(confidence) >= threshold
    count = int(kept.sum())
    found: dict[str, Any] = {
        "threshold": float(threshold), "coverage": count / max(1, len(kept)), "answered": count,
        "accuracy": None, "low": None, "high": None,
    }  # fmt: skip
    return {**found, **_share(np.asarray(right)[kept], "accuracy")} if count else found


def outside_details(
    gold: Sequence[str], said: Sequence[str], label: str, silent: Floats | None = None
) -> dict[str, Any]:
    """Return how well rows outside are told from the others, JSON-ready, with 95 % intervals.

    `recall`, `precision`: of the label; `inside`: accuracy on the rows of all other labels.
    `silent`: (rows,), True where no answer is given, which counts as the label.
    """
    words = np.array([*said, ""], object)[:-1].copy()
    if silent is not None:
        words[np.asarray(silent, bool)] = label
    wanted = np.array([*gold, ""], object)[:-1]
    outside, told = wanted == label, words == label
    return {
        "rows": int(outside.sum()),
        "recall": _share(told[outside]),
        "precision": _share(outside[told]),
        "inside": _share((words == wanted)[~outside]),
        "inside_rows": int((~outside).sum()),
    }


def outside_threshold(
    gold: Sequence[str], said: Sequence[str], confidence: Floats, label: str
) -> float | None:
    """Return the confidence below which a row is best taken for one outside, None without such.

    Best: the highest mean of recall outside and accuracy inside, so that it does not matter how
    many rows of each these rows happen to have. 0 where silence never helps.
    """
    outside = np.array([one == label for one in gold])
    if not outside.any() or outside.all():
        return None
    told = np.array([one == label for one in said])
    right = np.array([one == other for one, other in zip(gold, said, strict=True)])
    order = np.argsort(confidence, kind="stable")
    sure = np.asarray(confidence, np.float64)[order]
    # silencing a row outside that was not told so wins; silencing a right row inside loses
    won = (outside & ~told)[order] / outside.sum()
    lost = (right & ~outside)[order] / (~outside).sum()
    gain = np.concatenate([[0.0], np.cumsum(won - lost)])
    distinct = np.concatenate([[True], sure[1:] > sure[:-1], [True]])
    best = int(np.argmax(np.where(distinct, gain, -np.inf)))
    if best == 0 or gain[best] <= 0:
        return 0.0
    return float(sure[best]) if best < len(sure) else float(np.nextafter(sure[-1], 2.0))


def _share(right: Any, name: str = "value") -> dict[str, float | None]:
    """Return a share of rows with Wilson's interval; nothing of no rows."""
    values = np.asarray(right, np.float64)
    if not len(values):
        return {name: None, "low": None, "high": None}
    low, high = wilson(float(values.sum()), len(values))
    return {name: float(values.mean()), "low": low, "high": high}
