"""What of the evidence is drawn: each drawing with its caption, in the reader's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from sapwood.pages.answers import answered
from sapwood.pages.candidates import Report, best_split, ranked, score, shown
from sapwood.pages.plots import (
    Point,
    Series,
    calibration_plot,
    cost_plot,
    curve_plot,
    length_plot,
    pareto_front,
)
from sapwood.pages.words import Words, is_number

Drawing = dict[str, Any]

# More lines than this cannot be told apart by dashes and a name.
MOST_CURVES = 6
# Costs on a log axis need a floor: a microsecond a query, a millisecond to fit.
_FLOORS = {"ms_per_query": 1e-3, "fit_seconds": 1e-3}


def cost_drawings(report: Report, words: Words) -> list[Drawing]:
    """Return score against milliseconds a query and against seconds to fit, where measured."""
    pairs = (("query", "ms_per_query"), ("fit", "fit_seconds"))
    drawings = [_cost_drawing(report, words, name, field) for name, field in pairs]
    return [drawing for drawing in drawings if drawing]


def _cost_drawing(report: Report, words: Words, name: str, field: str) -> Drawing | None:
    split = best_split(report)
    points = []
    for candidate in ranked(report):
        found, cost = score(candidate, split), (candidate.get("cost") or {}).get(field)
        if not found or not is_number(cost):
            continue
        value = 100 * found["value"]
        low, high = (100 * v if is_number(v) else value for v in _ends(found))
        points.append(
            Point(
                name=shown(candidate.get("name")),
                cost=max(float(cost), _FLOORS[field]),
                value=value,
                low=low,
                high=high,
                recommended=candidate.get("name") == report.get("recommended"),
            )
        )
    if not points:
        return None
    x = words(f"x_{name}")
    y = words("y_score", metric=_metric(report, words), split=words.split(split))
    told = [f"{p.name} {p.value:.1f} ({p.cost:,.3g})" for p in points]
    alt = words("alt_cost", x=x, y=y, points=words.listing(told))
    front = words.listing([p.name for p in pareto_front(points)])
    return {
        "svg": cost_plot(points, name=name, x=x, y=y, alt=alt),
        "caption": words(f"fig_{name}", names=front),
    }


def _ends(found: Mapping[str, Any]) -> tuple[Any, Any]:
    return found.get("low"), found.get("high")


def _metric(report: Report, words: Words) -> str:
    return words.metric(report.get("metric") or "accuracy")


def curve_drawings(report: Report, words: Words) -> tuple[list[Drawing], str]:
    """Return loss, dev score and learning rate over steps, and a note on lines left out."""
    curves = report.get("curves") or {}
    order = [c.get("name") for c in ranked(report) if c.get("name") in curves]
    order += [name for name in curves if name not in order]
    kept = order[:MOST_CURVES]
    drawings = []
    for key, x, y, scale in (
        ("loss", "step", "loss", 1),
        ("dev", "dev_step", "dev", 100),
        ("lr", "step", "lr", 1),
    ):
        lines = [_series(shown(name), curves[name], x, y, scale) for name in kept]
        drawn = [line for line in lines if line.x]
        if drawn:
            drawings.append(_curve_drawing(key, drawn, report, words))
    left = words("curves_left_out", shown=len(kept), count=len(order)) if order[6:] else ""
    return drawings, left


def _series(name: str, curve: Mapping[str, Any], x: str, y: str, scale: float) -> Series:
    pairs = [
        (float(a), float(b) * scale)
        for a, b in zip(curve.get(x) or [], curve.get(y) or [], strict=False)
        if is_number(a) and is_number(b)
    ]
    return Series(name=name, x=tuple(a for a, _ in pairs), y=tuple(b for _, b in pairs))


def _curve_drawing(key: str, lines: list[Series], report: Report, words: Words) -> Drawing:
    caption, y = words(f"fig_{key}"), ""
    if key == "dev" and answered(report):
        caption = words("fig_dev_metric", metric=_metric(report, words))
        y = words("y_metric", metric=_metric(report, words))
    told = [
        words("series_range", name=s.name, first=f"{s.y[0]:.3g}", last=f"{s.y[-1]:.3g}")
        for s in lines
    ]
    alt = words("alt_curve", what=caption, series=words.listing(told))
    svg = curve_plot(lines, best=key == "dev", name=f"curve-{key}", x=words("x_step"), y=y, alt=alt)
    return {"svg": svg, "caption": caption}


def length_drawing(report: Report, words: Words) -> Drawing | None:
    """Return the histogram of row lengths with its limit, if the data card has one."""
    lengths = (report.get("data_card") or {}).get("lengths") or {}
    counts, edges = lengths.get("counts") or [], lengths.get("edges") or []
    if not counts or len(edges) != len(counts) + 1:
        return None
    unit = _unit(lengths.get("unit"), words)
    limit = lengths.get("limit") if is_number(lengths.get("limit")) else None
    top = max(range(len(counts)), key=lambda i: counts[i])
    alt = words(
        "alt_lengths",
        unit=unit,
        low=words.number(edges[0]),
        high=words.number(edges[-1]),
        start=words.number(edges[top]),
        end=words.number(edges[top + 1]),
        count=words.number(counts[top]),
    )
    svg = length_plot(counts, edges, limit, x=unit, y=words("y_rows"), alt=alt)
    told = ""
    if limit is not None:
        key = "fig_limit" if limit <= 1.6 * edges[-1] else "fig_limit_far"
        told = words(key, limit=words.number(limit))
    return {"svg": svg, "caption": words("fig_lengths", unit=unit, limit=told)}


def _unit(name: object, words: Words) -> str:
    return words(f"unit_{name}") if name in {"tokens", "characters", "words"} else str(name or "")


def calibration_drawing(report: Report, words: Words) -> Markup | None:
    """Return the reliability diagram of the bins that hold rows."""
    bins = filled_bins(report)
    if not bins:
        return None
    told = [
        f"{words.percent(b['confidence'])} {words.percent(b['accuracy'])} ({b.get('count')})"
        for b in bins
    ]
    alt = f"{words('fig_calibration')} {words.listing(told)}"
    return calibration_plot(bins, x=words("x_confidence"), y=words("y_accuracy"), alt=alt)


def filled_bins(report: Report) -> list[dict[str, Any]]:
    """Return the calibration bins that hold rows and two finite numbers."""
    bins = (report.get("calibration") or {}).get("bins") or []
    return [
        b
        for b in bins
        if is_number(b.get("confidence")) and is_number(b.get("accuracy")) and b.get("count", 1)
    ]
