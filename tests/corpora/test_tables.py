"""Rows with text: JSONL, CSV, Parquet."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from sapwood.corpora.draft import Draft, Drop, Meter
from sapwood.corpora.streams import Damaged
from sapwood.corpora.tables import CSV, JSONL, PARQUET, column_of


def drafts(form, path):
    found = []
    for raw in form.records(path, Meter()):
        found += [raw] if isinstance(raw, Drop) else form.extract(raw)
    return found


def test_the_column_of_text_is_found_by_its_name():
    assert column_of(["id", "Text"]) == "Text"
    assert column_of(["url", "raw_content"]) == "raw_content"
    assert column_of(["a", "b"]) is None


ROWS = [{"text": "one", "url": "u1"}, {"text": "二"}, {"other": 1}, {"text": None}]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_jsonl_of_every_compression(tmp_path, pack):
    path = tmp_path / "rows"
    lines = [*(json.dumps(row) for row in ROWS), "not json", "[1]", ""]
    path.write_bytes(pack("\n".join(lines).encode()))
    found = drafts(JSONL, path)
    assert [(d.text, d.url) for d in found if isinstance(d, Draft)] == [("one", "u1"), ("二", "")]
    assert [d.reason for d in found if isinstance(d, Drop)] == [
        "no text in the row", "no text in the row", "no JSON", "no JSON object",
    ]  # fmt: skip
    assert [d.id for d in found] == [f"#{n}" for n in range(1, 7)]


def test_hostile_json_is_a_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("[" * 100_000 + "\n" + '{"text": "\\ud800 half"}')
    found = drafts(JSONL, path)
    assert found[0].reason == "no JSON"
    assert found[1].text == " half"


def test_csv_and_tsv(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('id,text\n1,"two\nlines, and a comma"\n2,plain\n')
    assert [d.text for d in drafts(CSV, path)] == ["two\nlines, and a comma", "plain"]
    path = tmp_path / "rows.tsv"
    path.write_text("id\ttext\n1\ta, b\n")
    assert [d.text for d in drafts(CSV, path)] == ["a, b"]


def test_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"n": [1, 2, 3], "text": ["one", None, "三"], "title": ["a", "b", "c"]})
    pa.parquet.write_table(table, path)
    found = drafts(PARQUET, path)
    assert [(d.text, d.title) for d in found if isinstance(d, Draft)] == [("one", "a"), ("三", "c")]
    path.write_bytes(path.read_bytes()[:40] + b"x" * 30)
    with pytest.raises(Damaged, match="damaged after 0 rows"):
        drafts(PARQUET, path)
