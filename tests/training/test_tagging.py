"""Tagging rows and their loss: exact spans, nothing lost silently, and a head that learns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sapwood.errors import DataError
from sapwood.interfaces import Example, Frame, Schema, Span
from sapwood.models.encoder import Encoder
from sapwood.models.windows import Framing
from sapwood.readouts.tags import Tags
from sapwood.testing import tiny_net
from sapwood.training import Recipe, fit, head_weights, make_optimiser
from sapwood.training.tagging import (
    TaggingRows,
    TaggingSupervision,
    TrainedTags,
    choose_scheme,
    tagging_rows,
)

NAMES = [
    "Ann",
    "李先生",
    "שלום",
    "👩\u200d👩\u200d👧",
    "e\u0301te\u0301",
    "co-op",
    "IBM",
    "❤\ufe0f",
    "北京",
]


def entity(text: str, words: str, label: str) -> Frame:
    start = text.index(words)
    return Frame(label=label, head=Span(start=start, end=start + len(words), label=label))


def schema_of(examples, heads=True):
    roles = {}
    for example in examples:
        for frame in example.frames:
            roles.setdefault(frame.label, set()).update(span.label for span in frame.arguments)
    return Schema(
        types=tuple(sorted(roles)),
        roles={label: tuple(sorted(own)) for label, own in roles.items() if own},
        heads=heads,
    )


def prepared(tokenizer, examples, *, max_length=64, relations=False, heads=True):
    scheme = choose_scheme(
        tokenizer, examples, schema_of(examples, heads), max_length=max_length, relations=relations
    )
    return scheme, tagging_rows(tokenizer, examples, scheme, max_length=max_length)


def spans_in(row, scheme):
    """Return (first place, length in units, kind) of the runs of a row's gold."""
    names = [scheme.tags[row.allowed[n]] for n in row.gold]
    runs = []
    for n, name in enumerate(names):
        if name[:2] == "B-":
            runs.append([n, 1, name[2:]])
        elif name[:2] == "I-":
            assert runs[-1][0] + runs[-1][1] == n
            assert runs[-1][2] == name[2:]
            runs[-1][1] += 1
    return [tuple(run) for run in runs]


@st.composite
def sentences(draw):
    """Return an example with entities of odd scripts, cut off from each other by spaces."""
    text, frames = "", []
    for _ in range(draw(st.integers(0, 25))):
        words = " ".join(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)))
        if draw(st.booleans()):
            span = Span(start=len(text), end=len(text) + len(words), label="X")
            frames.append(Frame(label="X", head=span))
        text += words + " "
    return Example(text=text, row=1, frames=tuple(frames))


@given(example=sentences(), max_length=st.integers(24, 64))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", ["wordpieces", "bytes"])
def test_gold_spans_come_back_from_the_rows(
    kind, example, max_length, tiny_wordpieces, tiny_tokenizer
):
    tokenizer = tiny_wordpieces if kind == "wordpieces" else tiny_tokenizer
    # One example more, so that there is always something to learn.
    sure = Example(text="Ann", row=2, frames=(entity("Ann", "Ann", "X"),))
    scheme, made = prepared(tokenizer, [sure, example], max_length=max_length)
    assert made.lost == ()
    (pieced,) = Framing(tokenizer, max_length, pieces=scheme.pieces).pieced([example.text])
    found, before = [], 0
    for row in made.rows[1:]:
        assert len(row.ids) <= max_length
        for first, length, _ in spans_in(row, scheme):
            start, end = pieced.characters(before + first, before + first + length)
            found.append((start, end))
        before += len(row.gold)
    assert before == len(pieced.units)
    shared = (max_length - 2) // 4
    for frame in example.frames:
        start, end = frame.head.start, frame.head.end
        inside = [(a, b) for a, b in found if start <= a < end]
        first, last = pieced.exact(start, end)
        if pieced.lasts[last - 1] - pieced.firsts[first] < shared:
            assert inside == [(start, end)]
        assert inside[0][0] == start  # longer than what windows share: in parts that join
        assert inside[-1][1] == end
        assert all(a[1] <= b[0] for a, b in pairwise(inside))


def test_what_cannot_be_written_in_tags_is_told(tiny_wordpieces):
    text = "Ann lies in north east"
    clean = Example(text=text, row=1, frames=(entity(text, "Ann", "PER"),))
    inside = Example(text=text, row=2, frames=(entity(text, "nor", "PER"),))
    across = Example(
        text=text, row=3, frames=(entity(text, "north", "PER"), entity(text, "north east", "PER"))
    )
    bare = Example(text=text, row=4, frames=(Frame(label="PER"),))
    space = Example(
        text=text, row=5, frames=(Frame(label="PER", head=Span(start=3, end=4, label="PER")),)
    )
    rows = [clean] * 300 + [inside, across, bare, space]
    scheme, made = prepared(tiny_wordpieces, rows)
    assert not scheme.pieces
    assert {dropped.reason: dropped.rows for dropped in made.lost} == {
        "begins or ends inside a token, learnt as the whole token": (2,),
        "overlaps another span, which is kept": (3,),
        "an answer without words of its own, in a task that asks for them": (4,),
        "holds no token": (5,),
    }
    assert [spans_in(row, scheme) for row in made.rows[-3:-2]] == [[(3, 2, "PER")]]


def test_spans_inside_words_make_every_token_a_unit(tiny_wordpieces):
    text = "rangers north"
    inside = Example(text=text, row=1, frames=(entity(text, "range", "PER"),))
    scheme, made = prepared(tiny_wordpieces, [inside])
    assert scheme.pieces
    assert len(made.rows[0].gold) > 2


