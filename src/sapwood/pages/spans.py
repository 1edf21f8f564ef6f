"""Wanted and answered spans of a text, told apart without colour, in whatever script it is.

A span that is right has a solid line, a missed one a dashed and a spurious one a dotted line, each
with a sign and its label at its end. Lines of overlapping spans lie under each other. The text
stays one run of characters, so that Arabic joins, Chinese breaks and copies as it did before.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from sapwood.pages.words import Words, is_number

SIGNS = {"right": "✓", "missed": "○", "spurious": "×"}
LONGEST, BEFORE = 1500, 200  # characters of a text shown, and of these before the first error
_SPOKEN = 60  # characters of a span that overlaps others, which are read aloud with its label
_STEP = 4  # units of the page between two lines
_WIDTHS = {"right": 3, "missed": 2, "spurious": 2}
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}
_TONES = range(0x1F3FB, 0x1F400)  # skin tones of emoji


@dataclass(frozen=True, kw_only=True, order=True)
class Mark:
    """A span that is `right`, `missed` or `spurious` (`reading`); `head`: a trigger or entity."""

    start: int
    end: int
    label: str
    reading: str
    head: bool = True


def reading(wanted: bool, said: bool) -> str:
    """Return ``right``, ``missed`` or ``spurious``.

    >>> reading(True, True), reading(True, False), reading(False, True)
    ('right', 'missed', 'spurious')
    """
    return "right" if wanted and said else "missed" if wanted else "spurious"


def marks_of(answer: Mapping[str, Any], task: str) -> list[Mark]:
    """Return the spans of an answer's frames, wanted and said, by place.

    A relation's ends are right where their characters are, whatever types they were given.
    """
    wanted, said = (_places(answer.get(key), task) for key in ("frames_wanted", "frames"))
    found = []
    for place in sorted({**wanted, **said}):
        start, end = place[:2]
        label = wanted.get(place) or said.get(place) or ""
        kind = reading(place in wanted, place in said)
        found.append(Mark(start=start, end=end, label=label, reading=kind, head=place[2]))
    return found


def _places(frames: Any, task: str) -> dict[tuple[int, int, bool, str], str]:
    found: dict[tuple[int, int, bool, str], str] = {}
    joined = task == "relations"
    for frame in frames or []:
        head, label = frame.get("head"), str(frame.get("label") or "")
        spans = [(head, True, str(head.get("label") or "") if joined else label)] if head else []
        spans += [(s, False, str(s.get("label") or "")) for s in frame.get("arguments") or []]
        for span, is_head, name in spans:
            if is_number(span.get("start")) and is_number(span.get("end")):
                place = (int(span["start"]), int(span["end"]))
                key = (*place, True, "") if joined else (*place, is_head, name)
                found[key] = found.get(key) or name
    return found


def marked_text(text: str, marks: Sequence[Mark], words: Words) -> Markup:
    """Return a paragraph of `text` with its marks; of a long one the part around the first error.

    A mark outside the text is left out; one that would cut a character from its combining signs
    is drawn around all of it.
    """
    inside = [m for m in marks if 0 <= m.start < m.end <= len(text)]
    first, last = _window(text, inside)
    kept = [_whole(text, m) for m in inside if first <= m.start and m.end <= last]
    rows = _levels(kept)
    deep = max(rows, default=-1) + 1
    cuts = sorted({first, last, *(m.start for m in kept), *(m.end for m in kept)})
    pieces = [Markup("… ") if first else Markup("")]
    for start, end in pairwise(cuts):
        over = [(m, row) for m, row in zip(kept, rows, strict=True) if m.start <= start < m.end]
        pieces.append(_piece(text[start:end], over, deep))
        for mark, _ in over:
            if mark.end == end:
                crossed = any(mark.start < cut < end for cut in cuts)
                pieces.append(_chip(mark, text[mark.start : end] if crossed else "", words))
    left = len(inside) - len(kept)
    pieces.append(Markup(" …") if last < len(text) else Markup(""))
    if left:
        pieces.append(Markup(' <em class="gap">{}</em>').format(words("marks_left", count=left)))
    return Markup('<p class="marked" dir="auto"{} style="--deep:{}">{}</p>').format(
        tongue(text), deep, Markup("").join(pieces)
    )


def chip(label: str, kind: str, words: Words) -> Markup:
    """Return a label with the sign of its reading, which is read aloud as a word."""
    return _chip(Mark(start=0, end=0, label=label, reading=kind), "", words)


def tongue(text: str) -> Markup:
    """Return the language attribute of a text whose script tells its language, else nothing.

    >>> tongue("春眠不觉晓"), tongue("さくら"), tongue("spring")
    (Markup(' lang="zh"'), Markup(' lang="ja"'), Markup(''))
    """
    names = [unicodedata.name(sign, "") for sign in text[:400] if sign.isalpha()]
    for prefix, code in (("HIRAGANA", "ja"), ("KATAKANA", "ja"), ("HANGUL", "ko"), ("CJK", "zh")):
        if 4 * sum(name.startswith(prefix) for name in names) > len(names):
            return Markup(f' lang="{code}"')
    return Markup("")


def _piece(text: str, over: Sequence[tuple[Mark, int]], deep: int) -> Markup:
    if not over:
        return escape(text)
    images = ",".join(f"var(--{m.reading})" for m, _ in over)
    places = ",".join(f"0 calc(100% - {_STEP * (deep - 1 - row)}px)" for _, row in over)
    sizes = ",".join(f"100% {_WIDTHS[m.reading]}px" for m, _ in over)
    style = f"background-image:{images};background-position:{places};background-size:{sizes}"
    return Markup('<mark style="{}">{}</mark>').format(style, text)


def _chip(mark: Mark, quoted: str, words: Words) -> Markup:
    spoken = " ".join(quoted.split())
    spoken = spoken if len(spoken) <= _SPOKEN else spoken[:_SPOKEN].rstrip() + "…"
    told = words(f"sign_{mark.reading}") + (f" ({spoken})" if spoken else "")
    weight = " head" if mark.head else ""
    return Markup(
        '<bdi class="chip {}{}"><span aria-hidden="true">{}</span>'
        '<span class="sr"> {}: </span>{}</bdi>'
    ).format(mark.reading, weight, SIGNS[mark.reading], told, mark.label)


def _levels(marks: Sequence[Mark]) -> list[int]:
    """Return for each mark the line it is drawn on: the first one free from start to end."""
    order = sorted(range(len(marks)), key=lambda n: (marks[n].start, -marks[n].end))
    ends: list[int] = []
    rows = [0] * len(marks)
    for n in order:
        free = (row for row, end in enumerate(ends) if end <= marks[n].start)
        rows[n] = next(free, len(ends))
        ends[rows[n] :] = [marks[n].end, *ends[rows[n] + 1 :]]
    return rows


def _window(text: str, marks: Sequence[Mark]) -> tuple[int, int]:
    """Return the first and last place of the part shown."""
    if len(text) <= LONGEST:
        return 0, len(text)
    wrong = [m for m in marks if m.reading != "right"] or list(marks)
    first = max(0, min((m.start for m in wrong), default=0) - BEFORE)
    last = min(len(text), first + LONGEST)
    first = min((m.start for m in marks if m.start < first < m.end), default=first)
    return _after_space(text, first), last


def _after_space(text: str, place: int) -> int:
    """Return the place after the next space, if one is near; scripts without spaces have none."""
    found = text.find(" ", place, place + 30) if place else -1
    return place if found < 0 else found + 1


def _whole(text: str, mark: Mark) -> Mark:
    start, end = mark.start, mark.end
    while start > 0 and _leans(text, start):
        start -= 1
    while end < len(text) and _leans(text, end):
        end += 1
    return Mark(start=start, end=end, label=mark.label, reading=mark.reading, head=mark.head)


def _leans(text: str, place: int) -> bool:
    """Tell whether the character at `place` is drawn as one with the one before it."""
    sign, before = text[place], text[place - 1]
    joined = sign in _JOINERS or before == "\u200d" or ord(sign) in _TONES
    return joined or bool(unicodedata.combining(sign)) or unicodedata.category(sign) == "Mn"
