"""Spans as files write them, found in the text: exact offsets in code points, or a reason."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sapwood.interfaces import Example, Frame, Span
from sapwood.tasks.bio import join_tokens
from sapwood.tasks.kinds import Unusable
from sapwood.tasks.readers import EDGES
from sapwood.tasks.rows import kind_of

START = ("start", "start_offset", "begin", "start_char", "start_index", "char_start", "from")
END = ("end", "end_offset", "stop", "end_char", "end_index", "char_end", "to")
WORDS = ("text", "word", "surface", "value", "mention", "words", "name", "span")
TYPE = (
    "type",
    "label",
    "labels",
    "entity_group",
    "entity_type",
    "tag",
    "category",
    "class",
    "entity",
)
MOVED = "offsets that did not fit their words, moved to where the words stand"
INCLUDED = "offsets whose end is the last character or token, read so"
UNITS = "offsets counted in UTF-16 units, recounted in characters"
SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Page:
    """The text that spans point into; `offsets` of its tokens where they count tokens."""

    text: str
    offsets: tuple[tuple[int, int], ...] | None = None


def unpacked(value: object) -> object:
    """Return a value, or what its text spells: a JSON or Python list or object in a CSV cell."""
    if not isinstance(value, str):
        return value
    plain = value.strip(EDGES)
    if plain[:1] + plain[-1:] not in ("[]", "{}"):
        return value
    try:
        return json.loads(plain)
    except ValueError:
        try:
            return ast.literal_eval(plain)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value


def is_missing(value: object) -> bool:
    """Tell whether a cell holds nothing at all; an empty list does hold something."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip(EDGES)


