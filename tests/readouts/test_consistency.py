"""Self-consistency: what is extracted, who wins, and how sure the vote is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.errors import ConfigError
from sapwood.readouts.consistency import (
    Consistency,
    Sampled,
    by_pattern,
    by_words,
    last_number,
    vote,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7.", "7"),
        ("The total is $1,250.50", "1250.5"),
        ("it is -3", "-3"),
        ("it is −3", "-3"),
        ("007", "7"),
        ("-0", "0"),
        ("0.50", "0.5"),
        ("1,2,3", "3"),
        ("答案是42。", "42"),
        ("none", None),
        ("", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_words_are_found_whole_and_the_longer_first():
    extract = by_words({"bad": " bad", "very": " very bad", "cn": "差评"})
    assert extract("It was badly made, very bad.") == "very"
    assert extract("BAD") == "bad"
    assert extract("这是差评吧") == "cn"
    assert extract("badly") is None


def test_a_pattern_gives_its_last_match():
    assert by_pattern(r"answer: (\w+)")("answer: a\nanswer: b") == "b"
    assert by_pattern(r"\d+")("1 22") == "22"
    assert by_pattern(r"x")("none") is None
    with pytest.raises(ConfigError, match="pattern '\\(' is wrong"):
        by_pattern("(")


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", "none"]), st.floats(-50, 0)), min_size=1))
def test_equals_a_naive_count(rows):
    made = [Sampled(text=text, log_probability=log) for text, log in rows]
    counts = Counter(text for text, _ in rows if text != "none")
    found = vote(made, last_number)
    assert dict(found.counts) == dict(counts)
    if not counts:
        assert found.answer is None and found.share == 0
        return
    assert counts[str(found.answer)] == max(counts.values())
    assert found.share == pytest.approx(max(counts.values()) / len(rows))


def test_a_tie_goes_to_the_more_probable():
    made = [
        Sampled(text="1", log_probability=-9.0),
        Sampled(text="2", log_probability=-2.0),
        Sampled(text="1", log_probability=-8.0),
        Sampled(text="2", log_probability=-30.0),
    ]
    found = vote(made, last_number)
    assert (found.answer, found.share, list(found.counts)) == ("2", 0.5, ["2", "1"])


def test_probabilities_are_shares_and_sum_to_one():
    readout = Consistency(labels=("bad", "good"), words={"bad": " bad", "good": " good"})
    rows = [
        [Sampled(text=t) for t in ("good", "bad, really", "good film", "?")],
        [Sampled(text="?")],
        [Sampled(text="bad", log_probability=-1), Sampled(text="good", log_probability=-2)],
    ]
    found = readout.probabilities(rows)
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found[0], [1 / 3, 2 / 3], atol=1e-5)
    np.testing.assert_allclose(found[1], [0.5, 0.5])
    assert found[2].argmax() == 0
