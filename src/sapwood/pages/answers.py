"""Rows of a task with what was wanted and what was answered, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sapwood.pages.candidates import Report
from sapwood.pages.spans import Mark, marked_text, marks_of, reading, tongue
from sapwood.pages.words import Words
from sapwood.tasks.kinds import SEVERAL, WRITTEN

Section = dict[str, Any]
Place = tuple[int, int]

LONGEST = 900  # characters of a written text shown


def answered(report: Report) -> bool:
    """Tell whether answers are found in the text or written: there is no confusion matrix."""
    return report.get("task") in (*SEVERAL, *WRITTEN) or bool(report.get("panel"))


def answers(report: Report, words: Words) -> Section | None:
    """Return the samples and the worst errors of the recommended, and how they are laid out."""
    rows = [row for row in report.get("answers") or [] if isinstance(row, Mapping)]
    if not rows:
        return None
    task = str(report.get("task"))
    written = task in WRITTEN
    show = _written if written else _found
    kinds = {
        kind: [show(row, task, words) for row in rows if (row.get("kind") or "sample") == kind]
        for kind in ("sample", "error")
    }
    marked = not written and any(r["spans"] or r["said"] for some in kinds.values() for r in some)
    return {
        "written": written,
        "samples": kinds["sample"],
        "errors": kinds["error"],
        "marked": marked,
        "base": written and any(row.get("base") for row in rows),
    }


def _written(row: Mapping[str, Any], task: str, words: Words) -> Section:
    del task, words
    texts = [
        (name, _shortened(row.get(key)), tongue(str(row.get(key) or "")))
        for name, key in (("prompt", "text"), ("wanted", "wanted"), ("base", "base"),
                          ("adapted", "words"))
    ]  # fmt: skip
    return {"texts": {name: {"text": text, "lang": lang} for name, text, lang in texts}}


def _shortened(text: object) -> str:
    whole = str(text or "")
    return whole if len(whole) <= LONGEST else whole[:LONGEST].rstrip() + " …"


def _found(row: Mapping[str, Any], task: str, words: Words) -> Section:
    text = str(row.get("text") or "")
    marks = marks_of(row, task)
    right = row.get("right")
    framed = bool(row.get("frames_wanted") or row.get("frames"))
    return {
        "text": marked_text(text, marks, words),
        "spans": bool(marks),
        "right": right if isinstance(right, bool) else None,
        "counts": _counts(marks),
        "said": statements(row, task) if framed else _labels(row),
        "nothing": not framed and task in SEVERAL and not _labels(row),
    }


def _counts(marks: Sequence[Mark]) -> dict[str, int]:
    return {kind: sum(m.reading == kind for m in marks) for kind in ("right", "missed", "spurious")}


def _labels(row: Mapping[str, Any]) -> list[Section]:
    """Return the labels in words as statements, where an answer has no frames."""
    wanted, said = str(row.get("wanted") or ""), str(row.get("words") or "")
    return [
        {"label": label, "reading": reading(label == wanted, label == said), "words": ""}
        for label in dict.fromkeys([wanted, said])
        if label
    ]


def statements(row: Mapping[str, Any], task: str) -> list[Section]:
    """Return what the frames of a row say beyond single spans: relations, events, labels.

    Each has a `reading`, a `label`, its `words` in the text and `more`: the arguments of an event,
    each with a reading of its own. Entities say nothing that the marked text does not show.
    """
    text = str(row.get("text") or "")
    wanted, said = row.get("frames_wanted") or [], row.get("frames") or []
    if task == "relations":
        return _relations(text, wanted, said)
    if task == "events":
        return _events(text, wanted, said)
    if any(frame.get("head") for frame in (*wanted, *said)):
        return []
    sides = [dict.fromkeys(str(frame.get("label")) for frame in side) for side in (wanted, said)]
    return [
        {"label": x, "reading": reading(x in sides[0], x in sides[1]), "words": ""}
        for x in {**sides[0], **sides[1]}
    ]


def _relations(text: str, wanted: Sequence[Any], said: Sequence[Any]) -> list[Section]:
    sides: list[set[tuple[Place, Place, str]]] = []
    for frames in (wanted, said):
        sides.append(
            {
                (_place(frame["head"]), _place(tail), str(frame.get("label")))
                for frame in frames
                if frame.get("head")
                for tail in frame.get("arguments") or []
            }
        )
    return [
        {
            "label": label,
            "reading": reading((head, tail, label) in sides[0], (head, tail, label) in sides[1]),
            "words": _quoted(text, head),
            "tail": _quoted(text, tail),
        }
        for head, tail, label in sorted(sides[0] | sides[1])
    ]


def _events(text: str, wanted: Sequence[Any], said: Sequence[Any]) -> list[Section]:
    """Return the events of a row; those of one type on one trigger are one."""
    sides: list[dict[tuple[Place, str], set[tuple[Place, str]]]] = []
    for frames in (wanted, said):
        side: dict[tuple[Place, str], set[tuple[Place, str]]] = {}
        for frame in frames:
            head = frame.get("head")
            key = (_place(head) if head else (-1, -1), str(frame.get("label")))
            found = {(_place(s), str(s.get("label"))) for s in frame.get("arguments") or []}
            side.setdefault(key, set()).update(found)
        sides.append(side)
    rows = []
    for key in sorted({**sides[0], **sides[1]}):
        roles = [side.get(key, set()) for side in sides]
        rows.append(
            {
                "label": key[1],
                "reading": reading(key in sides[0], key in sides[1]),
                "words": _quoted(text, key[0]),
                "more": [
                    {
                        "label": role,
                        "reading": reading((place, role) in roles[0], (place, role) in roles[1]),
                        "words": _quoted(text, place),
                    }
                    for place, role in sorted(roles[0] | roles[1])
                ],
            }
        )
    return rows


def _place(span: Mapping[str, Any]) -> Place:
    return int(span.get("start") or 0), int(span.get("end") or 0)


def _quoted(text: str, place: Place) -> str:
    return " ".join(text[place[0] : place[1]].split()) if place[0] >= 0 else ""
