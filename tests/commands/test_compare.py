"""`sapwood compare`: paired where the test rows agree, and a reason where they do not."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sapwood.commands.compare import command
from sapwood.errors import ConfigError, DataError

RUNS = Path(__file__).parent.parent / "pages" / "runs"
Rows = list[dict[str, Any]]


def make_run(folder: Path, rows: Rows | None, name: str = "sentiment") -> str:
    folder.mkdir()
    shutil.copy(RUNS / f"{name}.json", folder / "report.json")
    if rows is not None:
        (folder / "predictions.json").write_text(json.dumps(rows), "utf-8")
    return str(folder)


def predictions(right: int, count: int = 200) -> Rows:
    return [
        {"text": f"row {i}", "label": "a", "predicted": "a" if i < right else "b"}
        for i in range(count)
    ]


def compare(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_rows_are_paired_by_text_whatever_their_order(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", predictions(120))
    shuffled = predictions(180)
    random.Random(0).shuffle(shuffled)
    second = make_run(tmp_path / "second", shuffled)
    found = compare(first, second)["differences"][0]
    assert found["comparable"]
    assert found["count"] == 200
    assert found["difference"] == pytest.approx(0.3)
    assert 0.2 < found["low"] < 0.3 < found["high"] < 0.4
    assert "second is better than" in found["sentence"]
    assert "30.0 points in accuracy on the same 200 test rows" in found["sentence"]


def test_equal_runs_are_not_separable(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", predictions(120))
    second = make_run(tmp_path / "second", predictions(120))
    found = compare(first, second)["differences"][0]
    assert found["low"] <= 0 <= found["high"]
    assert "are not separable" in found["sentence"]


def test_a_worse_run_is_told_with_positive_numbers(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", predictions(180))
    second = make_run(tmp_path / "second", predictions(120))
    found = compare(first, second)["differences"][0]
    assert found["high"] < 0
    assert "is worse than" in found["sentence"]
    assert "−" not in found["sentence"]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (None, "predictions.json does not exist."),
        ([], "holds no rows."),
        (predictions(9, 150), "their test rows differ (150 of 150 and 200 texts are shared)."),
        (
            [{**row, "label": "c"} for row in predictions(9)],
            "200 of the shared test rows carry different labels, the first: 'row 0'",
        ),
    ],
)
def test_runs_that_cannot_be_compared_say_why(tmp_path: Path, rows: Rows | None, why: str) -> None:
    first = make_run(tmp_path / "first", predictions(120))
    second = make_run(tmp_path / "second", rows)
    found = compare(first, second)["differences"][0]
    assert not found["comparable"]
    assert found["sentence"].endswith(why)


def test_the_table_and_the_page(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", predictions(120))
    second = make_run(tmp_path / "second", predictions(180), "intents")
    third = make_run(tmp_path / "third", None, "empty")
    out = tmp_path / "runs.html"
    arguments = [first, second, third, "--html", str(out)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[2].split()[1:4] == ["LoRA", "89.2", "%"]
    assert lines[3].split()[1] == "probe"
    assert result.stderr == f"wrote {out}\n"
    html = out.read_text("utf-8")
    assert html.count('<th scope="row"') == 3
    assert "is better than" in html
    assert "http:" not in html.replace("http-equiv", "")


def test_one_run_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least two runs, got 1") as caught:
        compare(make_run(tmp_path / "only", None))
    assert caught.value.code == "E-COMPARE-001"


@pytest.mark.parametrize(
    ("content", "detail"),
    [("{", ""), ("{}", ""), ('[{"text": "a"}]', "row 1 has no label, predicted"),
     ("[3]", "row 1 is not an object")],
)  # fmt: skip
def test_broken_predictions_give_a_coded_error(tmp_path: Path, content: str, detail: str) -> None:
    first = make_run(tmp_path / "first", predictions(1))
    second = make_run(tmp_path / "second", None)
    (tmp_path / "second" / "predictions.json").write_text(content)
    with pytest.raises(DataError) as caught:
        compare(first, second)
    assert caught.value.code == "E-COMPARE-002"
    assert not detail or detail in caught.value.details
