"""Sentences exist in both languages; quantities read well."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

import pytest

from sapwood.pages.words import Words, language_of

PAGES = files("sapwood.pages")
TABLE = tomllib.loads(PAGES.joinpath("words.toml").read_text("utf-8"))


@pytest.mark.parametrize("key", TABLE)
def test_both_languages_have_the_same_places(key: str) -> None:
    assert set(TABLE[key]) == {"en", "zh"}
    english, chinese = (set(re.findall(r"{(\w+)}", TABLE[key][code])) for code in ("en", "zh"))
    assert english == chinese


def test_templates_ask_only_for_sentences_that_exist() -> None:
    asked: set[str] = set()
    for page in ("report", "evidence", "answers", "compare"):
        name = f"{page}.html.jinja"
        text = PAGES.joinpath(name).read_text("utf-8")
        asked |= set(re.findall(r"""\bt\(["'](\w+)["'](?! ~)""", text))
    assert len(asked) > 80
    assert asked <= set(TABLE)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.001, "<0.01 s"), (0.42, "0.42 s"), (9.4, "9.4 s"), (210, "210 s"),
     (599.6, "600 s"), (1500, "25 min"), (12600, "3.5 h"), (None, "—"), (float("nan"), "—")],
)  # fmt: skip
def test_seconds(seconds: float | None, text: str) -> None:
    assert Words().seconds(seconds) == text


def test_other_quantities() -> None:
    words = Words()
    assert [words.milliseconds(v) for v in (0.001, 0.09, 35, 1234)] == [
        "<0.01 ms",
        "0.09 ms",
        "35 ms",
        "1.2 s",
    ]
    assert [words.size(v) for v in (310, 4890000, 1.62e9)] == ["310 B", "4.9 MB", "1.6 GB"]
    assert [words.compact(v) for v in (770, 276480, 2442240)] == ["770", "276 k", "2.44 M"]
    assert [words.signed(v) for v in (0.153, -0.02, 0.0, -0.0001)] == [
        "+15.3",
        "−2.0",
        "0.0",
        "0.0",
    ]
    assert words.points(0.01) == "1.0 point"
    assert Words(lang="zh").points(0.01) == "1.0 个百分点"


def test_languages() -> None:
    assert [language_of(code) for code in ("zh", "zh-TW", "ZH", "en", "", None)] == [
        "zh", "zh", "zh", "en", "en", "en",
    ]  # fmt: skip
