"""Named entities as people keep them: every layout gives the same spans, every fault its reason."""

from __future__ import annotations

import json

import pytest

from sapwood.errors import ConfigError, DataError
from sapwood.tasks.structured import guess_task, read_task

WORDS = ["Ann", "Lee", "lives", "in", "Rome"]
TEXT = "Ann Lee lives in Rome"
TAGS = ["B-PER", "I-PER", "O", "O", "B-LOC"]
FOUND = [("PER", 0, 7), ("LOC", 17, 21)]
NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.fixture
def write(tmp_path):
    def writer(name, content):
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


def found(table):
    return [
        [(f.label, f.head.start, f.head.end) for f in example.frames] for example in table.examples
    ]


def spans(key="entities", start="start", end="end", label="label", **more):
    rows = [{start: a, end: b, label: kind, **more} for kind, a, b in FOUND]
    return {"text": TEXT, key: rows}


LAYOUTS = {
    "tokens with tags in words": {"tokens": WORDS, "ner_tags": TAGS},
    "AutoTrain": {"tokens": WORDS, "tags": TAGS},
    "words and labels": {"words": WORDS, "labels": TAGS},
    "in Chinese": {"词": WORDS, "标签": TAGS},
    "IO tags": {"tokens": WORDS, "ner_tags": ["PER", "PER", "O", "O", "LOC"]},
    "BIOES": {"tokens": WORDS, "ner_tags": ["B-PER", "E-PER", "O", "O", "S-LOC"]},
    "BILOU": {"tokens": WORDS, "ner_tags": ["B-PER", "L-PER", "O", "O", "U-LOC"]},
    "BMES": {"tokens": WORDS, "ner_tags": ["B-PER", "E-PER", "O", "O", "S-LOC"]},
    "small letters and low lines": {
        "tokens": WORDS, "ner_tags": ["b_PER", "i_PER", "O", "o", "B_LOC"],
    },
    "a list packed in a string": {"tokens": json.dumps(WORDS), "ner_tags": repr(TAGS)},
    "words between spaces": {"tokens": TEXT, "ner_tags": " ".join(TAGS)},
    "spans": spans(),
    "AutoGluon": spans(label="entity_group"),
    "a text with annotations": spans("annotations", "start_offset", "end_offset", "type"),
    "Doccano": {"text": TEXT, "label": [[a, b, kind] for kind, a, b in FOUND]},
    "spaCy": {"text": TEXT, "spans": [[a, b, kind] for kind, a, b in FOUND]},
    "Label Studio": {
        "text": TEXT,
        "label": [{"start": a, "end": b, "labels": [kind]} for kind, a, b in FOUND],
    },
    "words alone": {
        "text": TEXT,
        "entities": [{"text": "Ann Lee", "type": "PER"}, {"word": "Rome", "type": "LOC"}],
    },
    "equal columns": {
        "text": TEXT,
        "entities": {"start": [0, 17], "end": [7, 21], "label": ["PER", "LOC"]},
    },
    "out of order, one twice": {
        "text": TEXT,
        "entities": [{"start": a, "end": b, "label": k} for k, a, b in [*FOUND[::-1], FOUND[0]]],
    },
    "a text with white space around": {
        "text": f" \u3000{TEXT}\r\n",
        "entities": [{"start": a + 2, "end": b + 2, "label": k} for k, a, b in FOUND],
    },
    "numbers in strings": {
        "text": TEXT,
        "entities": [{"start": str(a), "end": float(b), "label": k} for k, a, b in FOUND],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_spans(name, write):
    table = read_task(write("rows.jsonl", [LAYOUTS[name]]), "entities")
    assert found(table) == [FOUND]
    assert table.examples[0].text == TEXT
    assert table.examples[0].label == 'PER: "Ann Lee"; LOC: "Rome"'
    assert table.labels == ("LOC", "PER")
    assert not table.dropped
    assert not table.mended


@pytest.mark.parametrize("alias", ["ner", "NER", "entities"])
def test_what_people_call_the_task(alias, write):
    path = write("rows.jsonl", [LAYOUTS["spans"]])
    assert read_task(path, alias).task == "entities"
    with pytest.raises(ConfigError, match="Did you mean 'entities'"):
        read_task(path, "entites")


@pytest.mark.parametrize("name", ["tokens with tags in words", "spans", "AutoGluon"])
def test_the_task_is_told_from_the_rows(name):
    row = LAYOUTS[name]
    assert guess_task(tuple(row), [row])[0][0] == "entities"


COLUMN_FILE = "Ann\tB-PER\nLee\tI-PER\nlives\tO\nin\tO\nRome\tB-LOC\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.conll", COLUMN_FILE),
        ("a.txt", COLUMN_FILE),
        ("a.bio", COLUMN_FILE.replace("\t", " ")),
        ("a.iob2", COLUMN_FILE.replace("\t", " NN B-NP ")),
        ("bom.conll", b"\xef\xbb\xbf" + COLUMN_FILE.encode()),
        ("crlf.conll", COLUMN_FILE.replace("\n", "\r\n")),
        ("cr.conll", COLUMN_FILE.replace("\n", "\r")),
        ("utf16.conll", COLUMN_FILE.encode("utf-16")),
        ("document.conll", f"-DOCSTART- -X- -X- O\n\n# id 1\n{COLUMN_FILE}\n\n\n"),
        ("no_end.conll", COLUMN_FILE.rstrip("\n")),
        ("spaces.conll", COLUMN_FILE.replace("\n", " \t \n")),
        ("iob1.iob", COLUMN_FILE.replace("B-", "I-")),
    ],
)
def test_column_files(name, content, write):
    table = read_task(write(name, content), "entities")
    assert found(table) == [FOUND]
    assert table.examples[0].text == TEXT
    assert table.format == "conll"
    assert not table.dropped


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "tokens,ner_tags\nAnn Lee lives in Rome,B-PER I-PER O O B-LOC\n"),
        ("a.tsv", f"tokens\tner_tags\n{json.dumps(WORDS)}\t{json.dumps(TAGS)}\n"),
        ("bom.csv", b"\xef\xbb\xbftokens,ner_tags\r\nAnn Lee lives in Rome,B-PER I-PER O O B-LOC"),
        ("header.csv", "\u200b Tokens , NER-tags \nAnn Lee lives in Rome,B-PER I-PER O O B-LOC\n"),
        ("a.json", json.dumps([LAYOUTS["spans"]])),
        ("data.json", json.dumps({"data": [LAYOUTS["tokens with tags in words"]]})),
    ],
)
def test_tables_and_json(name, content, write):
    assert found(read_task(write(name, content), "entities")) == [FOUND]


