"""A text as an encoder that tags it reads it: units that take a tag, and windows of tokens.

A unit is what a span may begin or end with: a word, or one character of a script that is written
without spaces. It is told from the characters, so that it is the same under every tokenizer; word
pieces of one unit share its tag. A text that is longer than the base reads is read in windows that
overlap, and each unit is answered where it has most context on both sides; nothing is cut off.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sapwood.errors import ModelError

Place = tuple[int, int]  # first and last-but-one: of characters or of units
OVERLAP = 4  # windows share one part in so many
QUESTION = 3  # a question may fill one part in so many of a window
MARK = "@"  # on both sides of what is asked about, as in Zhou and Chen (arXiv 2102.01373)
# Han, kana, bopomofo, Thai, Lao, Tibetan, Burmese, Khmer: no spaces between words.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
JOINER = "\u200d"
BESIDES = re.compile("[\u200c\u200d\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")


@dataclass(frozen=True, kw_only=True)
class Pieced:
    """A text in tokens, without special ones, and in units.

    `units`: (start, end) in characters of each; `owners`: the number of each token's unit, -1 for
    one that stands for spaces alone; `firsts`, `lasts`: the first and last token of each unit.
    """

    text: str
    ids: tuple[int, ...]
    units: tuple[Place, ...]
    owners: tuple[int, ...]
    firsts: tuple[int, ...]
    lasts: tuple[int, ...]

    def covering(self, start: int, end: int) -> Place | None:
        """Return the units (first, end) that share characters start to end, None if none does."""
        held = [n for n, (a, b) in enumerate(self.units) if a < end and start < b]
        return (held[0], held[-1] + 1) if held else None

    def exact(self, start: int, end: int) -> Place | None:
        """Return the units that are exactly the characters start to end, or None."""
        found = self.covering(start, end)
        return found if found is not None and self.characters(*found) == (start, end) else None

    def characters(self, first: int, end: int) -> Place:
        """Return the characters (start, end) of the units `first` to `end`."""
        return self.units[first][0], self.units[end - 1][1]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A row of tokens that answers for the units `first` to `end`.

    `places`: where in `ids` the first token of each of these units is.
    """

    ids: tuple[int, ...]
    first: int
    end: int
    places: tuple[int, ...]


