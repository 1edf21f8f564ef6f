"""The headline of each task and what the report shows beside it."""

from __future__ import annotations

import pytest

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Answer, Example, Frame, Span
from sapwood.pages.panel import panel as page
from sapwood.pages.words import Words
from sapwood.tasks.scoring import details, negatives, tally


def span(start, end, label=""):
    return Span(start=start, end=end, label=label)


def entity(start, end, label):
    return Frame(label=label, head=span(start, end, label))


TEXT = "Ann sold her boat to Bo"
GOLD = [
    Example(text=TEXT, frames=(entity(0, 3, "PER"), entity(21, 23, "PER")), row=1),
    Example(text=TEXT, frames=(entity(13, 17, "THING"),), row=2),
]
SAID = [
    Answer(frames=(entity(0, 3, "PER"), entity(21, 23, "THING"))),
    Answer(frames=(entity(9, 17, "THING"),)),
]


def test_entities_strict_partial_and_by_type():
    assert tally("entities", GOLD, SAID).value == pytest.approx(1 / 3)
    found = details("entities", GOLD, SAID)
    assert found["strict"]["f1"] == pytest.approx(1 / 3)
    assert found["partial"]["f1"] == pytest.approx(2 / 3)
    assert found["untyped"]["f1"] == pytest.approx(2 / 3)
    assert found["macro"]["f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert [(row["label"], row["support"]) for row in found["by_type"]] == [
        ("PER", 2),
        ("THING", 1),
    ]
    assert [row["partial"] for row in found["by_type"]] == [
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    ]
    assert found["errors"]["type"] == 1
    assert found["errors"]["boundary"] == 1


def test_relations_with_and_without_types():
    wanted = Frame(label="r", head=span(0, 3, "PER"), arguments=(span(21, 23, "PER"),))
    said = Frame(label="r", head=span(0, 3, "PER"), arguments=(span(21, 23, "ORG"),))
    gold, answers = [Example(text=TEXT, frames=(wanted,))], [Answer(frames=(said,))]
    assert tally("relations", gold, answers).value == 1.0
    found = details("relations", gold, answers)
    assert found["ends"]["f1"] == 1.0
    assert found["ends_with_types"]["f1"] == 0.0


def test_events_by_trigger_and_argument():
    wanted = Frame(label="sale", head=span(4, 8, "sale"), arguments=(span(0, 3, "who"),))
    said = Frame(label="sale", head=span(4, 8, "sale"), arguments=(span(0, 3, "what"),))
    gold, answers = [Example(text=TEXT, frames=(wanted,))], [Answer(frames=(said,))]
    assert tally("events", gold, answers).value == pytest.approx(0.5)
    found = details("events", gold, answers)
    assert found["trigger_classification"]["f1"] == found["trigger_partial"]["f1"] == 1.0
    assert found["argument_identification"]["f1"] == 1.0
    assert found["argument_classification"]["f1"] == 0.0
    assert [row["label"] for row in found["by_role"]] == ["what", "who"]
    assert [row["label"] for row in found["by_type"]] == ["sale"]


def test_events_without_triggers_have_no_trigger_scores():
    frame = Frame(label="sale", arguments=(span(0, 3, "who"),))
    gold, answers = [Example(text=TEXT, frames=(frame,))], [Answer(frames=(frame,))]
    found = details("events", gold, answers)
    assert found["trigger_classification"] is found["trigger_partial"] is None
    assert found["types_of_the_text"]["f1"] == 1.0
    assert tally("events", gold, answers).value == 1.0


def test_pairs_leave_the_negative_class_out():
    labels = ["Cause(e1,e2)", "Cause(e2,e1)", "Other", "Other"]
    said = ["Cause(e1,e2)", "Cause(e1,e2)", "Other", "Cause(e1,e2)"]
    gold = [Example(text="x", label=label) for label in labels]
    answers = [Answer(words=label) for label in said]
    found = details("pairs", gold, answers)
    assert found["left_out"] == ["Other"]
    assert found["direction"] == "counted"
    # SemEval's scorer: one relation whatever its direction, right only where the direction is too.
    assert tally("pairs", gold, answers).value == pytest.approx(2 * 1 / (2 + 3))
    assert negatives(["NA", "x"]) == ("NA",)


def test_answers_that_were_cut_are_counted():
    assert "unfinished" not in details("entities", GOLD, SAID)
    cut = [SAID[0], Answer(frames=SAID[1].frames, stopped=False)]
    assert details("entities", GOLD, cut)["unfinished"] == 1
    panel = {"unfinished": 3, **details("entities", GOLD, SAID)}
    for lang, note in (
        ("en", "3 answers were cut off by the limit of tokens; what they say up to there counts."),
        ("zh", "有 3 个回答因长度上限被截断，截断前的内容照常计分。"),
    ):
        words = Words(lang=lang)
        assert page({"task": "entities", "panel": panel}, words)["notes"] == [note]


def test_wrong_calls_are_refused():
    with pytest.raises(ConfigError):
        tally("entity", GOLD, SAID)
    with pytest.raises(DataError):
        tally("entities", GOLD, SAID[:1])
