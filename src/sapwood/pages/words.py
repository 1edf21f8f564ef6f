"""Sentences and quantities in the language of the reader, from words.toml."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeGuard

from sapwood.translation import spoken

LANGUAGES = ("en", "zh")
MINUS = "\N{MINUS SIGN}"
ABSENT = "\N{EM DASH}"


@cache
def _sentences() -> dict[str, dict[str, str]]:
    return tomllib.loads(files("sapwood.pages").joinpath("words.toml").read_text("utf-8"))


def language_of(code: object) -> str:
    """Return the page language for a language code: ``zh`` for any Chinese, else ``en``.

    >>> language_of("zh-Hans"), language_of("fr"), language_of(None)
    ('zh', 'en', 'en')
    """
    return "zh" if str(code or "").lower().startswith("zh") else "en"


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether `value` is a finite number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class Words:
    """Sentences and quantities in one language; an absent quantity is an em dash.

    Scores and differences are given in [0, 1] or [-1, 1] and shown in percent or points.

    >>> Words(lang="en").percent(0.8925), Words(lang="zh").points(-0.031)
    ('89.2 %', '−3.1 个百分点')
    """

    lang: str = "en"

    def __call__(self, key: str, **values: object) -> str:
        """Return the sentence `key` with its places filled in. Raises KeyError if unknown."""
        return _sentences()[key][self.lang].format(**values)

    def told(self, text: str) -> str:
        """Return a sentence that a run wrote in English, in this language as far as it is known."""
        return spoken(text, self.lang)

    def known(self, key: str) -> str | None:
        """Return the sentence `key` as it is written, or None if there is no such sentence."""
        found = _sentences().get(key)
        return found[self.lang] if found else None

    def number(self, value: Any, digits: int = 0) -> str:
        """Return a number with thousands separated and a true minus sign."""
        if not is_number(value):
            return ABSENT
        text = f"{value:,.{digits}f}"
        if float(text.replace(",", "")) == 0:
            text = text.lstrip("-")
        return text.replace("-", MINUS)

    def bare(self, value: Any) -> str:
        """Return a score in percent without the sign: ``89.2``."""
        return self.number(value * 100, 1) if is_number(value) else ABSENT

    def percent(self, value: Any) -> str:
        """Return a score in percent: ``89.2 %``."""
        return self("percent", value=self.bare(value)) if is_number(value) else ABSENT

    def points(self, value: Any) -> str:
        """Return a difference of scores: ``15.3 points``."""
        bare = self.bare(value)
        key = "one_point" if bare in {"1.0", f"{MINUS}1.0"} else "points"
        return self(key, value=bare) if is_number(value) else ABSENT

    def signed(self, value: Any) -> str:
        """Return a difference in points with its sign: ``+15.3``."""
        bare = self.bare(value)
        return f"+{bare}" if is_number(value) and value > 0 and bare != "0.0" else bare

    def span(self, low: Any, high: Any) -> str:
        """Return an interval of scores: ``86.1 to 91.9``."""
        return self("to", low=self.bare(low), high=self.bare(high))

    def seconds(self, value: Any) -> str:
        """Return a duration given in seconds: ``0.42 s``, ``210 s``, ``25 min``, ``3.5 h``."""
        if not is_number(value):
            return ABSENT
        if value < 0.005:
            return self("seconds", value="<0.01" if value > 0 else "0")
        if value < 600:
            return self("seconds", value=_short(value))
        if value < 7200:
            return self("minutes", value=f"{value / 60:.0f}")
        return self("hours", value=f"{value / 3600:,.1f}")

    def milliseconds(self, value: Any) -> str:
        """Return a duration given in milliseconds: ``0.04 ms``, ``35 ms``, ``1.2 s``."""
        if not is_number(value):
            return ABSENT
        if value >= 1000:
            return self.seconds(value / 1000)
        if value < 0.005:
            return self("milliseconds", value="<0.01" if value > 0 else "0")
        return self("milliseconds", value=_short(value))

    def size(self, value: Any) -> str:
        """Return a number of bytes in decimal units: ``4.2 MB``."""
        if not is_number(value):
            return ABSENT
        for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if value >= scale:
                return f"{_short(value / scale)} {unit}"
        return f"{value:.0f} B"

    def compact(self, value: Any) -> str:
        """Return a count in three digits: ``850``, ``1.23 M``."""
        if not is_number(value):
            return ABSENT
        for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
            if value >= scale:
                return f"{value / (1e3 if unit == 'k' else scale):.3g} {unit}"
        return self.number(value)

    def metric(self, name: object) -> str:
        """Return the reader's name of a metric, or its own where it has none."""
        return self.known(f"metric_{name}") or str(name).replace("_", " ")

    def split(self, name: object) -> str:
        """Return the reader's name of a split."""
        return self.known(f"split_{name}") or str(name)

    def listing(self, names: list[str]) -> str:
        """Return names joined by the language's comma."""
        return self("comma").join(names)


def _short(value: float) -> str:
    if value >= 99.5:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"
