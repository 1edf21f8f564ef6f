"""What the commands say, in English and Chinese, and which of both a reader wants."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


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
def _sentences() -> dict[str, dict[str, str]]:
    return tomllib.loads(files("sapwood.commands").joinpath("words.toml").read_text("utf-8"))


def say(lang: str, key: str, **values: object) -> str:
    """Return the sentence `key` in `lang` with its places filled in. Raises KeyError if unknown."""
    return _sentences()[key][lang].format(**values)
