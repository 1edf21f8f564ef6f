"""Small drawings as plain numbers: templates turn them into SVG, whose colours are the page's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDE, HIGH = 120, 28  # of a curve, in units of its drawing
CHART_WIDE, CHART_HIGH = 640, 180
_EDGE = 8  # units around what a chart shows


def curve(points: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Return a curve as the points of a polyline, with its first and last value; None without one.

    >>> curve([[1, 2.0], [2, 1.0]])["points"]
    '0.0,2.0 120.0,26.0'
    """
    if len(points) < 2:
        return None
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high, first, last = min(ys), max(ys), xs[0], xs[-1]
    wide, tall = (last - first) or 1, (high - low) or 1
    drawn = " ".join(
        f"{(x - first) / wide * WIDE:.1f},{2 + (high - y) / tall * (HIGH - 4):.1f}"
        for x, y in points
    )
    return {"points": drawn, "first": ys[0], "last": ys[-1]}


def scale_of(scores: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the ends of an axis that has room for all these intervals."""
    ends = [float(s[k]) for s in scores for k in ("low", "value", "high") if s.get(k) is not None]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    pad = 0.04 * (high - low) or 0.5
    return low - pad, high + pad


def chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return candidates as dots over time, and the best so far as a line of steps.

    More is better. None below two candidates, where there is nothing to see.
    """
    if len(rows) < 2:
        return None
    first = min(row["began"] for row in rows)
    seconds = [row["made"] - first for row in rows]
    values = [float(row["dev"]["value"]) for row in rows]
    longest = max(*seconds, 1.0)
    low, high = min(values), max(values)
    tall = (high - low) or 1.0

    def at(second: float, value: float) -> tuple[float, float]:
        x = _EDGE + second / longest * (CHART_WIDE - 2 * _EDGE)
        return round(x, 1), round(_EDGE + (high - value) / tall * (CHART_HIGH - 2 * _EDGE), 1)

    dots = [{"x": x, "y": y, "name": row["name"], "value": value}
            for row, second, value in zip(rows, seconds, values, strict=True)
            for x, y in [at(second, value)]]  # fmt: skip
    best = values[0]
    steps: list[tuple[float, float]] = []
    for second, value in zip(seconds, values, strict=True):
        if steps:
            steps.append(at(second, best))
        best = max(best, value)
        steps.append(at(second, best))
    line = " ".join(f"{x},{y}" for x, y in steps)
    return {"dots": dots, "line": line, "low": low, "high": high, "seconds": longest,
            "wide": CHART_WIDE, "tall": CHART_HIGH}  # fmt: skip
