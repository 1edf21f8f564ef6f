"""Quoted words and their places: one rule, whoever writes and whoever reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.interfaces import Span
from sapwood.tasks.alignment import Alignment, cuts_word, mark_of

TEXT = "EU Commission: the EU, and Europe, and the EU."


def test_every_place_is_found_overlapping_ones_too():
    assert Alignment("aaa", ["aa"]).places("aa") == ((0, 2), (1, 3))
    assert Alignment(TEXT, ["EU"]).places("EU") == ((0, 2), (19, 21), (43, 45))
    assert Alignment("abc", [""]).places("") == ()


def test_entities_take_the_next_free_place():
    alignment = Alignment(TEXT, ["EU", "EU Commission"])
    taken = []
    while (place := alignment.entity("EU")) is not None:
        alignment.take(place)
        taken.append(place)
    assert taken == [(19, 21), (43, 45), (0, 2)]  # inside longer quoted words last


def test_whole_words_come_before_parts_of_words():
    assert Alignment("Annexe Ann", ["Ann"]).entity("Ann") == (7, 10)
    assert Alignment("Annexe", ["Ann"]).entity("Ann") == (0, 3)
    assert Alignment("东京都东京", ["东京"]).entity("东京") == (0, 2)


def test_arguments_are_near_and_not_over():
    alignment = Alignment("the man saw the man", ["man"])
    assert alignment.near("man", (8, 11)) == (4, 7)
    assert alignment.near("man", (8, 11), [(4, 7)]) == (16, 19)
    assert alignment.near("man", (4, 7)) == (16, 19)
    assert alignment.near("man", None) == (4, 7)
    assert alignment.first("man", [(4, 7)]) == (16, 19)


def test_marks_count_places_from_one():
    assert mark_of([(0, 2), (5, 7)], Span(start=5, end=7, label="x")) == 2
    with pytest.raises(ValueError, match="not in list"):
        mark_of([(0, 2)], Span(start=5, end=7))


@pytest.mark.parametrize(
    ("text", "at", "cut"),
    [
        ("word", 2, True), ("a b", 1, False), ("a-b", 1, False), ("3.5", 1, False),
        ("ab", 0, False), ("ab", 2, False), ("e\u0301t", 1, True), ("e\u0301t", 2, True),
        ("北京", 1, False),
        ("A京", 1, False), ("سلام", 2, True), ("कि", 1, True), ("x😀", 1, False),
    ],
)  # fmt: skip
def test_where_a_word_would_be_cut(text, at, cut):
    assert cuts_word(text, at) is cut


@given(text=st.text(alphabet="ab 京é\u0301", min_size=1, max_size=20), data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_same_words_never_get_the_same_place_twice(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    words = text[start : data.draw(st.integers(start + 1, len(text)))]
    alignment = Alignment(text, [words])
    taken = []
    while (place := alignment.entity(words)) is not None:
        assert text[place[0] : place[1]] == words
        assert all(place[1] <= a or b <= place[0] for a, b in taken)
        alignment.take(place)
        taken.append(place)
    assert taken
