"""The drawings of a report: score against cost, curves, lengths, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from sapwood.interfaces import Floats
from sapwood.pages.drawing import ACCENT, FONT, INK, MUTED, PAPER, SERIES, axes, draw, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (7, 2, 1.5, 2)),
    (0, (3, 1)),
    ":",
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A candidate in a plot of score (in percent) against a positive cost."""

    name: str
    cost: float
    value: float
    low: float
    high: float
    recommended: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a curve plot."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats on both cost and value, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.value)):
        if not front or point.value > front[-1].value:
            front.append(point)
    return front


def cost_plot(points: Sequence[Point], *, name: str, x: str, y: str, alt: str) -> Markup:
    """Draw score against cost on a log axis, with interval bars, names and the Pareto front."""

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, NullLocator

        plot = axes(figure)
        plot.set(xscale="log", xlabel=x, ylabel=y)
        costs = np.log10([p.cost for p in points])
        pad = max(0.25, 0.12 * float(np.ptp(costs)))
        plot.set_xlim(10 ** (costs.min() - pad), 10 ** (costs.max() + pad * 2))
        low, high = min(p.low for p in points), max(p.high for p in points)
        room = max(1.0, 0.06 * (high - low))
        plot.set_ylim(max(low - room, -2.0), min(high + room, 102.0))
        plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
        plot.xaxis.set_minor_locator(NullLocator())
        front = pareto_front(points)
        edge = plot.get_xlim()[1]
        plot.plot(
            [p.cost for p in front] + [edge],
            [p.value for p in front] + [front[-1].value],
            drawstyle="steps-post", color=MUTED, linewidth=1, zorder=2,
        )  # fmt: skip
        for point in points:
            colour = ACCENT if point.recommended else INK
            plot.plot([point.cost] * 2, [point.low, point.high], color=colour, linewidth=1.3)
            plot.plot(
                [point.cost], [point.value], zorder=4, linestyle="none",
                marker="D" if point.recommended else "o", markersize=7.5,
                markerfacecolor=colour if point in front else PAPER, markeredgecolor=colour,
            )  # fmt: skip
        _label_points(plot, points)

    return draw(paint, name=name, alt=alt, height=300)


def _label_points(plot: Axes, points: Sequence[Point]) -> None:
    """Write each name where it hides least of the points, the bars and the other names."""
    bounds = plot.bbox.extents
    anchors = [plot.transData.transform((p.cost, p.value)) for p in points]
    boxes = [(a[0] - 5, a[1] - 5, a[0] + 5, a[1] + 5) for a in anchors]
    for point in points:
        top = plot.transData.transform((point.cost, point.high))[1]
        left, bottom = plot.transData.transform((point.cost, point.low))
        boxes.append((left - 1, bottom, left + 1, top))
    boxes += _front_boxes(plot, pareto_front(points))
    order = sorted(range(len(points)), key=lambda i: (not points[i].recommended, -points[i].value))
    for index in order:
        wide = sum(1.0 if ord(c) > 0x2E7F else 0.56 for c in points[index].name) * FONT
        spots = [
            (side, lift)
            for lift in (0, 11, -11, 22, -22, 34, -34, 46, -46)
            for side in ("left", "right")
        ]

        def box(side: str, lift: float, at: Floats = anchors[index], w: float = wide) -> Box:
            start = at[0] + 9 if side == "left" else at[0] - 9 - w
            return start, at[1] + lift - 6, start + w, at[1] + lift + 6

        side, lift = min(
            spots,
            key=lambda spot: (
                sum(_overlap(box(*spot), other) for other in boxes)
                + 50 * _outside(box(*spot), bounds)
                + abs(spot[1]) * 0.8
            ),
        )
        boxes.append(box(side, lift))
        plot.annotate(
            points[index].name,
            (points[index].cost, points[index].value),
            xytext=(9 if side == "left" else -9, lift),
            textcoords="offset points",
            ha=side, va="center", color=ACCENT if points[index].recommended else INK,
            fontsize=FONT, parse_math=False, zorder=5,
            arrowprops=_LEADER if abs(lift) > 11 else None,
        )  # fmt: skip


def _front_boxes(plot: Axes, front: Sequence[Point]) -> list[Box]:
    """Return thin boxes around the steps of the front, for names to keep clear of."""
    corners = [plot.transData.transform((p.cost, p.value)) for p in front]
    corners.append(np.array([plot.bbox.x1, corners[-1][1]]))
    boxes: list[Box] = []
    for (x, y), (next_x, next_y) in pairwise(corners):
        boxes += [(x, y - 1, next_x, y + 1), (next_x - 1, y, next_x + 1, next_y)]
    return boxes


