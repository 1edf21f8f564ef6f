"""Rows of any task: read one at a time, sampled without being held, guessed and summed up."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest

from sapwood.errors import DataError
from sapwood.interfaces import Example, Frame, Span
from sapwood.tasks.structured import read_task, schema_of


def rows(count):
    for n in range(count):
        text = f"Ann {n} met Bo in Rome on day {n % 7} and went home again" + " and again" * 90
        yield {"text": text, "entities": [{"start": 0, "end": 3, "label": "PER"}]}


@pytest.fixture
def write(tmp_path):
    def writer(count, name="rows.jsonl"):
        path = tmp_path / name
        with path.open("w", encoding="utf-8") as file:
            for row in rows(count):
                file.write(json.dumps(row) + "\n")
        return path

    return writer


def peak(source):
    """Return (the table, the most bytes that were held while it was read)."""
    tracemalloc.start()
    try:
        table = read_task(source, "entities")
        return table, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_sample_takes_no_more_memory_of_a_longer_file(write):
    short, long = write(2_000, "short.jsonl"), write(8_000, "long.jsonl")
    _, few = peak(f"{short}#100")
    table, many = peak(f"{long}#100")
    assert (len(table.examples), table.rows) == (100, 8_000)
    assert table.notes == ("a sample of 100 of 8,000 usable rows, by content hash",)
    assert many < 1.2 * few
    _, first = peak(f"{long}[:100]")
    assert first < 1.2 * few
    _, everything = peak(long)
    assert everything > 3 * many  # so that the others say something


def test_a_sample_is_the_same_whatever_the_order(write, tmp_path):
    path = write(300)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    other = tmp_path / "turned.jsonl"
    other.write_text("".join(reversed(lines)), encoding="utf-8")
    one, two = (read_task(f"{source}#20", "entities").examples for source in (path, other))
    assert sorted(e.text for e in one) == sorted(e.text for e in two)
    assert [e.row for e in one] == sorted(e.row for e in one)
    whole = read_task(f"{path}#300", "entities")
    assert len(whole.examples) == 300
    assert not whole.notes
    assert len(read_task(f"{path}#999", "entities").examples) == 300


def test_a_thousand_rows_take_a_moment(write):
    path = write(1_000)
    began = time.process_time()
    assert len(read_task(path, "entities").examples) == 1_000
    assert time.process_time() - began < 1.0


def test_no_usable_row_is_refused_with_every_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "entities": 7}\n{"text": "", "entities": []}\n')
    for source in (path, f"{path}#1"):
        with pytest.raises(DataError) as error:
            read_task(source, "entities")
        assert error.value.code == "E-DATA-014"
        assert "none of 2 rows can be used" in str(error.value)
        assert "column 'entities' holds a number, not a list" in str(error.value)
        assert "column 'text' empty" in str(error.value)


def test_what_frames_hold():
    who = Span(start=0, end=1, label="who")
    frames = (
        Frame(label="b", head=Span(start=2, end=3), arguments=(who,)),
        Frame(label="a"),
    )
    schema = schema_of([Example(text="abc", frames=frames), Example(text="x")])
    assert schema.types == ("a", "b")
    assert schema.roles == {"b": ("who",)}
    assert schema.heads
    assert not schema_of([Example(text="x", frames=(Frame(label="a"),))]).heads