def test_tag_numbers_take_their_names_from_beside_the_file(write):
    row = {"tokens": WORDS, "ner_tags": [NAMES.index(tag) for tag in TAGS]}
    path = write("train.jsonl", [row])
    with pytest.raises(DataError) as error:
        read_task(path, "entities")
    assert "holds numbers that the file does not name" in str(error.value)
    assert "labels.txt" in str(error.value)
    write("labels.txt", "\n".join(NAMES))
    assert found(read_task(path, "entities")) == [FOUND]
    write("labels.txt", "O\nB-PER\n")
    with pytest.raises(DataError, match="a tag number without a name"):
        read_task(path, "entities")


def test_tag_numbers_take_their_names_from_the_data_sets_library(write):
    path = write("train.jsonl", [{"tokens": WORDS, "ner_tags": [1, 2, 0, 0, 3]}])
    feature = {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": NAMES}}
    write("dataset_info.json", json.dumps({"features": {"ner_tags": feature}}))
    assert found(read_task(path, "entities")) == [FOUND]


def test_parquet_names_its_tags_itself(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    feature = {"feature": {"_type": "ClassLabel", "names": NAMES}, "_type": "Sequence"}
    about = json.dumps({"info": {"features": {"ner_tags": feature}}})
    made = pyarrow.table({"tokens": [WORDS], "ner_tags": [[1, 2, 0, 0, 3]]})
    path = tmp_path / "a.parquet"
    parquet.write_table(made.replace_schema_metadata({"huggingface": about}), path)
    assert found(read_task(path, "entities")) == [FOUND]


def test_faults_in_tags_are_told_where_the_scheme_has_them(write):
    bare = {"tokens": WORDS, "ner_tags": ["I-PER", "I-PER", "O", "O", "B-LOC"]}
    good = {"tokens": WORDS, "ner_tags": TAGS}
    table = read_task(write("bio.jsonl", [good, bare]), "entities")
    assert found(table) == [FOUND, FOUND]
    (mended,) = table.mended
    assert mended.reason == "an I tag where a span begins, read as its beginning"
    assert mended.rows == (2,)
    iob1 = {"tokens": WORDS, "ner_tags": ["I-PER", "I-PER", "O", "O", "I-LOC"]}
    table = read_task(write("iob1.jsonl", [iob1]), "entities")
    assert found(table) == [FOUND]
    assert not table.mended
    assert any("IOB1 or IO" in note for note in table.notes)
    closed = {"tokens": WORDS, "ner_tags": ["B-PER", "L-PER", "O", "O", "U-LOC"]}
    unclosed = {"tokens": WORDS, "ner_tags": ["B-PER", "I-PER", "O", "O", "U-LOC"]}
    table = read_task(write("bilou.jsonl", [closed, unclosed]), "entities")
    assert found(table) == [FOUND, FOUND]
    assert [(m.reason, m.rows) for m in table.mended] == [
        ("a span without its closing tag, read as closed", (2,))
    ]


def test_neighbours_of_one_type_are_two_where_the_tags_say_so(write):
    tags = ["B-PER", "B-PER", "O", "O", "O"]
    table = read_task(write("a.jsonl", [{"tokens": WORDS, "ner_tags": tags}]), "entities")
    assert found(table) == [[("PER", 0, 3), ("PER", 4, 7)]]


def test_nested_entities_are_refused_with_their_rows(write):
    def row(*marks):
        return {"text": TEXT, "entities": [{"start": a, "end": b, "type": t} for a, b, t in marks]}

    path = write(
        "a.jsonl",
        [
            row((0, 7, "PER")),
            row((0, 7, "PER"), (4, 7, "NAME")),
            row((0, 7, "PER"), (0, 7, "ORG")),
            row((0, 7, "PER"), (4, 13, "ORG")),
        ],
    )
    table = read_task(path, "entities")
    assert [e.row for e in table.examples] == [1]
    nested, twice = table.dropped
    assert nested.reason == "entities are nested or overlap, e.g. 'Ann Lee' and 'Lee'"
    assert nested.rows == (2, 4)
    assert nested.fix == "keep one of each nest: tags and spans here are flat"
    assert twice.reason == "one span with two types: 'Ann Lee': ORG, PER"
    assert twice.rows == (3,)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tokens": WORDS, "ner_tags": TAGS[:3]}, "not as many tags as tokens: 5 tokens, 3 tags"),
        ({"tokens": [], "ner_tags": []}, "column 'tokens' empty"),
        ({"tokens": ["a", None], "ner_tags": ["O", "O"]}, "holds something else than words"),
        ({"tokens": ["a"], "ner_tags": [None]}, "holds something else than tags"),
        ({"tokens": WORDS, "ner_tags": None}, "column 'ner_tags' empty"),
        ({"tokens": ["a\x00"], "ner_tags": ["O"]}, "holds NUL bytes"),
        ({"tokens": ["\ud83d"], "ner_tags": ["O"]}, "half of a surrogate pair"),
        ({"tokens": [" "], "ner_tags": ["B-X"]}, "column 'tokens' empty"),
    ],
)
def test_rows_of_tags_that_cannot_be_used(row, reason, write):
    good = {"tokens": WORDS, "ner_tags": TAGS}
    lines = "".join(json.dumps(one) + "\n" for one in (good, row))
    table = read_task(write("a.jsonl", lines), "entities")
    assert len(table.examples) == 1
    assert reason in table.dropped[0].reason
    assert table.dropped[0].rows == (2,)


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        ({"start": 0, "end": 3}, "an entity without a type"),
        ({"start": 0, "end": 99, "type": "X"}, "an entity lies outside its text: 0:99 of 21"),
        ({"start": 3, "end": 3, "type": "X"}, "lies outside its text"),
        ({"start": -1, "end": 3, "type": "X"}, "lies outside its text"),
        ({"start": "a", "end": 3, "type": "X"}, "offsets are no whole numbers"),
        ({"type": "X"}, "an entity without offsets"),
        ({"text": "Paris", "type": "X"}, "the words of an entity are not in the text: 'Paris'"),
        ({"text": "i", "type": "X"}, "have no offsets and stand in the text more than once: 'i'"),
        ({"start": 3, "end": 4, "type": "X"}, None),
        (7, "an entity without a type"),
    ],
)
def test_spans_that_cannot_be_used(entity, reason, write):
    table = read_task(write("a.jsonl", [spans(), {"text": TEXT, "entities": [entity]}]), "entities")
    if reason is None:  # a span of a space inside the text is odd, and there
        assert found(table)[1] == [("X", 3, 4)]
        return
    assert len(table.examples) == 1
    assert reason in table.dropped[0].reason


