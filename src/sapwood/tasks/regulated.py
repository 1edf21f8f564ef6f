"""Regulated verse of the Tang: quatrains and eight-line poems of five or seven characters a line.

What a poem of the form must hold (Wang Li 1958, Hanyu shilü xue): so many lines of so many
characters; the even lines end in different characters of one rhyme group; tones alternate at the
second, fourth and sixth character, the two lines of a couplet oppose each other there (dui), the
next couplet takes up what the last line had (nian); even lines end level, odd ones oblique, but
for a first line that rhymes. One turn of tones is as good as the rule: oblique-level-oblique for
level-oblique-oblique at a line's end. A level tone left alone, three level ones at a line's end and
whether middle couplets are parallel are not looked at.

The rule came up in the seventh century, and old-style poems of the same shape never kept it: for
these `rhyme` and the counts are the form, `tones` is not. A character of several readings fits
where one of them does, one without a reading fits everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.tasks.rhymebook import LEVEL, is_simplified, rhymes, tones

# A character of any line; 々 and ○ are no characters of verse, and gaps are no lines.
HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_BREAKS = re.compile(r"[\s，。！？；：、,.!?;:]+")
_HAN_ONLY = re.compile(f"[{HAN}]+")
OTHER = {"level": "oblique", "oblique": "level"}
Line = tuple[frozenset[str], ...]  # what tones each of its characters may have


@dataclass(frozen=True, kw_only=True)
class Regulated:
    """A form of `lines` (4 or 8) lines of `characters` (5 or 7)."""

    lines: int
    characters: int
    language = "zh"

    def keeps(self, text: str) -> bool:
        """Tell whether a text has the form's lines and characters, whatever it sounds like."""
        return [len(line) for line in verses(text)] == [self.characters] * self.lines

    def check(self, text: str) -> dict[str, Any]:
        """Return what a poem holds of the form: yes or no each, `_share` in [0, 1]; JSON-ready.

        `rhyme` and `tones` can only hold where lines and characters are right. `tones_share`: of
        the places that have a rule, those that keep it; `known_share`: characters with a reading.
        Raises ResourceError (E-RESOURCE-040) without the packages of readings.
        """
        lines = verses(text)
        simplified = is_simplified(text)
        shaped = self.keeps(text)
        kept, places = self._tones(lines, simplified) if shaped else (0, 1)
        known = [bool(tones(char, simplified=simplified)) for line in lines for char in line]
        rhyming = shaped and self._rhymes([line[-1] for line in lines[1::2]], simplified)
        return {
            "lines_right": len(lines) == self.lines,
            "characters_right": bool(lines) and all(len(x) == self.characters for x in lines),
            "rhyme": rhyming,
            "tones": shaped and kept == places,
            "all_right": rhyming and kept == places,
            "tones_share": kept / places,
            "known_share": sum(known) / max(1, len(known)),
        }

    def _rhymes(self, ends: Sequence[str], simplified: bool) -> bool:
        return len(set(ends)) == len(ends) and bool(_shared(ends, simplified))

    def _tones(self, lines: Sequence[str], simplified: bool) -> tuple[int, int]:
        """Return (places that keep the rule, places that have one), of the pattern nearest."""
        read = [tuple(tones(char, simplified=simplified) for char in line) for line in lines]
        ends = [lines[0][-1], *(line[-1] for line in lines[1::2])]
        firsts = (False, True) if _shared(ends, simplified) & set(LEVEL) else (False,)
        return max(self._kept(read, start, rhymed=rhymed) for start in OTHER for rhymed in firsts)

    def _kept(self, lines: Sequence[Line], start: str, *, rhymed: bool) -> tuple[int, int]:
        rules = self.pattern(start, rhymed=rhymed)
        kept = places = 0
        for line, rule in zip(lines, rules, strict=True):
            places += len(rule)
            kept += sum(_fits(line[at], tone) for at, tone in rule.items())
            kept += self._turned(line, rule)
        return kept, places

    def _turned(self, line: Line, rule: dict[int, str]) -> bool:
        """Tell whether a line's one break is the turn that counts as none."""
        at = self.characters - 2
        return (
            rule[at] == rule[self.characters - 1] == "oblique"
            and not _fits(line[at], "oblique")
            and _fits(line[at - 1], "oblique")
        )

    def pattern(self, start: str, *, rhymed: bool) -> list[dict[int, str]]:
        """Return the tone of each ruled place (0-based) of each line.

        `start`: the tone of the first line's second character; `rhymed`: the first line rhymes.
        """
        found = []
        for number in range(self.lines):
            second = start if number % 4 in (0, 3) else OTHER[start]
            rule = {
                at: second if at % 4 == 1 else OTHER[second]
                for at in range(1, self.characters - 1, 2)
            }
            level = number % 2 == 1 or (number == 0 and rhymed)
            rule[self.characters - 1] = "level" if level else "oblique"
            found.append(rule)
        return found


def verses(text: str) -> list[str]:
    """Return the lines of a Chinese poem without their marks; other writing makes a line empty.

    >>> verses("床前明月光，疑是地上霜。")
    ['床前明月光', '疑是地上霜']
    """
    lines = [line for line in _BREAKS.split(text.strip()) if line]
    return [line if _HAN_ONLY.fullmatch(line) else "" for line in lines]


def _shared(ends: Sequence[str], simplified: bool) -> frozenset[str]:
    """Return the rhyme groups that all of these characters may belong to."""
    return frozenset.intersection(*(rhymes(end, simplified=simplified) for end in ends))


def _fits(known: frozenset[str], wanted: str) -> bool:
    return not known or wanted in known


WUJUE = Regulated(lines=4, characters=5)
QIJUE = Regulated(lines=4, characters=7)
WULU = Regulated(lines=8, characters=5)
QILU = Regulated(lines=8, characters=7)
