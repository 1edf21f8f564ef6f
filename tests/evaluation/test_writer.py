"""A base that writes: by settings of its own or the user's, and no further than its own turn."""

from __future__ import annotations

import copy

import pytest

from sapwood.context.prompter import Context
from sapwood.context.wording import template_for
from sapwood.evaluation import Bases
from sapwood.evaluation.writer import Writer
from sapwood.interfaces import Example, Schema, Turn
from sapwood.launch import Runtime
from sapwood.models.choosing import Completion, Sampling
from sapwood.readouts.written import Written

TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


@pytest.fixture
def writer(small_base):
    def make(task="dialogue", **settings):
        bases = Bases(Runtime(device="cpu", dtype="float32", threads=1))
        context = Context(template=template_for(task, (), ["so"]), max_text_tokens=64)
        readout = Written(task=task, schema=Schema(types=()), **{"tokens": 12, **settings})
        return Writer(bases, str(small_base), context, readout)

    return make


def talks(count=3):
    return [
        Example(text=f"hello {n}", row=n, turns=(Turn(role="user", content=f"hello {n}"),))
        for n in range(1, count + 1)
    ]


def test_answers_follow_the_readout_until_they_are_told_otherwise(writer):
    made = writer(temperature=0.8)
    first = made.answers(talks())
    assert [a.words for a in made.answers(talks())] == [a.words for a in first]
    made.decoding = Sampling(tokens=12)
    greedy = made.answers(talks())
    assert [a.words for a in greedy] == [a.words for a in writer().answers(talks())]
    assert [a.words for a in greedy] != [a.words for a in first]
    made.decoding = Sampling(tokens=12, beams=4, samples=3)
    several = made.drawn(talks())
    assert [len(own) for own in several] == [3, 3, 3]
    assert [own[0].words for own in several] == [a.words for a in made.answers(talks())]


def test_draws_go_by_the_row_s_own_number_wherever_it_stands(writer):
    made, rows = writer(temperature=1.0), talks(4)
    every = made.answers(rows)
    assert [a.words for a in made.answers(rows[::-1])] == [a.words for a in every[::-1]]
    assert made.answers(rows[2:3])[0].words == every[2].words


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (" I am fine.\nUser: and you?", "I am fine."),
        (" 好的，先生。\n用户：谢谢。", "好的，先生。"),
        (" so\nAssistant: more", "so"),
        (" User: is a word here", "User: is a word here"),
    ],
)
def test_a_plain_dialogue_ends_before_the_other_speaker(writer, monkeypatch, said, kept):
    """Without a chat template a base goes on with the other speaker's words."""
    seen = []

    def stub(decoder, prompts, prefix, **given):
        seen.append(given["sampling"])
        ids = given["tokenizer"](said)["input_ids"]
        return [[Completion(ids=tuple(ids), log_probability=0.0, stopped=True, score=0.0)]]

    monkeypatch.setattr("sapwood.evaluation.writer.generate", stub)
    made = writer()
    assert made.answers(talks(1))[0].words == kept
    assert "\nUser:" in seen[0].stops and "\n用户：" in seen[0].stops
    made.decoding = Sampling(tokens=12, stops=("fine", "先"))
    assert made.answers(talks(1))[0].words == kept.split("fine")[0].split("先")[0].strip()
    made.tokenizer = copy.deepcopy(made.tokenizer)
    made.tokenizer.chat_template = TEMPLATE
    made.decoding = Sampling(tokens=12)
    assert made.answers(talks(1))[0].words == said.strip()  # the template's own end ends it
    assert seen[-1].stops == ()


def test_what_is_scored_counts_the_tokens_of_the_base(writer):
    made = writer("story")
    rows = [Example(text="so", label="it was"), Example(text="and", label="a longer end of it")]
    for row, answer in zip(rows, made.scored(rows), strict=True):
        ids = made.tokenizer(f" {row.label}")["input_ids"]
        assert answer.tokens == len(ids) + 1 and answer.bytes == len(row.label)