def test_offsets_that_are_nearly_right_are_mended_and_told(write):
    text = "😀 Ann met Ann Lee"
    rows = [
        {"text": text, "entities": [{"start": 10, "end": 16, "type": "P", "text": "Ann Lee"}]},
        {"text": text, "entities": [{"start": 11, "end": 18, "type": "P", "text": "Ann Lee"}]},
        {"text": text, "entities": [{"start": 0, "end": 7, "type": "P", "text": "Ann Lee"}]},
        {"text": text, "entities": [{"start": 0, "end": 3, "type": "P", "text": "Ann"}]},
    ]
    table = read_task(write("a.jsonl", rows), "entities")
    assert found(table) == [[("P", 10, 17)]] * 3
    assert [(m.reason, m.rows) for m in table.mended] == [
        ("offsets whose end is the last character or token, read so", (1,)),
        ("offsets counted in UTF-16 units, recounted in characters", (2,)),
        ("offsets that did not fit their words, moved to where the words stand", (3,)),
    ]
    assert table.dropped[0].reason == (
        "the words of an entity are not at the offsets, and stand in the text more than once: "
        "'Ann' at 0:3"
    )


def test_empty_tokens_are_left_out(write):
    row = {"tokens": ["Ann", "", "Lee"], "ner_tags": ["B-PER", "I-PER", "I-PER"]}
    table = read_task(write("a.jsonl", [row]), "entities")
    assert found(table) == [[("PER", 0, 7)]]
    assert table.mended[0].reason == "an empty token, left out"


