"""What Sapwood says in English when something is wrong, in Chinese.

A sentence is known by its form: "{} is not a folder" is one with a place for what it names. The
tables beside this module hold, under each code of an error, the forms of its sentences in both
languages: of what is wrong, of its details, of the fix. Forms under `phrases` may stand anywhere,
also in the place of another form; those under `remarks` are parts of a line, with "; " between.
A sentence of no known form stays English, and no word is lost.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain, pairwise
from typing import NamedTuple

from sapwood.errors import SapwoodError

PHRASES, REMARKS = "phrases", "remarks"
ANY, LONG = "", 12  # fixed letters of a form that is known under any code
DEEPEST = 3  # phrases in the places of phrases
_NAMED = re.compile(r"(E-[A-Z]+-\d+): (.+)", re.DOTALL)


class Form(NamedTuple):
    """A sentence with places: the pieces around them, and its Chinese.

    `quoted`: for each place, whether it stands in quotes; what does is a name, and stays.
    """

    pieces: tuple[str, ...]
    chinese: str
    quoted: tuple[bool, ...]

    @classmethod
    def of(cls, english: str, chinese: str) -> Form:
        """Make it from its two sides.

        >>> Form.of("There is no column '{}' in {}", "{1} 没有列 '{0}'").quoted
        (True, False)
        """
        pieces = tuple(english.split("{}"))
        return cls(pieces, chinese, tuple(a[-1:] == b[:1] == "'" for a, b in pairwise(pieces)))

    def places(self, words: str) -> list[str] | None:
        """Return what stands in the places, if the words are of this form; in linear time.

        >>> Form.of("{} is {}.", "").places("a is b is c.")
        ['a', 'b is c']
        """
        first, *between = self.pieces
        if not between:
            return [] if words == first else None
        last = between.pop()
        at, end, found = len(first), len(words) - len(last), []
        if not words.startswith(first) or not words.endswith(last):
            return None
        for piece in between:
            here = words.find(piece, at, end)
            if here < 0:
                return None
            found.append(words[at:here])
            at = here + len(piece)
        return [*found, words[at:end]] if at <= end else None


def in_language(error: SapwoodError, lang: str) -> SapwoodError:
    """Return the error in a language, "en" or "zh", as far as its sentences are known.

    >>> from sapwood.errors import DataError
    >>> in_language(DataError("E-DATA-001", "No such file: a.csv"), "zh").what
    '没有这个文件：a.csv'
    """
    if lang != "zh":
        return error
    told = type(error).__new__(type(error))  # whatever it is made of, it stays
    vars(told).update(vars(error))
    told.lead = "办法："
    told.what = translated(error.what, error.code)
    told.details = tuple(translated(detail, error.code) for detail in error.details)
    told.fix = translated(error.fix, error.code)
    return told


def translated(words: str, code: str = PHRASES, *, depth: int = DEEPEST) -> str:
    """Return words in Chinese: as a sentence of `code`, else as a phrase, else as they are.

    A sentence of another code is known too if it is no short one: errors quote each other. What is
    said of an error that is named, "E-DATA-001: ...", is a sentence of that code.
    """
    named = _NAMED.fullmatch(words)
    if named:
        return f"{named[1]}：{translated(named[2], named[1], depth=depth)}"
    own = _said(words, _forms(code), depth) if code != PHRASES else None
    if own is not None:
        return own
    parts = [_said(part, _forms(REMARKS), depth) for part in words.split("; ")]
    if None not in parts:
        return "；".join(map(str, parts))
    return _said(words, chain(_forms(PHRASES), _forms(ANY)), depth) or words


def spoken(words: str, lang: str, code: str = PHRASES) -> str:
    """Return English words in a language, "en" or "zh", as far as they are known.

    >>> spoken("text: 'body' by alias; 4 entities", "zh")
    "text：'body'（按别名）；4 个实体"
    """
    return translated(words, code) if lang == "zh" else words


def _said(words: str, forms: Iterable[Form], depth: int) -> str | None:
    """Return words in Chinese if they are of one of the forms."""
    for form in forms:
        values = form.places(words)
        if values is not None:
            places = [
                translated(value, depth=depth - 1) if depth and value and not quoted else value
                for value, quoted in zip(values, form.quoted, strict=True)
            ]
            return filled(form.chinese, places)
    return None


def filled(chinese: str, places: Sequence[str]) -> str:
    """Return a form with its places filled in.

    >>> filled("{1} 里没有 {0}", ["a", "b"])
    'b 里没有 a'
    """
    return re.sub(r"\{(\d)\}", lambda found: places[int(found[1])], chinese)


@cache
def _forms(code: str) -> tuple[Form, ...]:
    """Return the forms of a code, those of the most fixed words first."""
    known = {*tables().get(code, ())}
    if code == ANY:
        known = {pair for pairs in tables().values() for pair in pairs if _fixed(pair[0]) >= LONG}
    ordered = sorted(known, key=lambda pair: (-_fixed(pair[0]), pair))
    return tuple(Form.of(english, chinese) for english, chinese in ordered)


def _fixed(english: str) -> int:
    return len(english.replace("{}", ""))


@cache
def tables() -> dict[str, list[tuple[str, str]]]:
    """Return (English, Chinese) of every form, by code and under `phrases`."""
    found: dict[str, list[tuple[str, str]]] = {}
    for table in sorted(files(__name__).iterdir(), key=lambda path: path.name):
        if table.name.endswith(".toml"):
            _add(found, tomllib.loads(table.read_text("utf-8")).items())
    return found


def _add(
    found: dict[str, list[tuple[str, str]]], table: Iterable[tuple[str, list[list[str]]]]
) -> None:
    for code, forms in table:
        found.setdefault(code, []).extend((english, chinese) for english, chinese in forms)
