"""Column files: which text files are one, and what is read of each sentence."""

from __future__ import annotations

import pytest

from sapwood.errors import DataError
from sapwood.tasks.conll import fields_of, is_columns, sentences
from sapwood.tasks.structured import read_task


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("Ann B-PER\n", ["Ann", "B-PER"]),
        ("Ann\tB-PER\r\n", ["Ann", "B-PER"]),
        ("New York\tB-LOC\n", ["New York", "B-LOC"]),
        ("Ann NNP B-NP B-PER", ["Ann", "NNP", "B-NP", "B-PER"]),
        ("Ann\tB-PER\t\t \n", ["Ann", "B-PER"]),
        ("-DOCSTART-", ["-DOCSTART-"]),
    ],
)
def test_columns_of_a_line(line, fields):
    assert fields_of(line) == fields


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("Ann B-PER\nran O\n\nBo B-PER\n", True),
        ("-DOCSTART- -X- O O\n\nAnn NNP I-NP I-PER\n", True),
        ("# id 1\nAnn\tB-PER\n", True),
        ("\ufeffAnn O\nran O\n", True),
        ("Ann ran to Rome.\nBo did not.\n", False),
        ("good film\tpositive\nbad film\tnegative\n", False),
        ("", False),
    ],
)
def test_what_is_a_column_file(content, told, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(content, encoding="utf-8")
    assert is_columns(path, "utf-8") is told


def test_sentences_with_their_numbers(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text(
        "-DOCSTART- O\n\n# text = Ann ran\nAnn B-PER\nran O\n\n\n# B-PER\nlone\n\nBo B-PER",
        encoding="utf-8",
    )
    assert list(sentences(path, "utf-8")) == [
        (1, {"tokens": ["Ann", "ran"], "ner_tags": ["B-PER", "O"]}),
        (2, "a line with a token and no tag, or a tag and no token"),
        (3, {"tokens": ["Bo"], "ner_tags": ["B-PER"]}),
    ]


def test_a_hash_may_be_a_token(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("# O\n#rome B-LOC\n", encoding="utf-8")
    assert list(sentences(path, "utf-8")) == [
        (1, {"tokens": ["#", "#rome"], "ner_tags": ["O", "B-LOC"]})
    ]


def test_a_file_without_any_tag_is_refused(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("Ann\nran\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_task(path, "entities")
    assert error.value.code == "E-DATA-008"
    assert "one token and its tag a line" in str(error.value)


def test_a_broken_sentence_is_dropped_with_its_number(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("Ann B-PER\n\nran\n\nBo B-PER\n", encoding="utf-8")
    table = read_task(path, "entities")
    assert [e.text for e in table.examples] == ["Ann", "Bo"]
    assert [(d.reason, d.rows) for d in table.dropped] == [
        ("a line with a token and no tag, or a tag and no token", (2,))
    ]
