r"""Frames as one line of text, and back: what demonstrations show and what decoders write.

    entities     PER: "Loyola de Palacio"; ORG: "EU"
    relations    "Ada" founded "Acme"; "Acme" located in "Rome"
    events       Attack "bombed" (Attacker: "rebels"; Place: "the town"); Meet "talks"
    multi-label  billing; refund
    no frames    none

Quoted words are the text's own, letter for letter, so a line is aligned back to offsets by looking
them up (tasks/alignment.py). Where that would find another place than is meant, a mark says which
of the places it is: "EU"#2. Inside quotes a backslash stands before a quote and a backslash, and
line breaks are written as \n and \r. A label that would be misread is quoted as well. Chinese has
the same structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Frame, Span
from sapwood.registry import did_you_mean
from sapwood.tasks.alignment import Alignment, Place, mark_of

NONE = "none"
# What may not stand in a label that is written without quotes, by task; "roles" are an event's.
RESERVED = {"entities": '";', "relations": '";', "events": '"();', "multi-label": '";'}
ROLE_RESERVED = '"():;'
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_MEANT = {"n": "\n", "r": "\r"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_QUOTE = r'"(?:[^"\\\n]|\\[^\n])*"'
_STRING = rf"({_QUOTE})(?:#(\d+))?"
_ITEMS = {
    "entities": re.compile(rf'({_QUOTE}|[^";\n]+?)\s*:\s*{_STRING}'),
    "relations": re.compile(rf'{_STRING}\s*({_QUOTE}|[^";\n]+?)\s*{_STRING}'),
    "events": re.compile(rf'({_QUOTE}|[^"();\n]+)(?:\s*{_STRING})?(?:\s*(\())?'),
    "multi-label": re.compile(rf'({_QUOTE}|[^";\n]+)'),
}
_ROLE = re.compile(rf'\s*({_QUOTE}|[^"():;\n]+?)\s*:\s*{_STRING}\s*(;|\))?')
_GAP = re.compile(r"\s*(?:;\s*|$)")


@dataclass(frozen=True, kw_only=True)
class _Words:
    """Quoted words as they were read: what they say, which place they mark (0: none), the role."""

    words: str
    mark: int = 0
    role: str = ""


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One frame as it was read; `head` None where nothing was quoted."""

    label: str
    head: _Words | None = None
    arguments: tuple[_Words, ...] = ()


def write(task: str, text: str, frames: Sequence[Frame]) -> str:
    r"""Return `frames` of `text` in one line; `parse` gives back what `canonical` makes of them.

    Raises ConfigError (E-CONFIG-001) for a task whose answers are no frames, DataError (E-DATA-112)
    for a frame that lacks what the task asks for or has no words in the text.

    >>> text = 'The "EU" and the EU'
    >>> spans = [Span(start=17, end=19), Span(start=4, end=8)]
    >>> write("entities", text, [Frame(label="ORG", head=span) for span in spans])
    'ORG: "\\"EU\\""; ORG: "EU"'
    """
    _known(task)
    ordered = canonical(task, frames)
    spans = [s for frame in ordered for s in (frame.head, *frame.arguments) if s is not None]
    for frame in ordered:
        _check(task, text, frame)
    if task == "multi-label":
        return "; ".join(name(f.label, RESERVED[task]) for f in ordered) or NONE
    alignment = Alignment(text, [text[span.start : span.end] for span in spans])
    writer = _Writer(text, alignment)
    spell: Callable[[Frame], str] = getattr(writer, task)
    return "; ".join(map(spell, ordered)) or NONE


def parse(task: str, text: str, words: str, *, strict: bool = False) -> tuple[Frame, ...]:
    """Return the frames that a written answer stands for, with offsets in `text`, each once.

    What cannot be read and words that are not in the text are left out, and so is an unmarked
    entity whose every place is taken; with `strict` the first two raise DataError (E-DATA-113).
    Tasks whose answers are no frames have none.

    >>> parse("entities", "the EU", 'ORG: "EU"; LOC: "Rome"; and so on')
    (Frame(label='ORG', head=Span(start=4, end=6, label='ORG'), arguments=()),)
    """
    if task not in _ITEMS:
        return ()
    items = list(_items(task, words.strip(), strict))
    if task == "multi-label":
        return tuple(dict.fromkeys(Frame(label=item.label) for item in items))
    found = [item for item in items if _is_there(item, text, strict)]
    quoted = chain.from_iterable((i.head, *i.arguments) for i in found)
    alignment = Alignment(text, [q.words for q in quoted if q is not None and q.words in text])
    reader = _Reader(text, alignment)
    place: Callable[[_Item], Frame | None] = getattr(reader, task)
    return canonical(task, [frame for frame in map(place, found) if frame is not None])


