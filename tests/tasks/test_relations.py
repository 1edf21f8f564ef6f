"""Relations, of a given pair and of a whole text, in the layouts that data sets have."""

from __future__ import annotations

import json

import pytest

from sapwood.tasks.structured import guess_task, read_task

TEXT = "Ann Lee lives in Rome with Bo"
WORDS = TEXT.split()
ANN, ROME, BO = (0, 7), (17, 21), (27, 29)
FRAMES = [("lives in", ANN, ROME), ("with", ANN, BO)]
TYPED = [
    {"start": 0, "end": 7, "type": "person"},
    {"start": 17, "end": 21, "type": "city"},
    {"start": 27, "end": 29, "type": "person"},
]


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
            (f.label, (f.head.start, f.head.end), (tail.start, tail.end))
            for f in example.frames
            for tail in f.arguments
        ]
        for example in table.examples
    ]


def row(relations, entities=TYPED, **more):
    known = {} if entities is None else {"entities": entities}
    return {"text": TEXT, **known, "relations": relations, **more}


LAYOUTS = {
    "by place": row([
        {"head": 0, "tail": 1, "type": "lives in"}, {"head": 0, "tail": 2, "type": "with"},
    ]),
    "by place, other names": row([
        {"source": 0, "target": 1, "label": "lives in"},
        {"subject": 0, "object": 2, "predicate": "with"},
    ]),
    "by id": row(
        [
            {"from_id": 71, "to_id": 8, "type": "lives in"},
            {"from_id": 71, "to_id": 9, "type": "with"},
        ],
        [{**one, "id": n} for one, n in zip(TYPED, (71, 8, 9), strict=True)],
    ),
    "by words": row([
        {"head": "Ann Lee", "tail": "Rome", "type": "lives in"},
        {"head": "Ann Lee", "tail": "Bo", "type": "with"},
    ], None),
    "by spans": row([
        {"head": {"start": 0, "end": 7}, "tail": {"start": 17, "end": 21}, "relation": "lives in"},
        {"head": [0, 7], "tail": [27, 29], "relation": "with"},
    ], None),
    "triples": row([["Ann Lee", "lives in", "Rome"], ["Ann Lee", "with", "Bo"]], None),
    "triples of numbers": row([[0, "lives in", 1], [0, "with", 2]]),
    "triples with the name behind": row([[0, 1, "lives in"], [0, 2, "with"]]),
    "tokens": {
        "tokens": WORDS,
        "entities": [
            {"start": 0, "end": 2, "type": "person"}, {"start": 4, "end": 5, "type": "city"},
            {"start": 6, "end": 7, "type": "person"},
        ],
        "relations": [
            {"head": 0, "tail": 1, "type": "lives in"}, {"head": 0, "tail": 2, "type": "with"},
        ],
    },
    "packed in a string": {
        "text": TEXT,
        "entities": json.dumps(TYPED),
        "relations": json.dumps([[0, "lives in", 1], [0, "with", 2]]),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_relations(name, write):
    table = read_task(write("rows.jsonl", [LAYOUTS[name]]), "relations")
    assert found(table) == [FRAMES]
    assert table.examples[0].text == TEXT
    assert table.examples[0].label == '"Ann Lee" lives in "Rome"; "Ann Lee" with "Bo"'
    assert table.labels == ("lives in", "with")
    assert not table.dropped


def test_of_a_triple_of_words_the_one_that_is_not_in_the_text_names_it(write):
    rows = [
        row([["Ann Lee", "Rome", "born in"]], None),
        row([["Ann Lee", "born in", "Rome"]], None),
    ]
    table = read_task(write("a.jsonl", rows), "relations")
    assert found(table) == [[("born in", ANN, ROME)]] * 2


def test_ends_keep_their_types(write):
    frame = read_task(write("a.jsonl", [LAYOUTS["by place"]]), "relations").examples[0].frames[0]
    assert frame.head.label == "person"
    assert frame.arguments[0].label == "city"


def test_relations_may_share_and_hold_each_other(write):
    relations = [
        {"head": [0, 7], "tail": [4, 7], "type": "is part of"},
        {"head": [4, 7], "tail": [0, 7], "type": "has"},
    ]
    table = read_task(write("a.jsonl", [row(relations, None)]), "relations")
    assert found(table) == [[("is part of", (0, 7), (4, 7)), ("has", (4, 7), (0, 7))]]


@pytest.mark.parametrize(
    ("relation", "reason"),
    [
        (
            {"head": 0, "tail": 5, "type": "x"},
            "points to an entity that is not there: entity 5 of 3",
        ),
        ({"head": 0, "type": "x"}, "a relation without a tail"),
        ({"tail": 0, "type": "x"}, "a relation without a head"),
        ({"head": 0, "tail": 1}, "a relation without a type"),
        ({"head": 0, "tail": "Paris", "type": "x"}, "the words of"),
        ("Ann lives in Rome", "a relation that is no object"),
    ],
)
def test_relations_that_cannot_be_used(relation, reason, write):
    table = read_task(write("a.jsonl", [LAYOUTS["by place"], row([relation])]), "relations")
    assert len(table.examples) == 1
    assert reason in table.dropped[0].reason
    assert table.dropped[0].rows == (2,)


def test_a_pair_is_a_marked_text_with_a_label(write):
    head, tail = {"start": 0, "end": 7}, {"start": 17, "end": 21}
    rows = [
        {"text": TEXT, "head": head, "tail": tail, "relation": "lives in"},
        {"sentence": TEXT, "subject": [0, 7], "object": [17, 21], "label": "lives in"},
    ]
    for one in rows:
        table = read_task(write("a.jsonl", [one]), "pairs")
        (example,) = table.examples
        assert example.text == "<head>Ann Lee</head> lives in <tail>Rome</tail> with Bo"
        assert example.label == "lives in"
    words = {"text": TEXT, "h": "Ann Lee", "t": "Rome", "relation": "lives in"}
    table = read_task(write("b.jsonl", [words]), "pairs")
    assert table.examples[0].text.startswith("<head>Ann Lee</head>")
    assert guess_task(tuple(rows[0]), [rows[0]])[0][0] == "pairs"


def test_few_rel_names_an_entity_with_its_mentions(write):
    one = {
        "tokens": WORDS,
        "h": ["ann lee", "Q1", [[0, 1]]],
        "t": ["rome", "Q2", [[4]]],
        "relation": "lives in",
    }
    (example,) = read_task(write("a.jsonl", [one]), "pairs").examples
    assert example.text == "<head>Ann Lee</head> lives in <tail>Rome</tail> with Bo"


def test_pairs_without_what_they_need(write):
    good = {"text": TEXT, "head": [0, 7], "tail": [17, 21], "relation": "x"}
    rows = [good, {**good, "head": None}, {**good, "relation": ""}, {**good, "tail": [17, 99]}]
    table = read_task(write("a.jsonl", rows), "pairs")
    assert len(table.examples) == 1
    assert [(d.reason, d.rows) for d in table.dropped] == [
        ("column 'head' empty", (2,)),
        ("column 'relation' empty", (3,)),
        ("the tail lies outside its text: 17:99 of 29", (4,)),
    ]


def test_right_to_left_and_chinese_pairs_keep_their_characters(write):
    for text, head, tail in (
        ("آن تعيش في روما", (0, 2), (11, 15)),
        ("李明住在罗马👩\u200d👧", (0, 2), (4, 6)),
        ("e\u0301te\u0301 a\u0308b", (0, 5), (6, 9)),
    ):
        one = {"text": text, "head": list(head), "tail": list(tail), "relation": "x"}
        (example,) = read_task(write("a.jsonl", [one]), "pairs").examples
        marked = example.text
        assert marked.split("<head>")[1].split("</head>")[0] == text[slice(*head)]
        assert marked.split("<tail>")[1].split("</tail>")[0] == text[slice(*tail)]
        for mark in ("<head>", "</head>", "<tail>", "</tail>"):
            marked = marked.replace(mark, "")
        assert marked == text
