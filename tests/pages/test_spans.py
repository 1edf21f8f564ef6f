"""Marked texts: the text stays itself, readings need no colour, any script, any overlap."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

import pytest

from sapwood.pages.spans import LONGEST, Mark, chip, marked_text, marks_of, tongue
from sapwood.pages.words import Words

WORDS = Words()


def frame(label: str, start: int, end: int, *more: tuple[int, int, str]) -> dict[str, Any]:
    spans = [{"start": s, "end": e, "label": name} for s, e, name in more]
    return {"label": label, "head": {"start": start, "end": end, "label": ""}, "arguments": spans}


def answer(text: str, wanted: list[Any], said: list[Any]) -> dict[str, Any]:
    return {"text": text, "frames_wanted": wanted, "frames": said}


def plain(marked: str) -> str:
    """Return the text without its marks: what a reader copies."""
    bare = re.sub(r"<bdi.*?</bdi>|<em.*?</em>", "", marked, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", bare))


def read_aloud(marked: str) -> str:
    bare = re.sub(r'<span aria-hidden="true">.*?</span>', "", marked)
    return html.unescape(re.sub(r"<[^>]+>", "", bare))


TEXTS = [
    "EU rejects <b>German</b> & British lamb",
    "据英国《卫报》报道，WeWork的职员透露",
    "زار أنطونيو غوتيريش مقر الأمم المتحدة في نيويورك",
    "ראש הממשלה ביקר ב-Google בתל אביב",
    "e\u0301te\u0301 \N{WOMAN}\u200d\N{ROCKET} \U0001f44d\U0001f3fd rouge\n  et noir",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_stays_one_run_of_its_own_characters(text: str) -> None:
    for start in range(0, len(text), 3):
        for end in range(start + 1, len(text) + 1, 4):
            marks = [
                Mark(start=start, end=end, label="A", reading="right"),
                Mark(start=0, end=end, label="B", reading="missed"),
                Mark(start=start, end=len(text), label="C", reading="spurious", head=False),
            ]
            marked = marked_text(text, marks, WORDS)
            assert plain(marked) == text
            assert marked.count("<bdi") == 3
            assert 'dir="auto"' in marked


def test_no_character_is_cut_from_its_combining_signs() -> None:
    text = "e\u0301te\u0301 \U0001f44d\U0001f3fd"
    for start in range(len(text)):
        mark = Mark(start=start, end=start + 1, label="A", reading="right")
        marked = marked_text(text, [mark], WORDS)
        for piece in re.findall(r"<mark[^>]*>(.*?)</mark>(.?)", marked):
            assert not any(unicodedata.combining(sign) for sign in (piece[0][0], piece[1] or "a"))
            assert not piece[0].startswith("\U0001f3fd")


def test_readings_differ_by_line_sign_and_spoken_word() -> None:
    text = "one two three"
    wanted, said = [frame("A", 0, 3), frame("B", 4, 7)], [frame("A", 0, 3), frame("C", 8, 13)]
    marks = marks_of(answer(text, wanted, said), "entities")
    assert [(m.label, m.reading) for m in marks] == [
        ("A", "right"), ("B", "missed"), ("C", "spurious"),
    ]  # fmt: skip
    marked = marked_text(text, marks, WORDS)
    assert [f"var(--{m.reading})" in marked for m in marks] == [True] * 3
    assert [sign in marked for sign in "✓○×"] == [True] * 3
    assert read_aloud(marked) == "one right: A two missed: B three spurious: C"


def test_overlapping_spans_lie_on_lines_of_their_own() -> None:
    text = "长城汽车股份有限公司董事长魏建军增持"
    event = frame("增持", 16, 18, (0, 16, "增持方"), (0, 10, "公司"), (13, 16, "人"))
    marks = marks_of(answer(text, [event], [event]), "events")
    assert [(m.label, m.head) for m in marks] == [
        ("公司", False), ("增持方", False), ("人", False), ("增持", True),
    ]  # fmt: skip
    marked = marked_text(text, marks, WORDS)
    assert "--deep:2" in marked
    assert marked.count("var(--right),var(--right)") == 2, "two stretches lie under two spans"
    assert "right (长城汽车股份有限公司董事长魏建军): 增持方" in read_aloud(marked)
    assert " right: 人" in read_aloud(marked), "a span in one piece needs no quote"
    assert 'lang="zh"' in marked


def test_ends_of_relations_count_by_place() -> None:
    text = "Ada in London"
    one = frame("born_in", 0, 3, (7, 13, "LOC"))
    other = frame("lives_in", 0, 3, (7, 13, "GPE"))
    marks = marks_of(answer(text, [one], [other]), "relations")
    assert [(m.label, m.reading) for m in marks] == [("", "right"), ("LOC", "right")]


def test_spans_outside_the_text_are_left_out() -> None:
    marks = [
        Mark(start=start, end=end, label="A", reading="right")
        for start, end in ((-1, 2), (2, 2), (1, 9))
    ]
    assert marked_text("abc", marks, WORDS) == (
        '<p class="marked" dir="auto" style="--deep:0">abc</p>'
    )


def test_a_long_text_is_shown_around_its_first_error() -> None:
    text = "word " * 2000
    marks = [
        Mark(start=0, end=4, label="A", reading="right"),
        Mark(start=5000, end=5004, label="B", reading="missed"),
        Mark(start=9995, end=9999, label="C", reading="spurious"),
    ]
    marked = marked_text(text, marks, WORDS)
    assert len(plain(marked)) < LONGEST + 10
    assert "missed: B" in read_aloud(marked)
    assert "2 more marks outside this part" in marked
    assert plain(marked).startswith("… word")


def test_labels_are_text_never_markup() -> None:
    assert "<i>" not in chip("<i>", "right", WORDS)
    mark = Mark(start=0, end=1, label="<i>", reading="missed")
    assert "&lt;i&gt;" in marked_text("a", [mark], WORDS)


def test_only_a_script_of_one_language_names_it() -> None:
    assert tongue("明月松間照") == ' lang="zh"'
    assert tongue("東京へ行きました") == ' lang="ja"'
    assert tongue("서울에서") == ' lang="ko"'
    assert tongue("Paris 北") == ""
    assert tongue("1234") == ""
