"""`sapwood adapt`: what it says while it works, and how it ends. The job itself: tests/search."""

import json
import shutil

import pytest

from sapwood.commands.running import Screen
from sapwood.search.workbench import Event


@pytest.fixture
def again(sapwood, small_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    return lambda *more: (sapwood(*small_run.arguments[:-1], out, *more), out)


def test_data_goes_to_stdout_and_talk_to_stderr(again):
    ran, out = again()
    assert ran.code == 0
    assert "tf-idf" in ran.err and "train, " in ran.err and "TF-IDF" in ran.out
    assert f"Next: sapwood predict {out} --data FILE" in ran.err
    assert (out / "report.html").read_text().startswith("<!")


def test_report_shows_what_adapt_showed(again, sapwood):
    ran, out = again()
    shown = sapwood("report", out)
    assert shown.code == 0 and ran.out.strip() in shown.out
    content = json.loads(sapwood("report", out, "--json").out)
    assert json.dumps(content)


def test_the_report_can_be_had_in_chinese(again):
    ran, out = again("--lang", "zh")
    assert ran.code == 0
    assert any("一" <= letter <= "鿿" for letter in ran.out)
    kept = json.loads((out / "report.json").read_text("utf-8"))
    assert kept["language"] == "zh" and "TF-IDF reaches" not in kept["verdict"]
    again("--lang", "en")
    kept = json.loads((out / "report.json").read_text("utf-8"))
    assert kept["language"] == "en" and "TF-IDF reaches" in kept["verdict"]


def test_the_model_card_says_what_it_is(small_run):
    card = (small_run.out / "adaptation" / "README.md").read_text()
    assert ("license" in card and "TF-IDF" in card) or "tf-idf" in card


def test_fresh_makes_everything_again(sapwood, small_base, write_rows, tmp_path):
    data, out = write_rows(tmp_path / "d.csv"), tmp_path / "out"
    arguments = (
        "tune", data, "--model", small_base, "--encoder", "none", "--epochs", "1", "--out", out,
        "--device", "cpu", "--dtype", "float32", "--json",
    )  # fmt: skip
    result = out / "run" / "candidates" / "lora" / "result.json"
    assert sapwood(*arguments).code == 0
    before = result.stat().st_mtime_ns
    assert sapwood(*arguments).code == 0
    assert result.stat().st_mtime_ns == before
    assert sapwood(*arguments, "--fresh", "--rank", "2").code == 0
    assert result.stat().st_mtime_ns > before
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == []


def test_the_command_to_reproduce_is_the_one_that_ran(sapwood, small_run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/sapwood", "adapt", "my file.csv", "--seed", "3"])
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    sapwood(*small_run.arguments[:-1], out)
    report = json.loads((out / "report.json").read_text())
    assert report["reproduce"]["command"] == "sapwood adapt 'my file.csv' --seed 3"


def test_the_screen_ends_a_generator_that_is_told_to_stop(capsys):
    closed = []

    def events():
        try:
            for number in range(100):
                yield Event(kind="progress", candidate="x", done=number, total=100)
        finally:
            closed.append(number)

    screen = Screen()
    running = events()
    next(running)
    screen._stop()
    with pytest.raises(SystemExit) as end:
        screen.follow(running)
    assert end.value.code == 130 and closed == [1]
    assert "Stopped and saved" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        screen._stop()


def test_the_screen_shows_brackets_as_they_are(capsys):
    def events():
        yield Event(kind="note", note="base [bold]x[/bold]")
        yield Event(kind="start", candidate="a[b]")
        yield Event(kind="end", candidate="a[b]", note="failed: [/odd]")
        return {}

    assert Screen().follow(events()) == {}
    err = capsys.readouterr().err
    assert "[bold]x[/bold]" in err and "failed: [/odd]" in err
