"""The cheap floors of tasks without labels: a dictionary of spans, and counted bytes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sapwood.interfaces import Example, Frame, Span
from sapwood.readouts.bytegrams import ORDER, Bytegrams
from sapwood.readouts.dictionary import Dictionary


def named(text: str, *spans: tuple[str, str]) -> Example:
    frames = []
    for words, label in spans:
        start = text.index(words)
        span = Span(start=start, end=start + len(words), label=label)
        frames.append(Frame(label=label, head=span))
    return Example(text=text, frames=tuple(frames))


TRAIN = [
    named("Ada met Bob in New York", ("Ada", "PER"), ("Bob", "PER"), ("New York", "LOC")),
    named("Bob left York", ("Bob", "PER"), ("York", "LOC")),
    named("the will of Will", ("Will", "PER")),
    named("王小明在北京工作", ("王小明", "PER"), ("北京", "LOC")),
]


def found(readout: Dictionary, text: str) -> list[tuple[str, str]]:
    (answer,) = readout.answers([text])
    return [(text[f.head.start : f.head.end], f.label) for f in answer.frames]


def test_the_longest_known_words_are_named_at_word_borders():
    readout = Dictionary.fit(TRAIN)
    assert found(readout, "Bobby and Bob saw New York, not York") == [
        ("Bob", "PER"),
        ("New York", "LOC"),
        ("York", "LOC"),
    ]
    assert found(readout, "😀Ada") == [("Ada", "PER")]


def test_chinese_words_need_no_border():
    readout = Dictionary.fit(TRAIN)
    assert found(readout, "他在北京见到王小明。") == [("北京", "LOC"), ("王小明", "PER")]


def test_words_that_mostly_mean_nothing_are_left_alone():
    rows = [named("May came", ("May", "PER")), *[Example(text="in May it rains")] * 5]
    assert found(Dictionary.fit(rows), "May") == []


def test_a_dictionary_comes_back_from_its_state():
    readout = Dictionary.fit(TRAIN)
    settings, arrays = readout.state()
    again = Dictionary.from_state(json.loads(json.dumps(settings)), arrays)
    assert again == readout and again.labels == ("LOC", "PER")


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"zzzz"])
def test_the_bytes_after_any_beginning_have_probabilities_that_sum_to_one(before):
    model = Bytegrams.fit([Example(text="", label=w) for w in ("abba", "abab", "水面")])
    padded = (b"\0" * ORDER + before)[-(ORDER - 1) :]
    total = sum(model._probability(padded, byte) for byte in range(256))
    assert total == pytest.approx(1.0)


def test_answers_like_those_of_training_take_fewer_bits():
    rows = [Example(text="", label="the cat sat on the mat")] * 20
    model = Bytegrams.fit(rows)
    like, unlike = model.scored(
        [Example(text="", label="the cat sat"), Example(text="", label="qzxv 水")]
    )
    assert like.bytes == 11 and unlike.bytes == len("qzxv 水".encode())
    assert like.nats / like.bytes < 0.5 * math.log(2) * 8 < unlike.nats / unlike.bytes


def test_counted_bytes_come_back_from_their_state():
    model = Bytegrams.fit([Example(text="", label="round trip")])
    settings, arrays = model.state()
    again = Bytegrams.from_state(json.loads(json.dumps(settings)), arrays)
    row = [Example(text="", label="round")]
    assert again.scored(row) == model.scored(row)
    np.testing.assert_array_equal(again.learnt, model.learnt)
