"""Units and windows: spans come back with the very offsets, and no word is left out."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from sapwood.errors import ModelError
from sapwood.models.windows import Framing, units_of

WORDS = [
    "Ann", "rangers", "co-op", "U.S.", "3.5kg", "e\u0301te\u0301", "caf\u00e9", "na\u00efve",
    "don't", "李先生", "北京", "東京タワー", "5月", "IBM公司", "שלום", "בירושלים", "مرحبا",
    "नमस्ते", "ไทย", "한국어", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "❤\ufe0f", "🎉🎉", "#tag",
    "€100", "x²", "\u200fIBM\u200f",
]  # fmt: skip
BETWEEN = st.sampled_from([" ", " ", "  ", "\u3000", "\n", ", ", "。", "(", "\u00a0"])


@st.composite
def texts(draw):
    """Return (text, (start, end) of each word that was put into it)."""
    text, places = "", []
    for word in draw(st.lists(st.sampled_from(WORDS), max_size=12)):
        places.append((len(text), len(text) + len(word)))
        text += word + draw(BETWEEN)
    return text, places


@pytest.fixture(params=["pieces of words", "bytes"])
def tokenizer(request, tiny_wordpieces, tiny_tokenizer):
    return tiny_wordpieces if request.param == "pieces of words" else tiny_tokenizer


@given(made=texts(), pieces=st.booleans())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", ["wordpieces", "bytes"])
def test_words_come_back_with_their_offsets(kind, made, pieces, tiny_wordpieces, tiny_tokenizer):
    text, places = made
    tokenizer = tiny_wordpieces if kind == "wordpieces" else tiny_tokenizer
    (pieced,) = Framing(tokenizer, 128, pieces=pieces).pieced([text])
    for start, end in places:
        word = text[start:end].strip("\u200f")  # which the tokenizer does not see
        start = text.index(word, start)
        found = pieced.exact(start, start + len(word))
        assert found is not None, (word, pieced.units)
        assert pieced.characters(*found) == (start, start + len(word))


@given(text=st.text(max_size=60), pieces=st.booleans())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("kind", ["wordpieces", "bytes"])
def test_units_hold_on_any_text(kind, text, pieces, tiny_wordpieces, tiny_tokenizer):
    tokenizer = tiny_wordpieces if kind == "wordpieces" else tiny_tokenizer
    (pieced,) = Framing(tokenizer, 128, pieces=pieces).pieced([text])
    ends = [0, *(place for unit in pieced.units for place in unit)]
    assert ends == sorted(ends)
    assert all(start < end for start, end in pieced.units)
    for unit, (start, end) in enumerate(pieced.units):
        assert text[start:end].strip() == text[start:end]
        assert unicodedata.category(text[end : end + 1] or " ")[0] != "M"
        assert pieced.owners[pieced.firsts[unit]] == pieced.owners[pieced.lasts[unit]] == unit
        assert pieced.exact(start, end) == (unit, unit + 1)
    if kind == "bytes":  # it has a token for every character, so every one has a unit
        inside = {place for start, end in pieced.units for place in range(start, end)}
        assert all(n in inside for n, char in enumerate(text) if not char.isspace())


def test_pieces_of_a_word_are_one_unit(tiny_wordpieces):
    (pieced,) = Framing(tiny_wordpieces, 128).pieced(["rangers, co-op 3kg"])
    assert [pieced.text[a:b] for a, b in pieced.units] == ["rangers", ",", "co", "-", "op", "3kg"]
    assert len(pieced.ids) > len(pieced.units)
    (fine,) = Framing(tiny_wordpieces, 128, pieces=True).pieced(["rangers"])
    assert len(fine.units) == len(fine.ids)
    assert pieced.exact(0, 5) is None  # inside the word
    assert pieced.covering(0, 5) == (0, 1)
    assert fine.exact(0, 1) == (0, 1)


def test_offsets_that_split_a_character_are_joined():
    flag = "a🇩🇪b"
    units, owners = units_of(flag, [(0, 1), (1, 2), (2, 3), (3, 4)])
    assert units == ((0, 1), (1, 3), (3, 4))
    assert owners == (0, 1, 1, 2)
    units, owners = units_of("x👍", [(0, 1), (1, 2), (1, 2), (1, 2)])
    assert units == ((0, 1), (1, 2))
    assert owners == (0, 1, 1, 1)
    assert units_of("a  b", [(0, 1), (1, 3), (2, 4)]) == (((0, 1), (3, 4)), (0, -1, 1))


@given(
    count=st.integers(0, 300),
    max_length=st.integers(96, 160),
    seed=st.integers(0, 100),
    asked=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_unit_is_answered_once_in_its_place(count, max_length, seed, asked, tiny_wordpieces):
    words = ["rangers", "north", "a", "lies,", "北京"]
    text = " ".join(words[(n * 7 + seed) % 5] for n in range(count))
    framing = Framing(tiny_wordpieces, max_length)
    (pieced,) = framing.pieced([text])
    about = (len(pieced.units) // 2, len(pieced.units) // 2 + 1) if asked and count else None
    whole = [(n, n + 2) for n in range(seed % 5, len(pieced.units) - 2, 9)]
    found = framing.windows(pieced, "sale: rangers" if asked else "", about, whole)
    answered = [n for window in found for n in range(window.first, window.end)]
    assert answered == list(range(len(pieced.units)))
    seams = {window.first for window in found}
    for window in found:
        assert len(window.ids) <= max_length
        assert window.ids[0] == tiny_wordpieces.cls_token_id
        assert window.ids[-1] == tiny_wordpieces.sep_token_id
        for unit, place in zip(range(window.first, window.end), window.places, strict=True):
            assert window.ids[place] == pieced.ids[pieced.firsts[unit]]
    assert all(not first < seam < end for first, end in whole for seam in seams)


def test_a_question_stands_before_the_text_and_its_words_are_marked(tiny_wordpieces):
    framing = Framing(tiny_wordpieces, 64)
    (pieced,) = framing.pieced(["Ann sold it"])
    (window,) = framing.windows(pieced, "sale: sold", pieced.exact(4, 8))
    said = tiny_wordpieces.decode(window.ids).replace(" ##", "")
    assert said == "[CLS] sale : sold [SEP] ann @ sold @ it [SEP]"
    assert [tiny_wordpieces.decode([window.ids[n]]) for n in window.places] == ["an", "s", "i"]


def test_a_tokenizer_without_a_space_before_its_ends_has_none(tiny_tokenizer):
    framing = Framing(tiny_tokenizer, 64)
    (pieced,) = framing.pieced(["ab"])
    (window,) = framing.windows(pieced)
    assert window.ids == pieced.ids


def test_what_cannot_be_framed_is_refused(tiny_wordpieces):
    class Slow:
        is_fast = False

    with pytest.raises(ModelError) as error:
        Framing(Slow(), 64)
    assert error.value.code == "E-MODEL-076"
    with pytest.raises(ModelError) as error:
        Framing(tiny_wordpieces, 12)
    assert error.value.code == "E-MODEL-077"
    assert isinstance(tiny_wordpieces, PreTrainedTokenizerFast)
