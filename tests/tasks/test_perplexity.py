"""Perplexity of wanted texts, by what their language is counted in."""

import math

import pytest

from sapwood.interfaces import Answer, Example
from sapwood.tasks.perplexity import perplexities, units


def rows(*texts):
    return [Example(text="", label=text) for text in texts]


def answers(nats, tokens, texts):
    return [
        Answer(nats=n, tokens=t, bytes=len(text.encode()))
        for n, t, text in zip(nats, tokens, texts, strict=True)
    ]


def test_words_between_spaces_and_tokens_of_the_base():
    texts = ["so it was", "the end"]
    found = perplexities(rows(*texts), answers([6.0, 4.0], [5, 3], texts))
    assert list(found) == ["perplexity_a_token", "perplexity_a_word"]
    assert found["perplexity_a_token"]["value"] == pytest.approx(math.exp(10 / 8))
    assert found["perplexity_a_word"]["value"] == pytest.approx(math.exp(10 / 5))
    for score in found.values():
        assert score["low"] <= score["value"] <= score["high"]


def test_chinese_is_counted_in_characters():
    texts = ["床前明月光，", "疑是 地上霜。"]
    assert units(texts) == ("character", [6, 6])
    found = perplexities(rows(*texts), answers([6.0, 6.0], [4, 4], texts))
    assert found["perplexity_a_character"]["value"] == pytest.approx(math.e)


def test_what_was_not_scored_or_not_counted_is_left_out():
    texts = ["so it was", "the end"]
    assert perplexities(rows(*texts), [Answer(words="so"), Answer(words="it")]) == {}
    found = perplexities(rows(*texts), answers([6.0, 4.0], [0, 0], texts))
    assert list(found) == ["perplexity_a_word"]
    some = [*answers([6.0], [5], texts[:1]), Answer(words="unscored")]
    assert perplexities(rows(*texts), some)["perplexity_a_token"]["value"] == pytest.approx(
        math.exp(6 / 5)
    )