class Framing:
    """Makes units and windows for one tokenizer; a row has at most `max_length` tokens.

    `pieces`: every token is a unit of its own, for spans that end inside words. Raises ModelError
    (E-MODEL-076) when the tokenizer does not tell which characters its tokens are, (E-MODEL-077)
    when rows have no room for a text.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, pieces: bool = False) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                "E-MODEL-076",
                "Spans cannot be found with this base: its tokenizer does not tell which characters"
                " its tokens are.",
                fix="use a base that has a tokenizer.json",
            )
        self.tokenizer, self.max_length, self.pieces = tokenizer, max_length, pieces
        bare = self._ids("a")
        whole = list(tokenizer("a", verbose=False)["input_ids"])
        at = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
        self._front, self._back = whole[:at], whole[at + len(bare) :]
        divider = tokenizer.sep_token_id
        self._between = [divider] if divider is not None else self._back or self._ids("\n")
        self._mark = self._ids(MARK) or self._between
        self.least = 2 * len(self._mark) + len(self._front + self._between + self._back) + OVERLAP
        if max_length * (QUESTION - 1) < QUESTION * self.least:
            raise ModelError(
                "E-MODEL-077",
                f"Rows of {max_length} tokens have no room for a question and a text.",
                fix="--max-length 128 or more",
            )

    def _ids(self, text: str) -> list[int]:
        found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return list(found)

    def pieced(self, texts: Sequence[str]) -> list[Pieced]:
        """Return each text in tokens and units; no text is cut."""
        if not texts:
            return []
        coded = self.tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        found = []
        for text, ids, offsets in zip(
            texts, coded["input_ids"], coded["offset_mapping"], strict=True
        ):
            units, owners = units_of(text, offsets, pieces=self.pieces)
            held = [(owner, token) for token, owner in enumerate(owners) if owner >= 0]
            first, last = dict(reversed(held)), dict(held)
            found.append(
                Pieced(
                    text=text,
                    ids=tuple(ids),
                    units=units,
                    owners=owners,
                    firsts=tuple(first[n] for n in range(len(units))),
                    lasts=tuple(last[n] for n in range(len(units))),
                )
            )
        return found

    def windows(
        self,
        text: Pieced,
        question: str = "",
        about: Place | None = None,
        whole: Sequence[Place] = (),
    ) -> list[Window]:
        """Return the rows in which `text` is read; together they answer for each unit once.

        A `question` stands before the text in every row; the units `about` are marked in it.
        `whole`: runs of units that one row should answer for, where the overlap allows it.
        """
        before = self._front
        if question:
            asked = self._ids(question)[: self.max_length // QUESTION]
            before = [*self._front, *asked, *self._between]
        marks = 2 * len(self._mark) if about is not None else 0
        room = self.max_length - len(before) - len(self._back) - marks
        parts = _parts(len(text.ids), room)
        seams = [0]
        for (_, end), (start, _) in pairwise(parts):
            seam = _spared(text, bisect_left(text.firsts, (start + end) // 2), (start, end), whole)
            seams.append(max(seams[-1], seam))
        seams.append(len(text.units))
        return [
            self._window(text, before, about, part, (seams[n], seams[n + 1]))
            for n, part in enumerate(parts)
            if seams[n] < seams[n + 1]
        ]

    def _window(
        self, text: Pieced, before: list[int], about: Place | None, part: Place, answers: Place
    ) -> Window:
        opened = closed = -1
        if about is not None:
            opened, closed = text.firsts[about[0]], text.lasts[about[1] - 1]
        ids, at = list(before), dict[int, int]()
        for number in range(*part):
            if number == opened:
                ids += self._mark
            at[number] = len(ids)
            ids.append(text.ids[number])
            if number == closed:
                ids += self._mark
        return Window(
            ids=(*ids, *self._back),
            first=answers[0],
            end=answers[1],
            places=tuple(at[text.firsts[unit]] for unit in range(*answers)),
        )


def _parts(tokens: int, room: int) -> list[Place]:
    """Return the (start, end) of overlapping parts of `room` tokens, the last one moved back."""
    if tokens <= room:
        return [(0, tokens)]
    step = room - room // OVERLAP
    starts = [*range(0, tokens - room, step), tokens - room]
    return [(start, start + room) for start in starts]


def _spared(text: Pieced, seam: int, shared: Place, whole: Sequence[Place]) -> int:
    """Return a seam near `seam` that cuts none of the runs `whole`, if one is in what is shared."""
    for first, end in whole:
        if first < seam < end:
            if text.firsts[first] >= shared[0]:
                return first
            if text.firsts[end - 1] < shared[1]:
                return end
    return seam


def units_of(
    text: str, offsets: Sequence[Place], *, pieces: bool = False
) -> tuple[tuple[Place, ...], tuple[int, ...]]:
    """Return the units of `text` and the unit of each token; see Pieced.

    `offsets`: (start, end) in characters of each token, as a fast tokenizer gives them.

    >>> units_of("Ann ran", [(0, 1), (1, 3), (4, 7)])
    (((0, 3), (4, 7)), (0, 0, 1))
    """
    units: list[Place] = []
    owners: list[int] = []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start >= end:
            owners.append(-1)
            continue
        end = _with_marks(text, end)
        if units and (
            start < units[-1][1] or (start == units[-1][1] and _within(text, start, pieces))
        ):
            units[-1] = (units[-1][0], max(units[-1][1], end))
        else:
            units.append((start, end))
        owners.append(len(units) - 1)
    return tuple(units), tuple(owners)


def _is_mark(char: str) -> bool:
    """Tell whether a character belongs to the one before it: accents, joiners, skin tones."""
    return unicodedata.category(char)[0] == "M" or BESIDES.match(char) is not None


def _with_marks(text: str, end: int) -> int:
    """Return where the marks end that follow `end`: tokenizers drop some of them."""
    while end < len(text) and _is_mark(text[end]):
        end += 1
    return end


def _within(text: str, place: int, pieces: bool) -> bool:
    """Tell whether the boundary before character `place` lies inside a unit."""
    left, right = text[place - 1], text[place]
    if _is_mark(right) or left == JOINER or (FLAG.match(left) and FLAG.match(right)):
        return True
    return not pieces and _in_word(left) and _in_word(right)


def _in_word(char: str) -> bool:
    return (char.isalnum() or _is_mark(char)) and UNSPACED.match(char) is None
