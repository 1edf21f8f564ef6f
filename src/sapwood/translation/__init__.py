"""What Sapwood says in English when something is wrong, in Chinese.

A sentence is known by its form: "{} is not a folder" is one with a place for what it names. The
tables beside this module hold, under each code of an error, the forms of its sentences in both
languages: of what is wrong, of its details, of the fix. Forms under `phrases` may stand anywhere,
also in the place of another form. A sentence of no known form stays English, and no word is lost.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain

from sapwood.errors import SapwoodError

PHRASES = "phrases"
ANY, LONG = "", 12  # fixed letters of a form that is known under any code
DEEPEST = 3  # phrases in the places of phrases
_NAMED = re.compile(r"(E-[A-Z]+-\d+): (.+)", re.DOTALL)
Form = tuple[str, re.Pattern[str], str]  # its longest fixed piece, itself, Chinese


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
    for piece, form, chinese in chain(_forms(code), _forms(PHRASES), _forms(ANY)):
        if piece in words and (found := form.fullmatch(words)):
            values = found.groups("")
            places = [translated(v, depth=depth - 1) if depth and v else v for v in values]
            return filled(chinese, places)
    return words


def filled(chinese: str, places: Sequence[str]) -> str:
    """Return a form with its places filled in.

    >>> filled("{1} 里没有 {0}", ["a", "b"])
    'b 里没有 a'
    """
    return re.sub(r"\{(\d)\}", lambda found: places[int(found[1])], chinese)


@cache
def _forms(code: str) -> tuple[Form, ...]:
    """Return the forms of a code as patterns, those of the most fixed words first."""
    known = {*tables().get(code, ())}
    if code == ANY:
        known = {pair for pairs in tables().values() for pair in pairs if _fixed(pair[0]) >= LONG}
    ordered = sorted(known, key=lambda pair: (-_fixed(pair[0]), pair))
    return tuple((max(e.split("{}"), key=len), pattern(e), chinese) for e, chinese in ordered)


def _fixed(english: str) -> int:
    return len(english.replace("{}", ""))


def pattern(english: str) -> re.Pattern[str]:
    """Return the pattern of a form: anything may stand in the place of a {}, also nothing."""
    return re.compile("(.*?)".join(map(re.escape, english.split("{}"))), re.DOTALL)


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
