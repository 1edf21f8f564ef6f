"""Counts of what was found: equal to seqeval's, and every error counted once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.interfaces import Answer, Example, Frame, Span
from sapwood.tasks import matching
from sapwood.tasks.bio import join_tokens, spans_of

KINDS = ("PER", "LOC", "ORG")
TAGS = st.lists(
    st.sampled_from(["O", "O", *(f"{sign}-{kind}" for sign in "BI" for kind in KINDS)]),
    min_size=1,
    max_size=9,
)


def frames_of(tags, tokens):
    _, offsets = join_tokens(tokens)
    return tuple(
        Frame(label=kind, head=Span(start=offsets[a][0], end=offsets[b - 1][1], label=kind))
        for a, b, kind in spans_of(tags)
    )


@st.composite
def sides(draw):
    """Return (wanted tags, answered tags) of some sentences, of equal lengths."""
    wanted = draw(st.lists(TAGS, min_size=1, max_size=6))
    changed = []
    for row in wanted:
        other = draw(st.lists(TAGS.map(lambda t: t[0]), min_size=len(row), max_size=len(row)))
        keep = draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))
        changed.append([a if k else b for a, b, k in zip(row, other, keep, strict=True)])
    return wanted, changed


@given(rows=sides())
@settings(max_examples=200, deadline=None)
def test_scores_are_those_of_seqeval(rows):
    metrics = pytest.importorskip("seqeval.metrics")
    wanted, said = rows
    words = [["w"] * len(row) for row in wanted]
    gold = [
        Example(text=join_tokens(tokens)[0], frames=frames_of(tags, tokens))
        for tokens, tags in zip(words, wanted, strict=True)
    ]
    answers = [
        Answer(frames=frames_of(tags, tokens)) for tokens, tags in zip(words, said, strict=True)
    ]
    found = matching.summary(matching.count(gold, answers, matching.entity))
    for name, score in (
        ("precision", metrics.precision_score(wanted, said, zero_division=0)),
        ("recall", metrics.recall_score(wanted, said, zero_division=0)),
        ("f1", metrics.f1_score(wanted, said, zero_division=0)),
    ):
        assert found[name] == pytest.approx(score)
    types, counts = matching.count_by_type(gold, answers, matching.entity)
    if not types:
        assert not found["f1"]
        return
    report = metrics.classification_report(wanted, said, output_dict=True, zero_division=0)
    for row in matching.by_type(types, counts):
        theirs = report.get(row["label"])
        if theirs is None:  # nothing wanted, nothing answered
            assert not counts.any()
            continue
        assert row["precision"] == pytest.approx(theirs["precision"])
        assert row["recall"] == pytest.approx(theirs["recall"])
        assert row["f1"] == pytest.approx(theirs["f1-score"])
        assert row["support"] == theirs["support"]
    assert matching.macro(counts)["f1"] == pytest.approx(report["macro avg"]["f1-score"])


def entity(start, end, label):
    return Frame(label=label, head=Span(start=start, end=end, label=label))


def one(wanted, said):
    text = "x" * 100
    return [Example(text=text, frames=tuple(wanted))], [Answer(frames=tuple(said))]


def test_every_error_is_counted_once():
    wanted = [entity(0, 5, "A"), entity(10, 15, "A"), entity(20, 25, "A"), entity(30, 35, "A"),
              entity(40, 45, "A")]  # fmt: skip
    said = [
        entity(0, 5, "A"),  # right
        entity(10, 15, "B"),  # type
        entity(20, 27, "A"),  # boundary
        entity(31, 35, "B"),  # boundary and type
        entity(60, 65, "A"),  # spurious; 40:45 missed
    ]
    found = matching.errors(*one(wanted, said))
    assert {name: found[name] for name in matching.ERRORS} == {
        "boundary": 1, "type": 1, "boundary and type": 1, "missed": 1, "spurious": 1,
    }  # fmt: skip
    assert found["confused"] == [{"label": "A", "answered": "B", "count": 2}]


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_errors_add_up(data):
    spans = st.builds(
        lambda a, n, k: entity(a, a + n, k),
        st.integers(0, 20), st.integers(1, 6), st.sampled_from("AB"),
    )  # fmt: skip
    wanted, said = (data.draw(st.lists(spans, max_size=6)) for _ in range(2))
    gold, answers = one(wanted, said)
    right, asked, told = matching.count(gold, answers, matching.entity)[0]
    found = matching.errors(gold, answers)
    wrong = found["boundary"] + found["type"] + found["boundary and type"]
    assert right + wrong + found["missed"] == asked
    assert right + wrong + found["spurious"] == told
    partial = matching.overlapping(gold, answers)[0]
    assert right <= partial[0] <= min(asked, told)


def test_partial_scores_use_each_span_once():
    wanted = [entity(0, 4, "A"), entity(5, 9, "A")]
    assert matching.overlapping(*one(wanted, [entity(0, 9, "A")])).tolist() == [[1, 2, 1]]
    assert matching.overlapping(*one(wanted, [entity(1, 3, "A"), entity(0, 4, "A")])).tolist() == [
        [1, 2, 2]
    ]
    assert matching.overlapping(*one(wanted, [entity(0, 4, "B")])).tolist() == [[0, 2, 1]]


def relation(label, head, tail, kinds=("", "")):
    return Frame(
        label=label,
        head=Span(start=head, end=head + 2, label=kinds[0]),
        arguments=(Span(start=tail, end=tail + 2, label=kinds[1]),),
    )


def test_relations_count_with_types_and_without():
    wanted = [relation("r", 0, 5, ("p", "c")), relation("s", 0, 9, ("p", "c"))]
    said = [relation("r", 0, 5, ("p", "x")), relation("r", 0, 9, ("p", "c"))]
    gold, answers = one(wanted, said)
    assert matching.count(gold, answers, matching.relation).tolist() == [[1, 2, 2]]
    assert matching.count(gold, answers, matching.typed_relation).tolist() == [[0, 2, 2]]
    turned = one([relation("r", 0, 5)], [relation("r", 5, 0)])
    assert matching.count(*turned, matching.relation).tolist() == [[0, 1, 1]]


def event(label, trigger, *arguments):
    head = None if trigger is None else Span(start=trigger, end=trigger + 2, label=label)
    spans = tuple(Span(start=a, end=a + 2, label=role) for role, a in arguments)
    return Frame(label=label, head=head, arguments=spans)


def test_events_count_triggers_and_arguments():
    wanted = [event("sale", 0, ("who", 10), ("what", 20))]
    said = [event("sale", 0, ("what", 10), ("what", 20), ("what", 30))]
    gold, answers = one(wanted, said)
    assert matching.count(gold, answers, matching.entity).tolist() == [[1, 1, 1]]
    assert matching.count(gold, answers, matching.argument_place).tolist() == [[2, 2, 3]]
    assert matching.count(gold, answers, matching.argument).tolist() == [[1, 2, 3]]
    assert matching.count(gold, answers, matching.event_part).tolist() == [[2, 3, 4]]
    none = one([event("sale", None, ("who", 10))], [event("sale", None, ("who", 10))])
    assert matching.count(*none, matching.event_part).tolist() == [[2, 2, 2]]


def test_nothing_wanted_and_nothing_answered_is_no_division():
    gold, answers = one([], [])
    counts = matching.count(gold, answers, matching.entity)
    found = matching.summary(counts)
    assert found["precision"] == found["recall"] == found["f1"] == found["low"] == 0
    assert found["support"] == found["answered"] == 0
    assert 0 < found["high"] <= 1  # one row says little
    types, by = matching.count_by_type(gold, answers, matching.entity)
    assert types == ()
    assert by.shape == (1, 3)
    assert matching.by_type(types, by) == []
    assert np.isfinite(matching.macro(by)["f1"])