def test_chinese_characters_are_joined_without_spaces(write):
    tags = ["B-PER", "I-PER", "O", "B-ORG", "I-ORG", "I-ORG", "O", "O", "O"]
    row = {"tokens": list("李明在IBM工作。"), "ner_tags": tags}
    table = read_task(write("a.jsonl", [row]), "entities")
    assert table.examples[0].text == "李明在IBM工作。"
    assert found(table) == [[("PER", 0, 2), ("ORG", 3, 6)]]
    words = {"tokens": ["我", "在", "New", "York", "。"], "ner_tags": ["O", "O", "B-L", "I-L", "O"]}
    table = read_task(write("b.jsonl", [words]), "entities")
    assert table.examples[0].text == "我在New York。"


def test_answers_may_be_missing_where_none_is_needed(write):
    table = read_task(write("a.jsonl", [{"text": TEXT}]), "entities", need_answer=False)
    assert table.examples[0].text == TEXT
    assert table.examples[0].label is None
    table = read_task(write("b.jsonl", [{"tokens": WORDS}]), "entities", need_answer=False)
    assert table.examples[0].text == TEXT
    nothing = {"text": TEXT, "entities": []}
    table = read_task(write("c.jsonl", [nothing, spans()]), "entities")
    assert table.examples[0].frames == ()
    assert table.examples[0].label == "none"


def test_a_column_that_is_not_there_is_named(write):
    path = write("a.jsonl", [{"tokns": WORDS, "ner_tag": TAGS}])
    with pytest.raises(DataError) as error:
        read_task(path, "entities")
    assert error.value.code == "E-DATA-004"
    assert "Did you mean 'tokns'" in str(error.value)
    assert "columns found: 'tokns', 'ner_tag'" in str(error.value)
    given = {"tokens": "tokns", "tags": "ner_tag"}
    assert found(read_task(path, "entities", columns=given)) == [FOUND]