def items(value: object, column: str) -> list[object]:
    """Return the entries of a list, of a packed list, or of an object of equal columns.

    Raises Unusable where the value is no list.
    """
    value = unpacked(value)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        lists = [column for column in value.values() if isinstance(column, list)]
        if lists and len(lists) == len(value) and len({len(column) for column in lists}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    if is_missing(value):
        raise Unusable(f"column '{column}' empty")
    raise Unusable(f"column '{column}' holds {kind_of(value)}, not a list", shown(value))


def first_of(spec: Mapping[str, object], names: Sequence[str]) -> object:
    """Return the value under the first of `names` that is there, or None."""
    for name in names:
        if name in spec and spec[name] is not None:
            return spec[name]
    return None


def shown(value: object) -> str:
    """Return the start of a value, quoted."""
    text = (
        repr(value)
        if not isinstance(value, dict | list)
        else json.dumps(value, ensure_ascii=False, default=str)
    )
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def read_text(value: object, column: str) -> str:
    """Return a cell as text, its edges and insides as they are. Raises Unusable."""
    if is_missing(value):
        raise Unusable(f"column '{column}' empty")
    if isinstance(value, bool | dict | list | tuple):
        raise Unusable(f"column '{column}' holds {kind_of(value)}, not text", shown(value))
    text = value if isinstance(value, str) else str(value)
    if "\x00" in text:
        raise Unusable(f"column '{column}' holds NUL bytes")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unusable("half of a surrogate pair, a broken character") from None
    return text


def read_tokens(value: object, column: str) -> list[str]:
    """Return the tokens of a cell: a list, a packed list, or words between spaces."""
    value = unpacked(value)
    if isinstance(value, str):
        tokens: list[object] = list(value.split())
    else:
        tokens = items(value, column)
    if not tokens:
        raise Unusable(f"column '{column}' empty")
    if any(isinstance(token, dict | list) or token is None for token in tokens):
        raise Unusable(f"column '{column}' holds something else than words", shown(tokens))
    words = [token if isinstance(token, str) else str(token) for token in tokens]
    read_text(" ".join(words), column)
    return words


def read_page(value: object, column: str, *, dense: bool | None = None) -> Page:
    """Return the page of a cell that holds a text, or the tokens of one."""
    value = unpacked(value)
    if isinstance(value, list | tuple):
        text, offsets = join_tokens(read_tokens(value, column), dense=dense)
        return Page(text=text, offsets=offsets)
    return Page(text=read_text(value, column))


def locate(page: Page, spec: object, label: str, what: str, mended: list[str]) -> Span:
    """Return the span that `spec` means: an object, [start, end] or the words alone.

    Where words are given too they must stand there; if they do not, the span moves to the one
    place where they do, which `mended` then says. Raises Unusable, which names `what` it is.
    """
    start, end, words = _parts(spec, what)
    if start is None or end is None:
        if words is None:
            raise Unusable(f"{what} without offsets", shown(spec))
        if start is None or page.offsets is not None:
            return _found(page, words, label, what, None)
        end = start + len(words)
    if page.offsets is not None:
        return _of_tokens(page, (start, end, words), label, what, mended)
    text = page.text
    if words is None:
        if not 0 <= start < end <= len(text):
            raise Unusable(f"{what} lies outside its text", f"{start}:{end} of {len(text)}")
        return Span(start=start, end=end, label=label)
    if 0 <= start < end and text[start:end] == words:
        return Span(start=start, end=end, label=label)
    if start >= 0 and text[start : end + 1] == words:
        mended.append(INCLUDED)
        return Span(start=start, end=end + 1, label=label)
    if (exact := _recounted(text, start, end)) and text[exact[0] : exact[1]] == words:
        mended.append(UNITS)
        return Span(start=exact[0], end=exact[1], label=label)
    span = _found(page, words, label, what, (start, end))
    mended.append(MOVED)
    return span


def _parts(spec: object, what: str) -> tuple[int | None, int | None, str | None]:
    if isinstance(spec, str) and spec:
        return None, None, spec
    if isinstance(spec, Mapping):
        words = first_of(spec, WORDS)
        numbers = first_of(spec, START), first_of(spec, END)
        pair = unpacked(first_of(spec, ("offset", "offsets", "position", "pos", "indices")))
        if numbers == (None, None) and isinstance(pair, list) and pair:
            numbers = pair[0], pair[-1]
            if isinstance(numbers[0], list):
                numbers = numbers[0][0], numbers[0][-1]
    elif isinstance(spec, list | tuple) and len(spec) > 1:
        numbers, words = (spec[0], spec[1]), None
    else:
        raise Unusable(f"{what} that is no span", shown(spec))
    ends: list[int | None] = []
    for number in numbers:
        if isinstance(number, str) and number.strip().lstrip("-").isdecimal():
            number = int(number)
        if isinstance(number, float) and number.is_integer():
            ends.append(int(number))
        elif number is None or (isinstance(number, int) and not isinstance(number, bool)):
            ends.append(number)
        else:
            raise Unusable(f"{what} whose offsets are no whole numbers", shown(spec))
    return ends[0], ends[1], str(words) if words not in (None, "") else None


def _of_tokens(
    page: Page,
    parts: tuple[int, int, str | None],
    label: str,
    what: str,
    mended: list[str],
) -> Span:
    start, end, words = parts
    offsets = page.offsets or ()
    if not 0 <= start <= end <= len(offsets) or start == len(offsets):
        raise Unusable(f"{what} lies outside its tokens", f"{start}:{end} of {len(offsets)}")
    if words is not None:
        wanted = "".join(words.split())
        for last, repair in ((end, ""), (end + 1, INCLUDED)):
            if start < last <= len(offsets):
                span = Span(start=offsets[start][0], end=offsets[last - 1][1], label=label)
                if "".join(page.text[span.start : span.end].split()) == wanted:
                    mended += [repair] if repair else []
                    return span
        span = _found(page, words, label, what, (start, end))
        mended.append(MOVED)
        return span
    if start == end:
        raise Unusable(f"{what} of no tokens", f"{start}:{end}")
    return Span(start=offsets[start][0], end=offsets[end - 1][1], label=label)


def _recounted(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return offsets in characters for offsets in UTF-16 units, as JavaScript and Java count."""
    if start < 0 or text.isascii() or max(text) <= "\uffff":
        return None
    units = text.encode("utf-16-le")
    try:
        first = len(units[: 2 * start].decode("utf-16-le"))
        return first, first + len(units[2 * start : 2 * end].decode("utf-16-le"))
    except UnicodeDecodeError:
        return None


def _found(page: Page, words: str, label: str, what: str, claimed: tuple[int, int] | None) -> Span:
    start = page.text.find(words)
    told = shown(words) if claimed is None else f"{shown(words)} at {claimed[0]}:{claimed[1]}"
    if start < 0:
        raise Unusable(f"the words of {what} are not in the text", told)
    if page.text.find(words, start + 1) >= 0:
        where = "have no offsets and" if claimed is None else "are not at the offsets, and"
        raise Unusable(f"the words of {what} {where} stand in the text more than once", told)
    return Span(start=start, end=start + len(words), label=label)


def framed(
    page: Page, frames: Sequence[Frame], write: Callable[[str, Sequence[Frame]], str] | None
) -> Example:
    """Return the example of a page: edges cleaned, frames in order and each once.

    `write` spells the frames as an answer; None where there is none. Raises Unusable for a page
    of white space, or a span of it.
    """
    text = page.text.strip(EDGES)
    if not text:
        raise Unusable("the text is empty")
    shift = page.text.find(text)
    if len(text) < len(page.text) and frames:
        frames = [_moved(frame, shift, len(text)) for frame in frames]
    ordered = tuple(sorted(dict.fromkeys(frames), key=_place)) if len(frames) > 1 else tuple(frames)
    return Example(text=text, label=None if write is None else write(text, ordered), frames=ordered)


def _place(frame: Frame) -> tuple[int, int, str]:
    first = min(frame.arguments, default=None) if frame.head is None else frame.head
    return (first.start, first.end, frame.label) if first else (0, 0, frame.label)


def _moved(frame: Frame, shift: int, length: int) -> Frame:
    head = None if frame.head is None else _shifted(frame.head, shift, length)
    arguments = tuple(_shifted(span, shift, length) for span in frame.arguments)
    return replace(frame, head=head, arguments=arguments)


def _shifted(span: Span, shift: int, length: int) -> Span:
    start, end = max(span.start - shift, 0), min(span.end - shift, length)
    if start >= end:
        raise Unusable("a span that holds white space alone")
    return replace(span, start=start, end=end)


def writer(task: str) -> Callable[[str, Sequence[Frame]], str]:
    """Return what spells the frames of a text as an answer in words."""
    from sapwood.tasks.written import write

    def spell(text: str, frames: Sequence[Frame]) -> str:
        return write(task, text, tuple(frames))

    return spell
