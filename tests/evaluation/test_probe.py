"""The golden probe of adaptations that write: first tokens, recorded and asked again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sapwood.adaptation import Adaptation
from sapwood.context.prompter import Context
from sapwood.context.wording import template_for
from sapwood.errors import ModelError
from sapwood.evaluation import Bases, asked_safely, asking, sealed
from sapwood.evaluation.asking import PROBE_TOKENS
from sapwood.interfaces import Example, Schema
from sapwood.launch import Runtime
from sapwood.readouts.written import Written

ROWS = [Example(text=f"once there was a {word}") for word in ("cat", "dog", "hen", "fox")]


@pytest.fixture(scope="module")
def bases():
    return Bases(Runtime(device="cpu", dtype="float32", threads=1))


@pytest.fixture
def made(small_base, bases):
    context = Context(template=template_for("story", (), ["so"]), max_text_tokens=64)
    readout = Written(task="story", schema=Schema(types=()), tokens=60)
    base = bases.reference(str(small_base))
    return Adaptation(
        labels=(), task="story", base=base, context=context, readout_name="written", readout=readout
    )


def whole(made, bases):
    with asking(made, bases) as asked:
        return tuple(answer.words for answer in asked.said(ROWS))


def test_a_probe_holds_the_first_tokens_and_leaves_the_writer_as_it_was(made, bases):
    golden = sealed(made, bases, ROWS).golden
    words = whole(made, bases)
    assert all(long.startswith(short) for long, short in zip(words, golden.answers, strict=True))
    assert golden.answers != words
    with asked_safely(replace(made, golden=golden), bases) as asked:
        assert asked.asked.decoding.tokens == 60
        assert tuple(answer.words for answer in asked.said(ROWS)) == words


def test_a_probe_takes_no_more_tokens_than_that(made, bases):
    with asked_safely(sealed(made, bases, ROWS), bases) as asked:
        assert asked.tokens <= len(ROWS) * (PROBE_TOKENS + 64)


def test_whole_answers_of_before_are_known_by_their_beginning(made, bases):
    golden = replace(sealed(made, bases, ROWS).golden, answers=whole(made, bases))
    with asked_safely(replace(made, golden=golden), bases) as asked:
        assert asked.tokens > 0


@pytest.mark.parametrize(("dtype", "cure"), [("float32", "check the"), ("bfloat16", "--dtype bf")])
def test_other_answers_are_refused(made, bases, dtype, cure):
    golden = replace(sealed(made, bases, ROWS).golden, answers=("no",) * len(ROWS))
    other = replace(made, golden=golden, base=replace(made.base, dtype=dtype))
    with pytest.raises(ModelError, match="E-MODEL-051") as caught, asked_safely(other, bases):
        pass
    assert cure in str(caught.value)
