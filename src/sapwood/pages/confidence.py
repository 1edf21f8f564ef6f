"""What the confidence is good for: the temperature, accuracy against coverage, rows outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sapwood.pages.candidates import Report
from sapwood.pages.drawing import ACCENT, MUTED, PAPER, axes, draw
from sapwood.pages.words import Words, is_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Section = dict[str, Any]


def temperature(report: Report, words: Words) -> str:
    """Return the sentence that says what the temperature did, empty where nothing is known."""
    found = report.get("temperature")
    if not isinstance(found, Mapping) or not is_number(found.get("value")):
        return ""
    losses = [n for n in found.get("losses") or [] if is_number(n)]
    dev = words.number(found.get("rows"))
    if found["value"] == 1:
        if len(losses) != 2:
            return words("temperature_few", rows=dev)
        before, after = (words.number(n, 3) for n in losses)
        return words("temperature_none", rows=dev, before=before, after=after)
    ends = [found.get("before") or {}, found.get("after") or {}]
    pairs = [words.number(end.get("log_loss"), 3) for end in ends]
    eces = [words.percent(end.get("ece")) for end in ends]
    return words(
        "temperature_told", value=words.number(found["value"], 2), rows=dev,
        before=pairs[0], after=pairs[1], ece_before=eces[0], ece_after=eces[1],
    )  # fmt: skip


def coverage(report: Report, words: Words) -> Section | None:
    """Return accuracy against coverage and rows outside all labels, None where there is neither."""
    found = report.get("coverage")
    if not isinstance(found, Mapping) or not found.get("coverage"):
        return None
    shares = [100 * n for n in found["coverage"]]
    right = [100 * n for n in found["accuracy"]]
    rows = [row for row in found.get("at") or [] if is_number(row.get("accuracy"))]
    marks = [(100 * row["coverage"], 100 * row["accuracy"]) for row in rows]
    told = [f"{words.percent(x / 100)} {words.percent(y / 100)}" for x, y in marks]
    alt = f"{words('fig_coverage')} {words.listing(told)}"
    areas = {
        key: words.percent(found.get(key)) for key in ("area", "area_by_chance", "area_at_best")
    }
    return {
        "svg": coverage_plot(
            shares, right, marks, x=words("x_coverage"), y=words("y_accuracy"), alt=alt
        ),
        "areas": words("p_coverage", **areas),
        "rows": rows,
        "outside": outside(report, words),
    }


def outside(report: Report, words: Words) -> Section | None:
    """Return the rows outside all labels: as they are answered, and with silence below a rule."""
    found = report.get("outside")
    if not isinstance(found, Mapping) or not isinstance(found.get("recall"), Mapping):
        return None
    rule = found.get("rule") or None
    lines = [{"name": words("outside_as_is"), **found}]
    if rule:
        name = words("outside_below", threshold=words.number(rule.get("threshold"), 3))
        lines.append({"name": name, **rule})
    return {"label": str(found.get("label")), "rows": found.get("rows"),
            "inside_rows": found.get("inside_rows"), "lines": lines}  # fmt: skip


def summary(report: Report, words: Words) -> list[str]:
    """Return sentences for a terminal: macro F1, calibration, coverage and rows outside."""
    lines = []
    macro = report.get("macro_f1")
    if isinstance(macro, Mapping) and is_number(macro.get("value")):
        span = words.span(macro.get("low"), macro.get("high"))
        ece = words.percent((report.get("calibration") or {}).get("ece"))
        lines.append(words("told_macro", value=words.percent(macro["value"]), range=span, ece=ece))
    found = coverage_rows(report)
    if found:
        told = [
            words("told_share", coverage=words.percent(row["coverage"]),
                  accuracy=words.percent(row["accuracy"]))
            for row in found
        ]  # fmt: skip
        lines.append(words("told_coverage", shares=words.listing(told)))
    apart = outside(report, words)
    for line in apart["lines"] if apart else []:
        lines.append(
            words("told_outside", label=apart["label"] if apart else "", name=line["name"],
                  recall=words.percent(line["recall"].get("value")),
                  inside=words.percent(line["inside"].get("value")))
        )  # fmt: skip
    return lines


def coverage_rows(report: Report) -> list[Mapping[str, Any]]:
    """Return the thresholds at which some test rows are answered."""
    found = report.get("coverage")
    rows = found.get("at") or [] if isinstance(found, Mapping) else []
    return [row for row in rows if is_number(row.get("accuracy"))]


def coverage_plot(
    shares: Sequence[float],
    right: Sequence[float],
    marks: Sequence[tuple[float, float]],
    *,
    x: str,
    y: str,
    alt: str,
) -> Markup:
    """Draw accuracy against coverage, both in percent; `marks` are the thresholds of the table."""

    def paint(figure: Figure) -> None:
        plot = axes(figure)
        low = min([*right, *(at for _, at in marks)])
        plot.set(xlim=(0, 101), ylim=(max(0.0, low - 5), 101), xlabel=x, ylabel=y)
        plot.plot([0, 100], [right[-1]] * 2, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        plot.plot(shares, right, color=ACCENT, linewidth=1.4, zorder=2)
        plot.plot(
            [at for at, _ in marks], [at for _, at in marks], linestyle="none", marker="o",
            markersize=7, markerfacecolor=ACCENT, markeredgecolor=PAPER, zorder=3,
        )  # fmt: skip

    return draw(paint, name="coverage", alt=alt, height=260)
