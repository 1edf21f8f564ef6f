"""`sapwood tasks`: every kind with its row, its metric and its other names, in two languages."""

import json
import os

import pytest
from rich.cells import cell_len

from sapwood.commands.tasks import FAMILIES
from sapwood.tasks import OTHER_NAMES, TASKS
from sapwood.tasks.structured import read_task, task_named


def test_every_kind_of_task_is_listed_once_under_its_family(sapwood):
    ran = sapwood("tasks", "--lang", "en")
    assert ran.code == 0 and ran.err == "Next: sapwood init FILE\n"
    lines = ran.out.splitlines()
    families = [line for line in lines if line in FAMILIES]
    assert families == list(FAMILIES)
    for name in TASKS:
        head = next(n for n, line in enumerate(lines) if line.startswith(f"  {name} "))
        above = [line for line in lines[:head] if line in FAMILIES]
        assert above[-1] == task_named(name).family


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_it_fits_a_terminal_of_80_columns(sapwood, lang):
    for line in sapwood("tasks", "--lang", lang).out.splitlines():
        assert cell_len(line) <= 80


def test_chinese_words_are_used_where_they_are_asked_for(sapwood, monkeypatch):
    asked = sapwood("tasks", "--lang", "zh")
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert sapwood("tasks").out == asked.out
    assert "命名实体：哪些词指什么。" in asked.out and "下一步" in asked.err
    monkeypatch.setenv("LC_ALL", "C")
    assert "Named entities" in sapwood("tasks").out


def test_json_gives_rows_that_the_task_reads(sapwood, tmp_path):
    found = [json.loads(line) for line in sapwood("tasks", "--json").out.splitlines()]
    assert sorted(row["name"] for row in found) == sorted(TASKS)
    others = {other: row["name"] for row in found for other in row["names"]}
    assert others == OTHER_NAMES
    for row in found:
        path = tmp_path / f"{row['name']}.jsonl"
        path.write_text(json.dumps(row["row"], ensure_ascii=False) + os.linesep, encoding="utf-8")
        table = read_task(path, row["name"])
        assert len(table.examples) == 1 and table.dropped == ()
        assert row["metric"] == task_named(row["name"]).metric
