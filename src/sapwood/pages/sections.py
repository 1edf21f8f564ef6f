"""The sections of the page as plain values, in the order they are read."""

from __future__ import annotations

import math
from typing import Any

from sapwood.pages import figures
from sapwood.pages.answers import answered, answers
from sapwood.pages.candidates import (
    Report,
    Row,
    baseline,
    best_split,
    comparison,
    comparisons,
    find,
    ranked,
    score,
    shown,
)
from sapwood.pages.confidence import coverage, temperature
from sapwood.pages.evidence import classes, data, errors, examples, reproduce
from sapwood.pages.panel import panel
from sapwood.pages.verdict import unfinished_note, verdict
from sapwood.pages.words import Words, is_number, language_of

Section = dict[str, Any]


def sections(report: Report, words: Words) -> Section:
    """Return everything the page's template shows, by section."""
    drawings, left_out = figures.curve_drawings(report, words)
    return {
        "answer": answer(report, words),
        "candidates": candidates(report, words),
        "cost_drawings": figures.cost_drawings(report, words),
        "compare": compare(report, words),
        "data": data(report, words),
        "examples": examples(report, words),
        "curves": drawings,
        "curves_left_out": left_out,
        "classes": classes(report),
        "calibration": calibration(report, words),
        "temperature": temperature(report, words),
        "coverage": coverage(report, words),
        "errors": errors(report),
        "panel": panel(report, words),
        "answers": answers(report, words),
        "order": order(report),
        "choices": choices(report),
        "forecast": forecast(report),
        "reproduce": reproduce(report, words),
    }


def order(report: Report) -> list[str]:
    """Return the names of the sections, in order.

    A report whose answers are found or written has a panel and answers; it has classes,
    calibration and errors only if there are any, which all other reports have.
    """
    fixed = ["candidates", "cost", "compare", "data", "sees"]
    fixed += ["choices"] if choices(report) else []
    asked = [key for key, field in _CHOSEN.items() if not answered(report) or report.get(field)]
    own = ["panel", "answers"] if answered(report) else []
    if "calibration" in asked and (report.get("coverage") or {}).get("coverage"):
        asked.insert(asked.index("calibration") + 1, "coverage")
    return [*fixed, "curves", *own, *asked, "forecast", "reproduce"]


_CHOSEN = {"classes": "confusion", "calibration": "calibration", "errors": "errors"}


def answer(report: Report, words: Words) -> Section:
    """Return the verdict's lead and body, and the headline numbers."""
    stored = str(report.get("verdict") or "")
    same = language_of(report.get("language")) == words.lang
    said, separable = verdict(report, words.lang)
    sentence = stored if stored and same else said
    note = unfinished_note(report, words)
    if note and sentence.endswith(note):
        sentence = sentence[: -len(note)]
    else:
        note = ""
    colon = "：" if words.lang == "zh" else ": "
    lead, found, body = sentence.partition(colon)
    if not found or len(lead) > 60:
        lead, body = sentence, ""
    split = best_split(report)
    winner = find(report, report.get("recommended"))
    rival = baseline(report)
    return {
        "lead": lead.rstrip(".。") + words("stop") if body else lead,
        "body": body[:1].upper() + body[1:] if not _is_name(report, body) else body,
        "note": note.strip(),
        "separable": separable,
        "split": split,
        "winner": winner,
        "winner_score": score(winner, split),
        "baseline": rival,
        "baseline_score": score(rival, split),
        "difference": _headline_difference(report, winner, rival, split),
        "same": bool(winner and rival and winner.get("name") == rival.get("name")),
    }


def _is_name(report: Report, body: str) -> bool:
    """Tell whether a sentence starts with a candidate's name, whose letters are not to change."""
    names = [shown(c.get("name")) for c in report.get("candidates") or []]
    return any(body.startswith(name) for name in names)


def _headline_difference(
    report: Report, winner: Row | None, rival: Row | None, split: str
) -> Section | None:
    if not winner or not rival or winner.get("name") == rival.get("name"):
        return None
    found = comparison(report, winner.get("name"), rival.get("name"), split)
    if found is None:
        return None
    if split != "test":
        reading = "head_devonly"
    elif found["low"] > 0:
        reading = "head_separable"
    else:
        reading = "head_below" if found["high"] < 0 else "head_unseparable"
    return {**found, "key": reading}


