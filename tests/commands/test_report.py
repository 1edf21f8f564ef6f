"""`sapwood report` on runs that are whole, missing and broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from sapwood.commands.report import command
from sapwood.errors import DataError, ResourceError

RUNS = Path(__file__).parent.parent / "pages" / "runs"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copy(RUNS / "sentiment.json", tmp_path / "report.json")
    return tmp_path


def test_the_page_is_written_and_the_table_printed(run: Path) -> None:
    result = CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "Tune it: LoRA reaches 89.2 % accuracy" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[2].startswith("* LoRA ")
    assert result.stderr == f"wrote {run / 'report.html'}\n"
    assert (run / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_another_file_and_language(run: Path) -> None:
    out = run / "zh.html"
    arguments = [str(run), "--out", str(out), "--lang", "zh"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "建议微调" in result.stdout
    assert '<html lang="zh-Hans">' in out.read_text("utf-8")
    assert not (run / "report.html").exists()


def test_json_is_one_object_on_stdout(run: Path) -> None:
    result = CliRunner().invoke(command, [str(run), "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["recommended"] == "lora"
    assert found["separable"] is True
    assert found["verdict"].startswith("Tune it: ")
    assert found["html"] == str(run / "report.html")


def test_no_colour_reaches_a_file_or_a_shy_terminal(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)  # checks are often run with it
    plain = CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    assert "\x1b" not in plain.stdout
    bold = CliRunner().invoke(command, [str(run)], catch_exceptions=False, color=True)
    assert "\x1b[1m* LoRA" in bold.stdout
    monkeypatch.setenv("NO_COLOR", "1")
    shy = CliRunner().invoke(command, [str(run)], catch_exceptions=False, color=True)
    assert "\x1b" not in shy.stdout


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        CliRunner().invoke(command, [str(tmp_path / "gone")], catch_exceptions=False)
    assert caught.value.code == "E-REPORT-001"


def test_a_file_that_cannot_be_written(run: Path) -> None:
    (run / "file").write_text("in the way")
    out = run / "file" / "x.html"
    with pytest.raises(ResourceError):
        CliRunner().invoke(command, [str(run), "--out", str(out)], catch_exceptions=False)
