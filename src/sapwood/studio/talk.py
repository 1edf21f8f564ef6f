"""What the page says, in English and Chinese, and which of both a reader wants."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from sapwood.pages.candidates import shown
from sapwood.pages.panel import quantity
from sapwood.pages.words import LANGUAGES, Words
from sapwood.translation import PHRASES, spoken

COOKIE = "sapwood_lang"
SAVED = "bits_saved"  # of written answers: which share of the 8 bits of a byte is not needed


@cache
def _sentences() -> dict[str, dict[str, str]]:
    return tomllib.loads(files("sapwood.studio").joinpath("words.toml").read_text("utf-8"))


@dataclass(frozen=True, kw_only=True)
class Talk:
    """Sentences of the page and quantities, in one language.

    >>> Talk(lang="en")("rows_short", count=3), Talk(lang="zh").score("accuracy", 0.5)
    ('3 rows', '50.0%')
    """

    lang: str = "en"

    def __call__(self, key: str, **values: object) -> str:
        """Return the sentence `key` with its places filled in. Raises KeyError if unknown."""
        return _sentences()[key][self.lang].format(**values)

    def named(self, key: str, otherwise: str) -> str:
        """Return the sentence `key`, or other words where there is none."""
        found = _sentences().get(key)
        return found[self.lang] if found else otherwise

    @property
    def q(self) -> Words:
        """Return the quantities of the reports, in the same language."""
        return Words(lang=self.lang)

    @property
    def tag(self) -> str:
        """Return the language as HTML names it."""
        return "zh-Hans" if self.lang == "zh" else "en"

    def said(self, words: str, code: str = PHRASES) -> str:
        """Return words that other parts wrote in English, as far as they are known."""
        return spoken(words, self.lang, code)

    def told(self, words: str, code: str = PHRASES) -> Markup:
        """Return the same as a part of a page, marked with the language that it is in."""
        said = self.said(words, code)
        tag = "en" if said == words else self.tag
        return Markup('<span lang="{}">{}</span>').format(tag, said)

    def task(self, name: str) -> str:
        """Return what a kind of task is called."""
        return self.named(f"task_{name}", name)

    def role(self, name: str) -> str:
        """Return what the part of a column is called."""
        return self.named(f"role_{name}", name.replace("_", " "))

    def candidate(self, name: object) -> str:
        """Return a candidate's name as a reader knows it."""
        return shown(name)

    def score(self, metric: str, value: Any) -> str:
        """Return a score as its metric is read: most in percent, bits a byte as a number."""
        return self.q.percent(value) if metric == SAVED else quantity(metric, value, self.q)

    def span(self, metric: str, low: Any, high: Any) -> str:
        """Return an interval of scores."""
        if metric == SAVED:
            return self.q.span(low, high)
        ends = [quantity(metric, end, self.q, bare=True) for end in (low, high)]
        return self.q("to", low=ends[0], high=ends[1])

    def moment(self, seconds: float) -> str:
        """Return a point of time, given in seconds since 1970, as a local date and hour."""
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"

    def about(self, seconds: float) -> str:
        """Return a duration as one says it: no parts of seconds."""
        if seconds < 90:
            return self.q("seconds", value=round(max(1.0, seconds)))
        return self.q("minutes", value=round(seconds / 60))


def choose(query: Mapping[str, str], cookies: Mapping[str, str], accepted: str, usual: str) -> str:
    """Return the language to speak: asked for, chosen before, accepted by the browser, or usual.

    >>> choose({}, {}, "fr, zh-CN;q=0.8, en;q=0.5", "en"), choose({"lang": "en"}, {}, "zh", "zh")
    ('zh', 'en')
    """
    for said in (query.get("lang"), cookies.get(COOKIE)):
        if said in LANGUAGES:
            return said
    wanted: list[tuple[float, int, str]] = []
    for part in accepted.split(","):
        name, _, weight = part.strip().partition(";q=")
        code = name.lower()[:2]
        if code in LANGUAGES:
            try:
                wanted.append((-float(weight or 1), len(wanted), code))
            except ValueError:
                continue
    return min(wanted)[2] if wanted else usual
