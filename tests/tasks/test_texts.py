"""Scores of written texts, against the libraries of the field where there are any."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import DataError
from sapwood.interfaces import Answer, Example
from sapwood.tasks.texts import (
    compared,
    distinct,
    likelihood,
    longest_shared,
    measure,
    overlap,
    repetition,
    tokens_of,
)

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat", "dog"]), max_size=12)


@settings(deadline=None)  # the first call imports the reference
@given(WORDS, WORDS)
def test_rouge_is_that_of_rouge_score(wanted, said):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    kinds = ["rouge1", "rouge2", "rougeL"]
    theirs = scorer.RougeScorer(kinds).score(" ".join(wanted), " ".join(said))
    assert overlap(wanted, said, 1) == pytest.approx(theirs["rouge1"].fmeasure)
    assert overlap(wanted, said, 2) == pytest.approx(theirs["rouge2"].fmeasure)
    assert longest_shared(wanted, said) == pytest.approx(theirs["rougeL"].fmeasure)


def test_chinese_is_measured_in_characters():
    assert tokens_of("白日依山盡，黃河入海流。") == list("白日依山盡黃河入海流")
    assert overlap(tokens_of("白日依山盡"), tokens_of("白日依海流"), 1) == pytest.approx(0.6)


def test_bits_a_byte_are_of_all_bytes_together():
    answers = [Answer(nats=8 * math.log(2), bytes=2), Answer(nats=0.0, bytes=2)]
    assert likelihood(answers).value == pytest.approx(2.0)


def test_written_answers_have_no_likelihood():
    with pytest.raises(DataError, match="were written; how well the wanted ones were expected"):
        likelihood([Answer(words="hello")])


def test_repetition_and_distinct_look_at_the_answers_alone():
    loop = list("abcdabcdabcd")
    assert repetition([loop]) == pytest.approx(5 / 9)
    assert distinct([loop], 1) == pytest.approx(4 / 12)
    assert repetition([["a"]]) == distinct([[]], 2) == 0.0


def test_likeness_is_told_beside_what_the_wanted_texts_have():
    pytest.importorskip("sacrebleu")
    same = compared(["the cat sat on the mat"], ["the cat sat on the mat"])
    assert same["bleu"] == pytest.approx(100) and same["chrf"] == pytest.approx(100)
    assert same["rouge_l"] == 1.0 and same["length"] == {"value": 6.0, "wanted": 6.0}


def test_only_rows_with_a_written_answer_are_compared():
    gold = [Example(text="a", label="one"), Example(text="b", label="two")]
    answers = [Answer(words="one", nats=1.0, bytes=3), Answer(nats=1.0, bytes=3)]
    found = measure("story", gold, answers)
    assert found["written"]["rows"] == 1 and found["rows"] == 2
    assert found["bits_a_byte"]["value"] == pytest.approx(2 / 6 / math.log(2))
