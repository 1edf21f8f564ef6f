"""What users of other tools suffer with their data, and cannot suffer here.

The numbers are those of the list of pains that the design started from; each names a real thread.
"""

import json

import pytest

from sapwood.commands.findings import render
from sapwood.errors import DataError
from sapwood.tasks.check import check
from sapwood.tasks.readers import find_files, read_examples, read_folder
from sapwood.tasks.splits import split


@pytest.fixture
def write(tmp_path):
    def writer(name: str, content: str):
        path = tmp_path / name
        path.write_bytes(content.encode())
        return path

    return writer


def test_pain_1_everything_dropped_is_explained_row_by_row(write):
    """LlamaFactory 5737: "Cannot find valid samples, check data/README.md"."""
    lines = [{"text": "", "label": "a"}, {"text": "x", "label": ""}, {"text": ["x"], "label": "b"}]
    with pytest.raises(DataError) as caught:
        read_examples(write("d.jsonl", "\n".join(map(json.dumps, lines))))
    for said in (
        "none of 3 rows",
        "'text' empty (row 1)",
        "'label' empty (row 2)",
        "list, not text",
    ):
        assert said in str(caught.value)
    assert "--text" in caught.value.fix


def test_pain_2_every_dropped_row_is_counted_with_its_reason(write):
    """ms-swift 4026: 1,124,869 rows became 586,472 and nobody could learn why."""
    content = "text,label\n" + "".join(
        f"{'' if i % 3 == 0 else f'row {i}'},{'' if i % 7 == 0 else i % 2}\n" for i in range(210)
    )
    table = read_examples(write("d.csv", content))
    assert len(table.examples) + sum(len(d.rows) for d in table.dropped) == table.rows == 210
    splits = split(table)
    kept = len(splits.train) + len(splits.dev) + len(splits.test)
    assert kept + sum(len(d.rows) for d in splits.dropped) == 210


def test_pain_3_missing_columns_list_what_there_is(write):
    """axolotl 1028: KeyError: 'instruction'."""
    with pytest.raises(DataError) as caught:
        read_examples(write("d.csv", "body_html,verdict\nx,y\n"))
    assert "columns found: 'body_html', 'verdict'" in str(caught.value)
    assert caught.value.fix == "--text COLUMN --label COLUMN"


@pytest.mark.parametrize(
    "header", ["text, label", "text,label\r", "\ufefftext,label", '"text ",label']
)
def test_pain_4_invisible_characters_hide_no_column(write, header):
    """AutoTrain 101, h2o-llmstudio 336: a carriage return makes a visible column missing."""
    table = read_examples(write("d.csv", f"{header}\na,x\nb,y\n"))
    assert table.columns.found == ("text", "label")
    assert table.labels == ("x", "y")


def test_pain_5_fields_of_another_task_are_named_not_crashed_on(write):
    """AutoTrain 828: KeyError: 'text' on a named-entity file."""
    line = json.dumps({"tokens": ["a", "b"], "ner_tags": [0, 1]})
    with pytest.raises(DataError, match="cannot tell which columns") as caught:
        read_examples(write("ner.jsonl", f"{line}\n{line}\n"))
    assert "columns found: 'tokens', 'ner_tags'" in str(caught.value)


def test_pain_6_context_is_not_text(write):
    """unsloth 11292: "text" was matched inside "context"."""
    table = read_examples(write("d.csv", "context,question,label\nc,q,x\nd,r,y\n"))
    assert table.columns.text == "question"
    with pytest.raises(DataError):
        read_examples(write("e.csv", "context,label\nc,x\nd,y\n"))


def test_pain_7_sidecar_files_are_no_rows(write, tmp_path):
    """unsloth 7585: dataset_info.json was read as rows and broke the types."""
    write("train.json", json.dumps([{"text": "a", "label": 1}, {"text": "b", "label": 0}]))
    for name in ("dataset_info.json", "dataset_infos.json", "state.json", "config.json"):
        write(name, json.dumps({"features": {"text": "string"}, "splits": ["train"]}))
    assert find_files(tmp_path) == {"train": tmp_path / "train.json"}
    assert read_folder(tmp_path)["train"].rows == 2


def test_pain_10_and_11_what_a_limit_cuts_is_said_before_anything_runs(write):
    """LlamaFactory 3995, unsloth 11321: silent truncation, blamed on something else."""
    content = "text,label\n" + "".join(
        f"{'long ' * 60 if i < 5 else f'short {i}'},{i % 2}\n" for i in range(20)
    )
    findings = check(read_examples(write("d.csv", content)), limit_tokens=100)
    (problem,) = [p for p in findings.problems if p.code == "D-LONG"]
    assert (problem.level, problem.rows) == ("warn", (1, 2, 3, 4, 5))
    assert "longer than the limit of 100 characters (longest: 299)" in render(findings)


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_pain_24_tiny_data_ends_in_advice_not_division_by_zero(write, rows):
    """axolotl 999, 1644: the shipped example fails as shipped on a small split."""
    content = "text,label\n" + "".join(f"row {i} {'xyz'[i % 3] * 9},{i % 2}\n" for i in range(rows))
    with pytest.raises(DataError) as caught:
        split(read_examples(write("d.csv", content)))
    assert caught.value.fix


def test_pain_24_six_rows_are_enough_for_all_three_splits(write):
    words = ["river stone", "green cloud", "late train", "cold soup", "old door", "new moon"]
    content = "text,label\n" + "".join(f"{w},{i % 2}\n" for i, w in enumerate(words))
    splits = split(read_examples(write("d.csv", content)))
    assert [len(splits.train), len(splits.dev), len(splits.test)] == [2, 2, 2]