def canonical(task: str, frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return frames as an answer can say them: each once, in the order of the text.

    Heads of entities and events carry their frame's label, ends of relations none. Labels without
    spans keep their order.
    """
    kept = []
    for frame in frames:
        head, arguments = frame.head, frame.arguments
        label = "" if task == "relations" else frame.label
        if head is not None:
            head = Span(start=head.start, end=head.end, label=label)
        if task == "relations":
            arguments = tuple(Span(start=a.start, end=a.end) for a in arguments)
        elif task != "events":
            arguments = ()
        arguments = tuple(sorted(dict.fromkeys(arguments)))
        kept.append(Frame(label=frame.label, head=head, arguments=arguments))
    once = dict.fromkeys(kept)
    return tuple(once) if task == "multi-label" else tuple(sorted(once, key=_order))


def quote(words: str) -> str:
    r"""Return `words` in quotes, escaped.

    >>> print(quote('say "no"'))
    "say \"no\""
    """
    return f'"{escape(words)}"'


def escape(words: str) -> str:
    """Return `words` as they stand between quotes."""
    return words.translate(_ESCAPES)


def name(label: str, reserved: str) -> str:
    """Return a label as it is written: plain, or quoted where that could be misread."""
    plain = label == label.strip() and label not in ("", NONE)
    return label if plain and not set(label) & {*reserved, "\n", "\r"} else quote(label)


class _Writer:
    """Spell the frames of a text in order; see `write`."""

    def __init__(self, text: str, alignment: Alignment) -> None:
        self.text, self.alignment = text, alignment
        self.triggers: dict[str, list[Place]] = {}

    def entities(self, frame: Frame) -> str:
        assert frame.head is not None
        place = self.alignment.entity(self._of(frame.head))
        self.alignment.take((frame.head.start, frame.head.end))
        return f"{name(frame.label, RESERVED['entities'])}: {self._quoted(frame.head, place)}"

    def relations(self, frame: Frame) -> str:
        assert frame.head is not None
        head, tail = frame.head, frame.arguments[0]
        first = self._quoted(head, self.alignment.first(self._of(head)))
        near = self.alignment.near(self._of(tail), (head.start, head.end))
        return f"{first} {name(frame.label, RESERVED['relations'])} {self._quoted(tail, near)}"

    def events(self, frame: Frame) -> str:
        said, head = name(frame.label, RESERVED["events"]), None
        if frame.head is not None:
            head = (frame.head.start, frame.head.end)
            spent = self.triggers.setdefault(frame.label, [])
            said += " " + self._quoted(
                frame.head, self.alignment.first(self._of(frame.head), spent)
            )
            spent.append(head)
        roles: dict[str, list[Place]] = {}
        arguments = []
        for span in frame.arguments:
            near = self.alignment.near(self._of(span), head, roles.setdefault(span.label, []))
            roles[span.label].append((span.start, span.end))
            arguments.append(f"{name(span.label, ROLE_RESERVED)}: {self._quoted(span, near)}")
        return f"{said} ({'; '.join(arguments)})" if arguments else said

    def _of(self, span: Span) -> str:
        return self.text[span.start : span.end]

    def _quoted(self, span: Span, expected: Place | None) -> str:
        words = self._of(span)
        if expected == (span.start, span.end):
            return quote(words)
        return f"{quote(words)}#{mark_of(self.alignment.places(words), span)}"


class _Reader:
    """Place the frames that were read; see `parse`."""

    def __init__(self, text: str, alignment: Alignment) -> None:
        self.text, self.alignment = text, alignment
        self.triggers: dict[str, list[Place]] = {}

    def entities(self, item: _Item) -> Frame | None:
        assert item.head is not None
        place = self._marked(item.head) or self.alignment.entity(item.head.words)
        if place is None:
            return None
        self.alignment.take(place)
        return Frame(label=item.label, head=_span(place))

    def relations(self, item: _Item) -> Frame:
        assert item.head is not None
        tail = item.arguments[0]
        first = self._marked(item.head) or self.alignment.first(item.head.words)
        second = self._marked(tail) or self.alignment.near(tail.words, first)
        return Frame(label=item.label, head=_span(first), arguments=(_span(second),))

    def events(self, item: _Item) -> Frame:
        head = None
        if item.head is not None:
            spent = self.triggers.setdefault(item.label, [])
            head = self._marked(item.head) or self.alignment.first(item.head.words, spent)
            spent.append(head)
        roles: dict[str, list[Place]] = {}
        arguments = []
        for said in item.arguments:
            if said.words not in self.text:
                continue
            spent = roles.setdefault(said.role, [])
            place = self._marked(said) or self.alignment.near(said.words, head, spent)
            spent.append(place)
            arguments.append(_span(place, said.role))
        return Frame(label=item.label, head=head and _span(head), arguments=tuple(arguments))

    def _marked(self, said: _Words) -> Place | None:
        """Return the place a mark names, the last one where it counts too far."""
        places = self.alignment.places(said.words)
        return places[min(said.mark, len(places)) - 1] if said.mark else None


def _items(task: str, words: str, strict: bool) -> Iterator[_Item]:
    """Yield the frames that a line spells; what is none is skipped, or raised with `strict`."""
    at = 0
    while at < len(words) and words != NONE:
        found = _ITEMS[task].match(words, at)
        if found is not None:
            item, at, whole = _item(task, words, found)
            yield item
            gap = _GAP.match(words, at)
            if gap is not None and (whole or not strict):
                at = gap.end()
                continue
        if strict:
            raise DataError("E-DATA-113", f"This is no answer of {task}: {words[at : at + 40]!r}")
        semicolon = words.find(";", at)
        at = len(words) if semicolon < 0 else semicolon + 1
        at += len(words[at:]) - len(words[at:].lstrip())


def _item(task: str, words: str, found: re.Match[str]) -> tuple[_Item, int, bool]:
    """Return one frame of a match, where it ends, and whether it is closed there."""
    part = found.groups()
    if task == "multi-label":
        return _Item(label=_label(part[0])), found.end(), True
    if task == "entities":
        return _Item(label=_label(part[0]), head=_quoted(part[1], part[2])), found.end(), True
    if task == "relations":
        ends = _quoted(part[0], part[1]), _quoted(part[3], part[4])
        return _Item(label=_label(part[2]), head=ends[0], arguments=ends[1:]), found.end(), True
    head = None if part[1] is None else _quoted(part[1], part[2])
    arguments, end = [], found.end()
    while part[3] is not None and (role := _ROLE.match(words, end)) is not None:
        arguments.append(_quoted(role[2], role[3], _label(role[1])))
        end = role.end()
        if role[4] != ";":
            break
    item = _Item(label=_label(part[0]), head=head, arguments=tuple(arguments))
    return item, end, part[3] is None or words[end - 1] == ")"


def _is_there(item: _Item, text: str, strict: bool) -> bool:
    """Tell whether a frame's words are in the text; arguments of events may be missing alone."""
    quoted = [said for said in (item.head, *item.arguments) if said is not None]
    missing = [said for said in quoted if not said.words or said.words not in text]
    if missing and strict:
        raise DataError("E-DATA-113", f"These words are not in the text: {missing[0].words!r}")
    needed = [said for said in quoted if not said.role]
    return not any(said in needed for said in missing)


def _label(said: str) -> str:
    said = said.strip()
    return _plain(said) if said.startswith('"') else said


def _quoted(said: str, mark: str | None, role: str = "") -> _Words:
    return _Words(words=_plain(said), mark=int(mark or 0), role=role)


def _plain(quoted: str) -> str:
    return _ESCAPE.sub(lambda found: _MEANT.get(found[1], found[1]), quoted[1:-1])


def _span(place: Place, label: str = "") -> Span:
    return Span(start=place[0], end=place[1], label=label)


def _order(frame: Frame) -> tuple[int, int, str, tuple[Span, ...]]:
    first = frame.head or min(frame.arguments, default=Span(start=0, end=0))
    return first.start, first.end, frame.label, frame.arguments


def _check(task: str, text: str, frame: Frame) -> None:
    ends = {"entities": (True, 0), "relations": (True, 1)}.get(task)
    wrong = ends is not None and ((frame.head is not None), len(frame.arguments)) != ends
    spans = [span for span in (frame.head, *frame.arguments) if span is not None]
    if wrong or not all(0 <= span.start < span.end <= len(text) for span in spans):
        raise DataError(
            "E-DATA-112",
            f"A frame cannot be written as an answer of {task}: {frame}.",
            fix="entities have a head, relations a head and one argument, all within the text",
        )


def _known(task: str) -> None:
    if task not in _ITEMS:
        raise ConfigError(
            "E-CONFIG-001",
            f"Answers of '{task}' are no frames.{did_you_mean(task, _ITEMS)}",
            fix=f"use one of: {', '.join(_ITEMS)}",
        )
