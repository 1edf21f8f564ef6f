"""Inputs for calibration: words of the domain, in the units of its writing."""

from __future__ import annotations

from collections import Counter

import pytest

from sapwood.errors import DataError
from sapwood.readouts.inputs import content_free_inputs, domain_inputs

ENGLISH = ["the film was fine", "the plot was the problem"]
CHINESE = ["房间很干净，服务也不错。", "电池不行 iPhone 好"]


def test_inputs_without_content():
    assert content_free_inputs() == ("N/A", "", "[MASK]")


def test_english_words_are_drawn_as_often_as_they_occur():
    drawn = domain_inputs(ENGLISH, count=400, seed=3)
    words = Counter(word for text in drawn for word in text.split(" "))
    assert set(words) == {"the", "film", "was", "fine", "plot", "problem"}
    assert words["the"] / words.total() == pytest.approx(3 / 9, abs=0.03)
    assert all(len(text.split(" ")) == 4 for text in drawn)  # nine words in two texts


def test_chinese_is_drawn_in_pairs_and_joined_without_spaces():
    drawn = domain_inputs(CHINESE, count=200, words=3)
    assert all(" " not in text for text in drawn)
    together = "".join(drawn)
    for unit in ("房间", "很干", "电池", "iPhone", "好"):
        assert unit in together
    assert max(map(len, drawn)) <= 3 * len("iPhone")


def test_the_seed_decides():
    assert domain_inputs(ENGLISH, seed=1) == domain_inputs(ENGLISH, seed=1)
    assert domain_inputs(ENGLISH, seed=1) != domain_inputs(ENGLISH, seed=2)
    assert len(domain_inputs(ENGLISH)) == 20


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_texts_without_words_are_refused(texts):
    with pytest.raises(DataError, match="hold no word"):
        domain_inputs(texts)