def test_nothing_to_learn_is_refused(tiny_wordpieces):
    with pytest.raises(DataError) as error:
        prepared(tiny_wordpieces, [Example(text="Ann", row=1)])
    assert error.value.code == "E-DATA-120"


def test_events_give_rows_of_both_stages(tiny_wordpieces):
    text = "Ann sold it to Lee"
    sale = Frame(
        label="sale",
        head=Span(start=4, end=8, label="sale"),
        arguments=(Span(start=0, end=3, label="seller"), Span(start=15, end=18, label="buyer")),
    )
    scheme, made = prepared(tiny_wordpieces, [Example(text=text, row=1, frames=(sale,))])
    first, second = made.rows
    assert spans_in(first, scheme) == [(1, 1, "sale")]
    assert spans_in(second, scheme) == [(0, 1, ">seller"), (4, 1, ">buyer")]
    said = tiny_wordpieces.decode(second.ids).replace(" ##", "")
    assert said == "[CLS] sale : sold [SEP] ann @ sold @ it to lee [SEP]"


def test_tails_are_asked_for_as_heads_without_an_answer(tiny_wordpieces):
    text = "Ann met Lee"
    met = Frame(label="met", head=Span(start=0, end=3), arguments=(Span(start=8, end=11),))
    scheme, made = prepared(
        tiny_wordpieces, [Example(text=text, row=1, frames=(met,))], relations=True
    )
    assert [spans_in(row, scheme) for row in made.rows] == [
        [(0, 1, "words")], [(2, 1, ">met")], [],
    ]  # fmt: skip


def test_types_that_a_text_does_not_hold_are_asked_for_too(tiny_wordpieces):
    text = "Ann sold it"
    rows = [
        Example(text=text, row=n + 1,
                frames=(Frame(label=label, arguments=(Span(start=0, end=3, label="who"),)),))
        for n, label in enumerate("abcde")
    ]  # fmt: skip
    scheme, made = prepared(tiny_wordpieces, rows, heads=False)
    assert len(made.rows) == 5 * 3
    assert sum(bool(spans_in(row, scheme)) for row in made.rows) == 5
    again = tagging_rows(tiny_wordpieces, rows, scheme, max_length=64)
    assert again == made
    assert isinstance(again, TaggingRows)


def learnable(count=24):
    """Return sentences in which a capital letter tells a name, which has one or two words."""
    rng = np.random.default_rng(0)
    examples = []
    for row in range(count):
        words, frames = [], []
        for _ in range(4):
            if rng.random() < 0.5:
                name = "lee 3" if rng.random() < 0.5 else "ann"
                start = len(" ".join([*words, ""]))
                span = Span(start=start, end=start + len(name), label="PER")
                frames.append(Frame(label="PER", head=span))
                words.append(name)
            words.append(str(rng.choice(["is", "on", "the"])))
        examples.append(Example(text=" ".join(words), row=row + 1, frames=tuple(frames)))
    return examples


def lively(net):
    """Return a net whose states differ from token to token."""
    for name, tensor in net.named_parameters():
        if "LayerNorm" in name:
            tensor.data.fill_(float(name.endswith("weight")))
    return net


@pytest.mark.parametrize("transitions", ["valid", "learnt"])
def test_the_loss_is_that_of_rows_one_by_one(transitions, tiny_wordpieces):
    scheme, made = prepared(tiny_wordpieces, learnable(6))
    head = TrainedTags(Tags.start(scheme, 32, transitions=transitions, seed=1))
    with torch.no_grad():
        head.weight += torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1))
    encoder = Encoder(tiny_net("bert"))
    supervision = TaggingSupervision(encoder, made.rows, head)
    numbers = list(range(6))
    total = sum(float(loss.detach()) for loss, _ in supervision.losses(numbers, 2048))
    alone = [float(loss.detach()) for n in numbers for loss, _ in supervision.losses([n], 2048)]
    small = sum(float(loss.detach()) for loss, _ in supervision.losses(numbers, 20))
    assert total == pytest.approx(sum(alone), rel=1e-5)
    assert total == pytest.approx(small, rel=1e-5)
    assert supervision.supervised(numbers) == sum(len(row.gold) for row in made.rows)
    if transitions == "valid":
        row = made.rows[0]
        states = encoder.states([row.ids])[0][list(row.places)]
        logits = functional.linear(states, head.weight, head.bias)
        wanted = functional.cross_entropy(logits, torch.tensor(row.gold), reduction="sum")
        assert alone[0] == pytest.approx(float(wanted.detach()), rel=1e-5)


@pytest.mark.parametrize("transitions", ["valid", "learnt"])
def test_a_head_learns_its_tags_and_transitions(transitions, tiny_wordpieces):
    scheme, made = prepared(tiny_wordpieces, learnable())
    encoder = Encoder(lively(tiny_net("bert")))
    head = TrainedTags(Tags.start(scheme, 32, transitions=transitions))
    weights = head_weights(encoder.net, head)
    assert ("head.between" in weights) is (transitions == "learnt")
    recipe = Recipe(learning_rate=0.05, batch_size=8, epochs=20)
    supervision = TaggingSupervision(encoder, made.rows, head)
    optimiser = make_optimiser(list(weights.values()), recipe)
    losses = [step.loss for step in fit(supervision, optimiser, recipe, total=60)]
    assert losses[-1] < 0.3 * losses[0]
    readout = head.readout()
    assert (readout.between is not None) is (transitions == "learnt")
    if readout.between is not None:
        assert np.isfinite(readout.between).all()
        assert np.abs(readout.between).max() > 0.01
