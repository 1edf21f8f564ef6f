"""Answers as lines that a person can mend: written from frames, and read back into them.

One thing a line: an entity "PER: Ada Lovelace", a relation "born in: Ada Lovelace -> London", an
event "sale: sold | seller: Ada | thing: her boat". The ends of relations whose rows type them have
their type behind them: "Ada Lovelace (person)". Of words that stand in the text several times a
number tells which are meant: "Ada #2".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sapwood.errors import DataError
from sapwood.interfaces import Example, Frame, Span

_ARROW = re.compile(r"\s*(?:->|→)\s*")
_BAR = re.compile(r"\s*[|\uff5c]\s*")
_COLON = re.compile(r"\s*[:：]\s*")
_NUMBER = re.compile(r"(.+?)\s*#([1-9]\d*)")
_TYPED = re.compile(r"(.*\S)\s*[(（]([^()（）]+)[)）]")


@dataclass(frozen=True, kw_only=True)
class Names:
    """What rows call things: types of frames, roles of what belongs to one, types of ends."""

    types: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()


def names_of(examples: Iterable[Example]) -> Names:
    """Return what the frames of these examples call things."""
    frames = [frame for example in examples for frame in example.frames]
    roles = {span.label for frame in frames for span in frame.arguments if span.label}
    heads = {frame.head.label for frame in frames if frame.head is not None and frame.head.label}
    return Names(types=frozenset(frame.label for frame in frames), roles=frozenset(roles),
                 ends=frozenset(roles | heads))  # fmt: skip


def as_lines(task: str, text: str, frames: Sequence[Frame]) -> str:
    """Return frames as lines, as `read_lines` reads them.

    >>> ada = Span(start=0, end=3)
    >>> as_lines("entities", "Ada ran.", [Frame(label="PER", head=ada)])
    'PER: Ada'
    """
    lines = []
    for frame in frames:
        head = _words(text, frame.head) if frame.head is not None else ""
        if task == "relations":
            ends = [span for span in (frame.head, *frame.arguments[:1]) if span is not None]
            said = [_words(text, end) + (f" ({end.label})" if end.label else "") for end in ends]
            lines.append(f"{frame.label}: {' -> '.join(said)}")
        else:
            parts = [f"{span.label}: {_words(text, span)}" for span in frame.arguments]
            lines.append(" | ".join([f"{frame.label}: {head}" if head else frame.label, *parts]))
    return "\n".join(lines)


def read_lines(task: str, text: str, lines: Sequence[str], names: Names) -> tuple[Frame, ...]:
    """Return the frames that lines name: entities, relations or events, as `task` says.

    Of entities, words that stand in the text several times are meant once for each line. Raises
    DataError (E-DATA-303) with every line that cannot be used.
    """
    read, shape = _KINDS[task]
    found: list[Frame] = []
    wrong = []
    for line in lines:
        try:
            found.append(read(text, line, names, found))
        except _NotSoError:
            wrong.append(f"'{line}' is not {shape}")
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError(
            "E-DATA-303", f"These {task} cannot be used.", details=wrong,
            fix=f"write one a line: {shape}",
        )  # fmt: skip
    return tuple(found)


def place(text: str, words: str, label: str = "", taken: Sequence[Span] = ()) -> Span:
    """Return where words stand in a text: the place that is numbered, or the first that is free.

    Raises ValueError, which says what is not in the text.
    """
    numbered = _NUMBER.fullmatch(words)
    of = _places(text, numbered[1]) if numbered else []
    if numbered and int(numbered[2]) <= len(of):
        start, end = of[int(numbered[2]) - 1]
        return Span(start=start, end=end, label=label)
    places = _places(text, words)
    for start, end in places:
        if all(end <= one.start or one.end <= start for one in taken):
            return Span(start=start, end=end, label=label)
    if numbered and of:
        raise ValueError(f"'{numbered[1]}' is not in the text {numbered[2]} times")
    raise ValueError(f"'{words}' is not in the text" + (" once more" if places else ""))


def place_beside(text: str, words: str, head: Span, label: str = "") -> Span:
    """Return where words stand beside a head; in it, where they stand nowhere else."""
    try:
        return place(text, words, label, [head])
    except ValueError:
        return place(text, words, label)


class _NotSoError(ValueError):
    """A line that has not the parts it should have."""


def _entity(text: str, line: str, names: Names, found: Sequence[Frame]) -> Frame:
    label, words = _labelled(line, names.types)
    taken = [frame.head for frame in found if frame.head is not None]
    return Frame(label=label, head=place(text, words, label, taken))


def _relation(text: str, line: str, names: Names, found: Sequence[Frame]) -> Frame:
    label, joined = _labelled(line, names.types)
    ends = _ARROW.split(joined)
    if len(ends) != 2 or not all(ends):
        raise _NotSoError
    (words, kind), (others, other) = (_typed(end, names) for end in ends)
    head = place(text, words, kind)
    return Frame(label=label, head=head, arguments=(place_beside(text, others, head, other),))


def _event(text: str, line: str, names: Names, found: Sequence[Frame]) -> Frame:
    first, *others = _BAR.split(line)
    alone = first in names.types or not _COLON.search(first)  # a type without a trigger
    if alone and not (first in names.types or (first and others)):
        raise _NotSoError
    label, trigger = (first, "") if alone else _labelled(first, names.types)
    parts = [_labelled(part, names.roles) for part in others]
    arguments = {place(text, words, role) for role, words in parts}
    head = place(text, trigger, label) if trigger else None
    return Frame(label=label, head=head, arguments=tuple(sorted(arguments)))


_Reader = Callable[[str, str, Names, Sequence[Frame]], Frame]
_KINDS: dict[str, tuple[_Reader, str]] = {
    "entities": (_entity, "TYPE: words"),
    "relations": (_relation, "TYPE: words -> words"),
    "events": (_event, "TYPE: trigger | ROLE: words"),
}


def _labelled(line: str, known: Iterable[str]) -> tuple[str, str]:
    """Return the label before a colon and what is behind it; a known label may have one in it."""
    for label in sorted(known, key=len, reverse=True):
        mark = _COLON.match(line, len(label)) if line.startswith(label) else None
        if label and mark and line[mark.end() :]:
            return label, line[mark.end() :].strip()
    label, *rest = _COLON.split(line, maxsplit=1)
    if not (label.strip() and rest and rest[0].strip()):
        raise _NotSoError
    return label.strip(), rest[0].strip()


def _typed(words: str, names: Names) -> tuple[str, str]:
    """Return the words of an end, and its type where the rows have types."""
    match = _TYPED.fullmatch(words)
    if match and match[2].strip() in names.ends:
        return match[1], match[2].strip()
    if len(names.ends) > 1:
        raise ValueError(f"'{words}' has no type: write '{words} ({min(names.ends)})'")
    return words, "".join(names.ends)


def _places(text: str, words: str) -> list[tuple[int, int]]:
    pattern = r"\s+".join(map(re.escape, words.split()))
    return [match.span() for match in re.finditer(pattern, text)] if pattern else []


def _words(text: str, span: Span) -> str:
    """Return the words of a span in one line, numbered where that alone tells which are meant."""
    words = " ".join(text[span.start : span.end].split())
    places, at = _places(text, words), (span.start, span.end)
    several = len(places) > 1 or _NUMBER.fullmatch(words)
    return f"{words} #{places.index(at) + 1}" if several and at in places else words
