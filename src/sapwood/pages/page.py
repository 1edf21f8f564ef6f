"""The report as one self-contained HTML page that needs no script, no network and no colour."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from sapwood.pages.candidates import Report, shown
from sapwood.pages.panel import named
from sapwood.pages.sections import sections
from sapwood.pages.spans import SIGNS, chip
from sapwood.pages.words import ABSENT, Words, language_of

if TYPE_CHECKING:
    from jinja2 import Environment

# The spaces inside a quantity and inside a range: no line breaks there.
_UNIT = re.compile(
    r"(?<=\d) (?=%|ms\b|s\b|min\b|h\b|points?\b|[kMG]?B\b|[kMG]\b|个|秒|毫|分|小|to [\d−]|至)"
    r"|(?<=\d to) (?=[\d−])|(?<=\d 至) (?=[\d−])"
)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("sapwood.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["together"] = together
    return found


def together(text: object) -> Markup:
    """Return `text` escaped, with no line break between a number and its unit or in a range."""
    return Markup(_UNIT.sub("\N{NO-BREAK SPACE}", str(escape(text))))


def page(report: Report, lang: str | None = None) -> str:
    """Return the HTML of a run's report, in `lang` or in the report's own language."""
    words = Words(lang=language_of(lang or report.get("language")))
    return _render("report.html.jinja", words, report=report, **sections(report, words))


def compare_page(table: list[dict[str, Any]], differences: list[dict[str, Any]], lang: str) -> str:
    """Return the HTML that shows runs side by side.

    `table` and `differences` are the rows of `comparing.run_row` and `comparing.difference`.
    """
    words = Words(lang=language_of(lang))
    scores = [row["test"] for row in table if row["test"]]
    low = min((s.get("low", s["value"]) for s in scores), default=0.0)
    high = max((s.get("high", s["value"]) for s in scores), default=1.0)
    pad = 0.05 * (high - low) or 0.01
    return _render(
        "compare.html.jinja",
        words,
        table=table,
        differences=differences,
        scale=(max(low - pad, 0.0), min(high + pad, 1.0)),
    )


def _render(template: str, words: Words, **values: Any) -> str:
    said = {"chip": partial(chip, words=words), "named": named, "signs": SIGNS}
    text = (
        _environment()
        .get_template(template)
        .render(t=words, absent=ABSENT, shown=shown, **said, **values)
    )
    return re.sub(r"\n\s*\n+", "\n", text)
