"""What the commands say, in English and Chinese, and which of both a reader wants."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import click

from sapwood.translation import spoken


def locale_language(environment: Mapping[str, str] | None = None) -> str | None:
    """Return "zh" or "en" as LC_ALL, LC_MESSAGES or LANG say, None where none names a language.

    >>> locale_language({"LANG": "zh_CN.UTF-8"}), locale_language({"LC_ALL": "C", "LANG": "zh_CN"})
    ('zh', None)
    """
    given = os.environ if environment is None else environment
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = given.get(name, "").lower()
        if value:  # the first that is set decides, as for every program
            plain = value.partition(".")[0]
            return None if plain in ("c", "posix") else "zh" if plain.startswith("zh") else "en"
    return None


def reader_language(lang: str | None) -> str:
    """Return the language to speak: the one asked for, else the locale's, else English."""
    return lang or locale_language() or "en"


def report_language(lang: str | None) -> str | None:
    """Return the language of a report: the one asked for, Chinese under a Chinese locale, or None.

    None leaves it to the report, which speaks the language of its data.
    """
    return lang or ("zh" if locale_language() == "zh" else None)


@cache
def _sentences() -> dict[str, Any]:
    return tomllib.loads(files("sapwood.commands").joinpath("words.toml").read_text("utf-8"))


def say(lang: str, key: str, **values: object) -> str:
    """Return the sentence `key` in `lang` with its places filled in. Raises KeyError if unknown."""
    sentence: str = _sentences()[key][lang]
    return sentence.format(**values)


def tell(words: str, lang: str | None = None) -> None:
    """Print on stderr what another part says in English, in the reader's language."""
    click.echo(spoken(words, reader_language(lang)), err=True)


def laid_out(head: str, words: str, *, column: int, width: int = 80) -> str:
    """Return `head` and `words` beside it from `column` on, wrapped to `width` terminal cells.

    >>> print(laid_out("Rows", "12 of 14 can be used", column=6, width=18))
    Rows  12 of 14 can
          be used
    """
    from rich.cells import cell_len

    fits = cell_len(head) < column
    front = head + " " * (column - cell_len(head)) if fits else f"{head}\n{' ' * column}"
    return front + ("\n" + " " * column).join(wrapped(words, width - column))


def wrapped(words: str, width: int) -> list[str]:
    """Return words as lines of at most `width` terminal cells.

    A Chinese character takes two cells, and a line may break between any two of them.

    >>> wrapped("中文文本，ABC", 8)
    ['中文文', '本，ABC']
    """
    from rich.cells import cell_len, chop_cells

    lines, line = [], ""
    for piece in _PIECES.findall(words):
        if line and cell_len(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
        if cell_len(line.rstrip()) > width:  # one word longer than a line
            *full, line = chop_cells(line, width)
            lines += full
    return [*lines, line.rstrip()]


# A word, or a Chinese character with the punctuation that may not begin a line; spaces behind it.
_PIECES = re.compile(
    r"[^\s\u2e80-\uffef]+\s*|[\u2e80-\uffef][\uff0c\u3002\uff1b\uff1a\u3001\uff09\u300b\u201d]*\s*|\s+"
)