def candidates(report: Report, words: Words) -> Section:
    """Return the rows of the candidates' table and the scale of its interval bars."""
    split = best_split(report)
    rows: list[Section] = []
    for candidate in ranked(report):
        parts = candidate.get("parts") or {}
        told = [str(parts[k]) for k in ("context", "prefix", "method", "readout") if parts.get(k)]
        rows.append(
            {
                "name": shown(candidate.get("name")),
                "parts": " · ".join(told),
                "recommended": candidate.get("name") == report.get("recommended"),
                "status": candidate.get("status") or "finished",
                "why": words.told(candidate.get("why") or ""),
                "dev": score(candidate, "dev"),
                "test": score(candidate, "test"),
                "shown": score(candidate, split),
                "cost": candidate.get("cost") or {},
            }
        )
    found = [row["shown"] for row in rows if row["shown"]]
    ends = [100 * f[k] for f in found for k in ("low", "value", "high") if is_number(f.get(k))]
    low = 5 * math.floor(min(ends, default=0) / 5)
    high = max(5 * math.ceil(max(ends, default=100) / 5), low + 5)
    tests = [row["test"] or {} for row in rows]
    budget = report.get("budget") or {}
    timed = is_number(budget.get("seconds")) and is_number(budget.get("spent"))
    return {
        "rows": rows,
        "split": split,
        "scale": (low / 100, high / 100),
        "macro_f1": any(is_number(t.get("macro_f1")) for t in tests),
        "ece": any(is_number(t.get("ece")) for t in tests),
        "bits": any(is_number(t.get("bits_a_byte")) for t in tests),
        "budget": budget if timed else None,
    }


def compare(report: Report, words: Words) -> Section | None:
    """Return the paired comparisons, the recommended's first, and the scale around zero."""
    rows = []
    for row in comparisons(report):
        key = "above" if row["low"] > 0 else "below" if row["high"] < 0 else "within"
        rows.append(
            {
                **row,
                "name": shown(row.get("candidate")),
                "base": shown(row.get("against")),
                "split": row.get("split", "test"),
                "key": key,
                "first": report.get("recommended") in (row.get("candidate"), row.get("against")),
            }
        )
    if not rows:
        return None
    rows.sort(key=lambda row: not row["first"])
    low = min(0.0, *(row["low"] for row in rows))
    high = max(0.0, *(row["high"] for row in rows))
    pad = 0.06 * (high - low) or 0.01
    return {"rows": rows, "scale": (low - pad, high + pad)}


def calibration(report: Report, words: Words) -> Section | None:
    """Return the reliability diagram, its bins and the expected calibration error."""
    drawing = figures.calibration_drawing(report, words)
    if drawing is None:
        return None
    return {
        "svg": drawing,
        "bins": figures.filled_bins(report),
        "ece": (report.get("calibration") or {}).get("ece"),
    }


def choices(report: Report) -> list[Section]:
    """Return, of candidates that prompt, the log loss by bias and the spread over orders."""
    rows: list[Section] = []
    for candidate in report.get("candidates") or []:
        notes = candidate.get("notes") or {}
        bias = {k: v for k, v in (notes.get("bias") or {}).items() if is_number(v)}
        spread = notes.get("spread") or {}
        span = [v for v in spread.get("accuracy") or [] if is_number(v)]
        if bias or len(span) == 3:
            rows.append(
                {
                    "name": shown(candidate.get("name")),
                    "bias": sorted(bias.items(), key=lambda item: item[1]),
                    "orders": spread.get("orders") if len(span) == 3 else None,
                    "span": span,
                    "rows": spread.get("rows"),
                }
            )
    return rows


def forecast(report: Report) -> list[Section]:
    """Return forecast and actual seconds with their ratio."""
    rows = []
    for row in report.get("forecast") or []:
        told, actual = row.get("forecast_seconds"), row.get("actual_seconds")
        ratio = actual / told if is_number(told) and is_number(actual) and told > 0 else None
        rows.append(
            {
                "name": shown(row.get("candidate")),
                "forecast": told,
                "actual": actual,
                "ratio": ratio,
            }
        )
    return rows
