"""Where quoted words stand in a text: strings without offsets become spans, by one fixed rule.

Words that stand in a text once need no rule. Of several places the rule prefers those that no
longer quoted words cover ("EU" is not looked for in "EU Commission" while that is quoted too) and
those that cut no word; then entities take the first place after the entity before, arguments the
one nearest to what they belong to. Offsets are code points.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from sapwood.interfaces import Span
from sapwood.tasks.bio import UNSPACED

Place = tuple[int, int]


class Alignment:
    """The places of quoted words in one text, and which of them are taken.

    `surfaces`: all words that the answer quotes. Whoever writes an answer and whoever reads it ask
    in the same order, so both know what a string without a mark will be taken for.
    """

    def __init__(self, text: str, surfaces: Iterable[str]) -> None:
        self.text = text
        self._places = {words: _occurrences(text, words) for words in dict.fromkeys(surfaces)}
        self._covers = sorted(place for found in self._places.values() for place in found)
        self._taken: list[Place] = []
        self._last = 0

    def places(self, words: str) -> tuple[Place, ...]:
        """Return every place where `words` stand, overlapping ones too."""
        return self._places[words]

    def entity(self, words: str) -> Place | None:
        """Return the free place of an entity: the first after the one before; None without any."""
        free = [place for place in self.places(words) if not self._overlaps(place)]
        return min(free, key=lambda p: (self._hidden(p), p[0] < self._last, p), default=None)

    def take(self, place: Place) -> None:
        """Say that an entity has a place: no other takes what overlaps it."""
        self._taken.append(place)
        self._last = place[1]

    def first(self, words: str, spent: Iterable[Place] = ()) -> Place:
        """Return the first place of `words`, which are in the text; those `spent` come last."""
        gone = set(spent)
        return min(self.places(words), key=lambda p: (p in gone, self._hidden(p), p))

    def near(self, words: str, head: Place | None, spent: Iterable[Place] = ()) -> Place:
        """Return the place of `words` nearest to `head` and not over it; `spent` come last."""
        if head is None:
            return self.first(words, spent)
        gone = set(spent)

        def rank(place: Place) -> tuple[bool, bool, tuple[bool, bool], int, Place]:
            over = place[0] < head[1] and head[0] < place[1]
            gap = max(head[0] - place[1], place[0] - head[1])
            return place in gone, over, self._hidden(place), gap, place

        return min(self.places(words), key=rank)

    def _overlaps(self, place: Place) -> bool:
        return any(place[0] < end and start < place[1] for start, end in self._taken)

    def _hidden(self, place: Place) -> tuple[bool, bool]:
        """Tell whether longer quoted words cover a place, and whether it cuts a word."""
        start, end = place
        covered = any(
            a <= start and end <= b and b - a > end - start for a, b in self._covers if a <= start
        )
        return covered, cuts_word(self.text, start) or cuts_word(self.text, end)


def mark_of(found: Iterable[Place], span: Span) -> int:
    """Return which of the places `found` a span has, counted from 1."""
    return list(found).index((span.start, span.end)) + 1


def cuts_word(text: str, at: int) -> bool:
    """Tell whether the offset `at` lies inside a word; writing without spaces has no inside.

    >>> cuts_word("an end", 4), cuts_word("an end", 3), cuts_word("东京都", 1)
    (True, False, False)
    """
    if not 0 < at < len(text):
        return False
    return _in_word(text[at - 1]) and (_in_word(text[at]) or is_mark(text[at]))


def _in_word(letter: str) -> bool:
    return (letter.isalnum() and UNSPACED.match(letter) is None) or is_mark(letter)


@cache
def is_mark(letter: str) -> bool:
    """Tell whether a code point is a combining mark, which belongs to what stands before it."""
    from unicodedata import category

    return category(letter).startswith("M")


def _occurrences(text: str, words: str) -> tuple[Place, ...]:
    found, at = [], text.find(words)
    while words and at >= 0:
        found.append((at, at + len(words)))
        at = text.find(words, at + 1)
    return tuple(found)
