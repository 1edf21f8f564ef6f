"""Answers as they are shown: marks in the text, and what was found in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from sapwood.interfaces import Answer, Frame, Span

_COLOURS = 6  # of types, then they begin again


@dataclass(frozen=True, kw_only=True, order=True)
class Mark:
    """Characters to be marked: `label` stands behind them; `part`: they are no head, but belong."""

    start: int
    end: int
    part: bool = False
    label: str = ""
    colour: int = 0


def marks_of(task: str, frames: Sequence[Frame]) -> tuple[Mark, ...]:
    """Return what is marked of frames: entities by type, ends of relations, triggers and parts."""
    if task == "relations":
        ends = [span for frame in frames for span in (frame.head, *frame.arguments) if span]
        kinds = sorted({span.label for span in ends})
        return tuple(sorted({_mark(span, span.label, kinds.index(span.label)) for span in ends}))
    kinds = sorted({frame.label for frame in frames})
    found = set()
    for frame in frames:
        colour = kinds.index(frame.label)
        if frame.head is not None:
            found.add(_mark(frame.head, frame.label, colour))
        found |= {_mark(span, span.label, colour, part=True) for span in frame.arguments}
    return tuple(sorted(found))


def _mark(span: Span, label: str, colour: int, *, part: bool = False) -> Mark:
    return Mark(start=span.start, end=span.end, label=label, colour=colour % _COLOURS, part=part)


def marked(text: str, marks: Sequence[Mark]) -> Markup:
    """Return a text with marks, each with its label behind it.

    Of marks that share a character a head goes before a part, then the first; all are listed
    beside.

    >>> marked("Ada <3", [Mark(start=0, end=3, label="PER")])
    Markup('<mark class="kind-0">Ada<b>PER</b></mark> &lt;3')
    """
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda m: (m.part, m.start, m.end)):
        apart = all(mark.end <= one.start or one.end <= mark.start for one in kept)
        if apart and 0 <= mark.start < mark.end <= len(text):
            kept.append(mark)
    pieces, at = [], 0
    for mark in sorted(kept):
        label = Markup("<b>{}</b>").format(mark.label) if mark.label else ""
        kind = f"{'part ' if mark.part else ''}kind-{mark.colour}"
        pieces.append(escape(text[at : mark.start]))
        pieces.append(Markup('<mark class="{}">{}{}</mark>').format(
            kind, text[mark.start : mark.end], label))  # fmt: skip
        at = mark.end
    return Markup("").join([*pieces, escape(text[at:])])


def ends_marked(text: str, ends: Sequence[tuple[int, int]]) -> Markup:
    """Return a text in which the two parts that were asked about are marked."""
    return marked(text, [Mark(start=start, end=end, colour=n) for n, (start, end) in
                         enumerate(ends)])  # fmt: skip


def in_words(text: str, answer: Answer) -> list[dict[str, Any]]:
    """Return frames in words: `label`, `head` or "", `head_label`, `parts` [(label, words)]."""
    return [
        {
            "label": frame.label,
            "head": text[frame.head.start : frame.head.end] if frame.head else "",
            "head_label": frame.head.label if frame.head else "",
            "parts": [(span.label, text[span.start : span.end]) for span in frame.arguments],
        }
        for frame in answer.frames
    ]
