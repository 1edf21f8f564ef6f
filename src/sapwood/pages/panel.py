"""The scores of one task in words: measures, tables by type, kinds of errors.

Made from the report's `panel` (see `tasks.scoring.details`). What is not known here is shown under
its own name, so that a new measure needs no change of the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sapwood.pages.candidates import Report, Row
from sapwood.pages.words import ABSENT, Words, is_number
from sapwood.tasks.kinds import WRITTEN

Section = dict[str, Any]

ERRORS = ("boundary", "type", "boundary and type", "missed", "spurious")
# Measures that are no shares, by how their names begin, and how many digits follow the point.
_PLAIN = {"perplexity": 1, "bits": 2, "bleu": 1, "chrf": 1, "length": 1, "nats": 2}
# Families of measures that are named by an order: ROUGE-L, distinct-2.
_FAMILY = re.compile(r"(rouge|distinct|bleu|chrf|self_bleu|mauve)_?([0-9a-z]{0,2}?)(?:_f1?)?")
_LETTERS = {"rouge": "ROUGE", "bleu": "BLEU", "chrf": "chrF", "self_bleu": "self-BLEU",
            "mauve": "MAUVE"}  # fmt: skip
_SKIPPED = ("task", "rows", "errors")


def panel(report: Report, words: Words) -> Section | None:
    """Return the measures, tables and errors of the recommended, or None without a panel."""
    found = report.get("panel")
    if not isinstance(found, Mapping) or not found:
        return None
    written = report.get("task") in WRITTEN
    measures = list(_measures(found, words)) if not written else []
    return {
        "written": written,
        "measures": measures,
        "scale": _scale(measures),
        "groups": list(_groups(found, words)) if written else [],
        "tables": [table for table in (_table(found, key) for key in found) if table],
        "errors": _errors(found.get("errors"), words),
        "notes": list(_notes(found, words)),
        "rows": found.get("rows"),
    }


def _measures(found: Row, words: Words) -> Iterator[Section]:
    """Yield the measures that have an F1 or a value, in the order of the panel."""
    for key, score in found.items():
        if not isinstance(score, Mapping) or key in _SKIPPED:
            continue
        value = score.get("f1", score.get("value"))
        if is_number(value):
            yield {
                **{k: score.get(k) for k in ("precision", "recall", "low", "high")},
                **{k: score.get(k) for k in ("support", "answered")},
                "key": key,
                "name": named(f"measure_{key}", key, words),
                "about": named(f"about_{key}", "", words),
                "value": value,
            }


def _scale(measures: Sequence[Row]) -> tuple[float, float]:
    ends = [m[k] for m in measures for k in ("low", "value", "high") if is_number(m.get(k))]
    low = math.floor(10 * min(ends, default=0.0)) / 10
    return low, max(math.ceil(10 * max(ends, default=1.0)) / 10, low + 0.1)


def _table(found: Row, key: str) -> Section | None:
    """Return the table of scores by type, role or whatever `key` counts by, worst F1 first."""
    rows = found.get(key)
    if not key.startswith("by_") or not isinstance(rows, Sequence) or not rows:
        return None
    ordered = sorted(rows, key=lambda r: r["f1"] if is_number(r.get("f1")) else 2.0)
    return {
        "key": key,
        "rows": ordered,
        "partial": any(is_number(row.get("partial")) for row in rows),
        "answered": any(is_number(row.get("answered")) for row in rows),
    }


def _errors(found: object, words: Words) -> Section | None:
    if not isinstance(found, Mapping):
        return None
    counts = [(name, int(found.get(name) or 0)) for name in ERRORS]
    total = sum(count for _, count in counts)
    return {
        "total": total,
        "kinds": [
            {"key": name.replace(" ", "_"), "n": count, "share": count / (total or 1)}
            for name, count in counts
        ],
        "confused": list(found.get("confused") or []),
    }


def _notes(found: Row, words: Words) -> Iterator[str]:
    left = found.get("left_out")
    if left:
        yield words("note_left_out", names=words.listing([str(name) for name in left]))
    if found.get("direction") == "counted":
        yield words("note_direction")
    if found.get("unfinished"):
        yield words("note_unfinished", count=int(found["unfinished"]))


def _groups(found: Row, words: Words, path: str = "") -> Iterator[Section]:
    """Yield groups of measures of written texts: those of one mapping of the panel together."""
    lines, inner = [], []
    for key, value in found.items():
        if (not path and key in _SKIPPED) or key.startswith("by_"):
            continue
        if isinstance(value, Mapping) and not is_number(value.get("value")):
            inner.append((key, value))
            continue
        line = _line(key, value, words)
        if line:
            lines.append(line)
    if lines:
        title = named(f"group_{path}", path, words) if path else ""
        yield {"title": title, "lines": lines,
               "wanted": any(line["wanted"] != ABSENT for line in lines),
               "interval": any(line["interval"] for line in lines)}  # fmt: skip
    for key, value in inner:
        yield from _groups(value, words, key)


def _line(key: str, value: object, words: Words) -> Section | None:
    whole = value if isinstance(value, Mapping) else {"value": value}
    if isinstance(value, bool) or not is_number(whole.get("value")):
        if not isinstance(value, str | bool):
            return None
        told = words("yes" if value else "no") if isinstance(value, bool) else value
        whole, text = {}, told
    else:
        text = quantity(key, whole["value"], words)
    low, high = whole.get("low"), whole.get("high")
    spanned = is_number(low) and is_number(high)
    ends = [quantity(key, end, words, bare=True) for end in (low, high)] if spanned else []
    return {
        "key": key,
        "name": named(f"measure_{key}", key, words),
        "about": named(f"about_{key}", "", words),
        "value": text,
        "interval": words("to", low=ends[0], high=ends[1]) if ends else "",
        "wanted": quantity(key, whole.get("wanted"), words),
    }


def quantity(key: str, value: Any, words: Words, *, bare: bool = False) -> str:
    """Return a measure of written texts as it is read: a share in percent, others as numbers.

    >>> quantity("distinct_2", 0.81, Words()), quantity("perplexity", 23.46, Words())
    ('81.0 %', '23.5')
    """
    if not is_number(value):
        return ABSENT
    for stem, digits in _PLAIN.items():
        if key.startswith(stem):
            return words.number(value, digits)
    if -1.0 <= value <= 1.0:
        return words.bare(value) if bare else words.percent(value)
    return words.number(value, 0 if float(value).is_integer() else 2)


def named(key: str, otherwise: str, words: Words) -> str:
    """Return the sentence `key`, or the name `otherwise` in plain words where there is none.

    >>> named("measure_rouge_l", "rouge_l", Words()), named("?", "lines_right", Words())
    ('ROUGE-L', 'Lines right')
    """
    found = words.known(key)
    if found is not None:
        return found
    family = _FAMILY.fullmatch(otherwise)
    if family:
        stem = _LETTERS.get(family[1], family[1].capitalize())
        return f"{stem}-{family[2].upper()}" if family[2] else stem
    plain = otherwise.replace("_", " ")
    return plain[:1].upper() + plain[1:]
