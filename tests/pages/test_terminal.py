"""The terminal table: 80 columns, wide characters, plain streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sapwood.pages.terminal import columns_of, terminal_table, wrapped

RUNS = Path(__file__).parent / "runs"
NAMES = ("sentiment", "chinese", "intents", "troubled", "empty", "entities", "events", "poetry")


def run(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((RUNS / f"{name}.json").read_text("utf-8"))
    return report


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "gbk", "cp1252"])
def test_no_line_is_wider_than_the_terminal(name: str, width: int, encoding: str) -> None:
    table = terminal_table(run(name), width, encoding=encoding)
    assert [line for line in table.split("\n") if columns_of(line) > width] == []
    assert table.encode(encoding).decode(encoding) == table
    assert "\x1b" not in table


def test_the_recommended_is_marked_and_best_comes_first() -> None:
    lines = terminal_table(run("sentiment")).split("\n")
    assert lines[0].split() == [
        "Candidate",
        "Dev",
        "Test",
        "95",
        "%",
        "interval",
        "Macro",
        "F1",
        "Fit",
        "A",
        "query",
    ]
    assert lines[2].split() == (
        [
            "*",
            "LoRA",
            "90.0",
            "%",
            "89.2",
            "%",
            "86.2",
            "to",
            "92.3",
            "88.8",
            "%",
            "210",
            "s",
            "35",
            "ms",
        ]
    )
    assert [line[:2] for line in lines[3:11]] == ["  "] * 8
    assert lines[10].split()[0] == "majority"
    assert " ".join(lines[12:]).startswith("Tune it: LoRA reaches 89.2 % accuracy")


def test_columns_end_together_with_chinese_names() -> None:
    lines = terminal_table(run("chinese")).split("\n")
    rows = [line for line in lines[2:] if line.endswith(("MB", "kB", " B"))]
    assert len(rows) == 5
    assert len({columns_of(line) for line in rows}) == 1
    assert "LoRA-中文指令" in rows[1]
    assert lines[4] == "    已中止：预算用尽：第 412 步，共 600 步"


def test_ascii_streams_get_english_and_stay_aligned() -> None:
    table = terminal_table(run("chinese"), encoding="ascii")
    assert table.isascii()
    assert "Tune it: LoRA reaches 89.7 % accuracy" in table
    rows = [line for line in table.split("\n")[2:] if line.endswith(" ms")]
    assert len(rows) == 5 and len({len(line) for line in rows}) == 1
    troubled = terminal_table(run("troubled"), encoding="ascii")
    assert "(-7.1 to 15.7)" in troubled


def test_a_narrow_terminal_keeps_the_name_and_the_score() -> None:
    head = terminal_table(run("troubled"), 40).split("\n")[0]
    assert " ".join(head.split()) == "Candidate Test 95 % interval"


def test_failed_candidates_say_why() -> None:
    table = terminal_table(run("troubled"))
    assert "    failed: E-RES-003 Needs 9.8 GB" in table
    assert "    stopped: not started: no budget left" in table


def test_wrapping_breaks_at_spaces_and_between_wide_characters() -> None:
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert wrapped("比基线高，而且更快。", 10) == ["比基线高，", "而且更快。"]
    assert wrapped("", 10) == []
