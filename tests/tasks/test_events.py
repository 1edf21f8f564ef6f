"""Events with triggers and arguments, in the layouts that data sets have."""

from __future__ import annotations

import json

import pytest

from sapwood.tasks.structured import guess_task, read_task, schema_of

TEXT = "Ann sold her boat to Bo in May."
FRAME = ("sale", (4, 8), [("seller", 0, 3), ("goods", 13, 17), ("buyer", 21, 23)])


@pytest.fixture
def write(tmp_path):
    def writer(name, rows):
        path = tmp_path / name
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
        return path

    return writer


def found(table):
    return [
        [
            (
                f.label,
                f.head and (f.head.start, f.head.end),
                [(a.label, a.start, a.end) for a in f.arguments],
            )
            for f in example.frames
        ]
        for example in table.examples
    ]


ROLES = FRAME[2]
LAYOUTS = {
    "spans": {"events": [{
        "type": "sale", "trigger": {"start": 4, "end": 8, "text": "sold"},
        "arguments": [{"role": r, "start": a, "end": b} for r, a, b in ROLES],
    }]},
    "ACE": {"event_mentions": [{
        "event_type": "sale", "trigger": {"start": 4, "end": 8, "text": "sold"},
        "arguments": [{"role": r, "start": a, "end": b, "text": TEXT[a:b]} for r, a, b in ROLES],
    }]},
    "DuEE": {"event_list": [{
        "event_type": "sale", "trigger": "sold", "trigger_start_index": 4,
        "arguments": [
            {"role": r, "argument": TEXT[a:b], "argument_start_index": a} for r, a, b in ROLES
        ],
    }]},
    "words alone": {"events": [{
        "type": "sale", "trigger": "sold",
        "arguments": [{"role": r, "text": TEXT[a:b]} for r, a, b in ROLES],
    }]},
    "lists": {"events": [{
        "type": "sale", "trigger": [4, 8], "args": [[a, b, r] for r, a, b in ROLES],
    }]},
    "packed in a string": {"events": json.dumps([{
        "label": "sale", "trigger": {"start": 4, "end": 8},
        "roles": [{"label": r, "start": a, "end": b} for r, a, b in ROLES],
    }])},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_event(name, write):
    row = {"text": TEXT, **LAYOUTS[name]}
    table = read_task(write("rows.jsonl", [row]), "events")
    assert found(table) == [[FRAME]]
    assert table.examples[0].label == 'sale "sold" (seller: "Ann"; goods: "boat"; buyer: "Bo")'
    assert not table.dropped
    assert not table.mended
    schema = schema_of(table.examples)
    assert schema.types == ("sale",)
    assert schema.roles == {"sale": ("buyer", "goods", "seller")}
    assert schema.heads


def test_the_task_is_told_from_the_rows():
    row = {"text": TEXT, **LAYOUTS["spans"]}
    assert guess_task(tuple(row), [row])[0][0] == "events"


def test_tokens_count_where_the_text_is_tokens(write):
    row = {
        "tokens": TEXT.split(),
        "events": [{"type": "sale", "trigger": [1, 2], "arguments": [[0, 1, "seller"]]}],
    }
    table = read_task(write("a.jsonl", [row]), "events")
    assert found(table) == [[("sale", (4, 8), [("seller", 0, 3)])]]


def test_events_without_triggers_hang_on_nothing(write):
    rows = [
        {"text": TEXT, "events": [{"type": "sale", "arguments": [[0, 3, "seller"]]}]},
        {"text": TEXT, "events": [{"type": "trip", "trigger": None, "arguments": []}]},
        {"text": TEXT, "events": []},
    ]
    table = read_task(write("a.jsonl", rows), "events")
    assert found(table) == [[("sale", None, [("seller", 0, 3)])], [("trip", None, [])], []]
    assert not schema_of(table.examples).heads
    assert [e.label for e in table.examples] == ['sale (seller: "Ann")', "trip", "none"]


def test_two_events_on_one_trigger_and_one_argument_in_two_roles(write):
    events = [
        {"type": "sale", "trigger": [4, 8], "arguments": [[0, 3, "seller"], [0, 3, "witness"]]},
        {"type": "gift", "trigger": [4, 8], "arguments": []},
    ]
    table = read_task(write("a.jsonl", [{"text": TEXT, "events": events}]), "events")
    assert found(table) == [
        [("gift", (4, 8), []), ("sale", (4, 8), [("seller", 0, 3), ("witness", 0, 3)])]
    ]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"trigger": [4, 8]}, "an event without a type"),
        ({"type": "x", "trigger": [4, 88]}, "a trigger lies outside its text: 4:88 of 31"),
        ({"type": "x", "trigger": "gave"}, "the words of a trigger are not in the text: 'gave'"),
        ({"type": "x", "arguments": [{"start": 0, "end": 3}]}, "an argument without a role"),
        ({"type": "x", "arguments": [7]}, "an argument that is no object: 7"),
        ({"type": "x", "arguments": 7}, "column 'arguments' holds a number, not a list"),
        (7, "an event that is no object: 7"),
    ],
)
def test_events_that_cannot_be_used(event, reason, write):
    rows = [{"text": TEXT, **LAYOUTS["spans"]}, {"text": TEXT, "events": [event]}]
    table = read_task(write("a.jsonl", rows), "events")
    assert len(table.examples) == 1
    assert reason in table.dropped[0].reason
    assert table.dropped[0].rows == (2,)


def test_white_space_and_marks_around_a_text_move_its_offsets(write):
    row = {
        "text": f"\ufeff {TEXT} \r\n",
        "events": [{"type": "sale", "trigger": [6, 10], "arguments": [[2, 5, "seller"]]}],
    }
    table = read_task(write("a.jsonl", [row]), "events")
    assert found(table) == [[("sale", (4, 8), [("seller", 0, 3)])]]
    assert table.examples[0].text == TEXT
