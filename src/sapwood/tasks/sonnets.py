"""Sonnets: fourteen lines of ten syllables, rhymed by a scheme, in iambs.

Metre is judged by stress maxima (Halle and Keyser 1966, Chaucer and the study of prosody): the main
stress of a word of several syllables stands on an even syllable of the line, or on the first, where
verse may turn the foot round. Words of one syllable stand anywhere; an eleventh syllable may follow
the tenth when it bears no main stress. Words have the stress of today's dictionary, so not every
line of a real sonnet passes: `_ENOUGH` of a poem's lines and rhymes must.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from sapwood.tasks.pronunciations import Sound, rhyme, sounds, words

LINES = 14
SYLLABLES = 10
# Share of lines or pairs that must be right: Shakespeare's own sonnets reach it nearly all, and
# the same lines in another order hardly ever (measured in docs/poems.md).
_ENOUGH = 0.7


@dataclass(frozen=True, kw_only=True)
class Sonnet:
    """A form of fourteen lines; lines of one letter rhyme, by one of the `schemes`."""

    schemes: tuple[str, ...]
    language = "en"

    def keeps(self, text: str) -> bool:
        """Tell whether a text has the form's lines."""
        return len(verses(text)) == LINES

    def check(self, text: str) -> dict[str, Any]:
        """Return what a poem holds of the form: yes or no each, `_share` in [0, 1]; JSON-ready.

        `rhyme` and `metre` can only hold in fourteen lines. Raises ResourceError (E-RESOURCE-041)
        without the dictionary.
        """
        lines = [words(line) for line in verses(text)]
        shaped = len(lines) == LINES
        found = max(map(partial(_rhymed, lines), self.schemes)) if shaped else 0.0
        scanned = [scan(line) for line in lines]
        counted = _share([wrong is not None for wrong in scanned])
        iambic = _share([wrong == 0 for wrong in scanned])
        rhymed, metre = found >= _ENOUGH, shaped and iambic >= _ENOUGH
        return {
            "lines_right": shaped,
            "syllables_right": counted >= _ENOUGH,
            "rhyme": rhymed,
            "metre": metre,
            "all_right": rhymed and metre,
            "rhyme_share": found,
            "syllables_share": counted,
            "iambic_share": iambic,
        }


def verses(text: str) -> list[str]:
    """Return the lines of a poem in which there are words."""
    return [line for line in text.splitlines() if words(line)]


def scan(line: Sequence[str]) -> int | None:
    """Return how many main stresses a line of words has in the wrong place, read at its best.

    None where no way to say its words gives ten syllables, or eleven with a light one at the end.

    >>> scan("shall i compare thee to a summer's day".split())
    0
    >>> scan("a summer's day".split()) is None
    True
    """
    best: dict[tuple[int, bool], int] = {(0, True): 0}  # (syllables, the last is light) -> wrong
    for word in line:
        reached: dict[tuple[int, bool], int] = {}
        for (syllables, _), wrong in best.items():
            for sound in sounds(word):
                total = syllables + len(sound.stress)
                if total > SYLLABLES + 1:
                    continue
                key = (total, _is_light(sound))
                found = wrong + _misplaced(sound, syllables)
                reached[key] = min(found, reached.get(key, found))
        best = reached
    ends = [(SYLLABLES, True), (SYLLABLES, False), (SYLLABLES + 1, True)]
    return min((best[end] for end in ends if end in best), default=None)


def _is_light(sound: Sound) -> bool:
    """Tell whether a word ends in a syllable that is not stressed."""
    return len(sound.stress) > 1 and sound.stress[-1] != "1"


def _misplaced(sound: Sound, before: int) -> int:
    """Return the main stresses of a word after `before` syllables that stand on odd places."""
    if len(sound.stress) == 1:
        return 0
    places = [before + at for at, mark in enumerate(sound.stress) if mark == "1"]
    return sum(place % 2 == 0 and place > 0 for place in places)


def _rhymed(lines: Sequence[Sequence[str]], scheme: str) -> float:
    """Return the share of a scheme's pairs of lines that rhyme."""
    return _share([rhyme(lines[a][-1], lines[b][-1]) for a, b in _pairs(scheme)])


def _pairs(scheme: str) -> Iterator[tuple[int, int]]:
    """Yield the places of lines that rhyme, each with the one before it of its letter."""
    for letter in dict.fromkeys(scheme):
        places = [at for at, own in enumerate(scheme) if own == letter]
        yield from pairwise(places)


def _share(right: Sequence[bool]) -> float:
    return sum(right) / max(1, len(right))


_OCTAVE = "ABBAABBA"
SHAKESPEAREAN = Sonnet(schemes=("ABABCDCDEFEFGG",))
PETRARCHAN = Sonnet(
    schemes=tuple(_OCTAVE + sestet for sestet in ("CDECDE", "CDCDCD", "CDDCEE", "CDCDEE", "CDEDCE"))
)
SPENSERIAN = Sonnet(schemes=("ABABBCBCCDCDEE",))
COUPLETS = Sonnet(schemes=("AABBCCDDEEFFGG",))