Box = tuple[float, float, float, float]
_LEADER: Any = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}


def _overlap(left: Box, right: Box) -> float:
    wide = min(left[2], right[2]) - max(left[0], right[0])
    high = min(left[3], right[3]) - max(left[1], right[1])
    return max(wide, 0.0) * max(high, 0.0)


def _outside(box: Box, bounds: Any) -> float:
    left, bottom, right, top = bounds
    return float(
        max(left - box[0], 0) + max(box[2] - right, 0)
        + max(bottom - box[1], 0) + max(box[3] - top, 0)
    )  # fmt: skip


def curve_plot(
    lines: Sequence[Series], *, name: str, x: str, alt: str, y: str = "", best: bool = False
) -> Markup:
    """Draw up to six lines over steps, each with its own dashes and its name at its end.

    With `best`, the highest point of each line gets a ring.
    """
    longest = max(sum(1.0 if ord(c) > 0x2E7F else 0.56 for c in line.name) * FONT for line in lines)

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        plot = axes(figure, right=min(longest + 12, 150))
        plot.set(xlabel=x, ylabel=y)
        plot.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        plot.yaxis.set_major_formatter(FuncFormatter(_plain))
        plot.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        for number, line in enumerate(lines):
            colour = SERIES[number % len(SERIES)]
            alone: dict[str, Any] = {"marker": "o", "markersize": 5} if len(line.x) == 1 else {}
            plot.plot(
                line.x, line.y, color=colour, linestyle=_DASHES[number % len(_DASHES)], **alone
            )
            if best:
                top = int(np.argmax(line.y))
                plot.plot(
                    [line.x[top]], [line.y[top]], marker="o", markersize=8, zorder=4,
                    markerfacecolor=PAPER, markeredgecolor=colour, markeredgewidth=1.6,
                )  # fmt: skip
        plot.margins(x=0.02, y=0.08)
        plot.autoscale_view()
        _label_ends(plot, lines)

    return draw(paint, name=name, alt=alt, height=230)


def _label_ends(plot: Axes, lines: Sequence[Series]) -> None:
    bounds = plot.bbox.extents
    ends = [float(plot.transData.transform((line.x[-1], line.y[-1]))[1]) for line in lines]
    places = spread(ends, FONT + 2.0, float(bounds[1]) + 6, float(bounds[3]) - 6)
    for number, (line, place) in enumerate(zip(lines, places, strict=True)):
        plot.annotate(
            line.name, (bounds[2] + 6, place), xycoords="figure pixels", va="center",
            color=SERIES[number % len(SERIES)], annotation_clip=False, parse_math=False,
        )  # fmt: skip


def _plain(value: float, _position: object) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", "−")
    return f"{value:,.4g}".replace("-", "−")


def length_plot(
    counts: Sequence[int], edges: Sequence[float], limit: float | None, *, x: str, y: str, alt: str
) -> Markup:
    """Draw a histogram of row lengths; a dashed line marks the limit when it is in sight."""

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        plot = axes(figure)
        plot.set(xlabel=x, ylabel=y)
        plot.grid(visible=False, axis="x")
        plot.bar(
            edges[:-1], counts, width=np.diff(edges) * 0.94, align="edge", color=ACCENT, alpha=0.75
        )
        plot.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        # A limit far beyond the longest row would squeeze the bars into a corner.
        if limit is not None and limit <= 1.6 * edges[-1]:
            plot.axvline(limit, color=INK, linestyle=(0, (4, 3)), linewidth=1.2)

    return draw(paint, name="lengths", alt=alt, height=210)


def calibration_plot(bins: Sequence[dict[str, Any]], *, x: str, y: str, alt: str) -> Markup:
    """Draw a reliability diagram (DeGroot & Fienberg 1983); areas are numbers of rows."""

    def paint(figure: Figure) -> None:
        plot = axes(figure)
        plot.set(xlim=(0, 100), ylim=(0, 100), xlabel=x, ylabel=y)
        plot.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        sure = [100 * row["confidence"] for row in bins]
        right = [100 * row["accuracy"] for row in bins]
        most = max(row.get("count") or 1 for row in bins)
        areas = [20 + 240 * (row.get("count") or 1) / most for row in bins]
        plot.plot(sure, right, color=ACCENT, linewidth=1, zorder=2)
        plot.vlines(sure, sure, right, color=ACCENT, linewidth=1, alpha=0.5)
        plot.scatter(
            sure, right, s=areas, facecolor=ACCENT, alpha=0.75, edgecolor=PAPER, zorder=3,
            clip_on=False,
        )  # fmt: skip

    return draw(paint, name="calibration", alt=alt, height=320)
