"""Rows with a column `text`: JSONL, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapwood.corpora.draft import LARGEST_RECORD, Draft, Drop, Format, Meter, Raw, missing_package
from sapwood.corpora.streams import Damaged, lines_of, opened

COLUMNS = ("text", "content", "raw_content", "document", "body")  # as the big corpora name it
KEPT = ("url", "title")
ROWS = 256  # of a Parquet file at once


def column_of(names: list[str]) -> str | None:
    """Return the column that holds the text, or None."""
    low = {name.strip().lower(): name for name in names}
    return next((low[name] for name in COLUMNS if name in low), None)


def jsonl(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield the lines of a JSONL file undecoded: parsing them is the workers' part."""
    for number, line in enumerate(lines_of(path, meter), 1):
        if line is None:
            yield Drop(id=f"#{number}", reason="larger than 16 MiB")
        elif line.strip():
            yield Raw(id=f"#{number}", data=line)


def extract_json(raw: Raw) -> Iterator[Draft | Drop]:
    """Yield the text of a JSON object."""
    try:
        row = json.loads(raw.data)
    except (ValueError, RecursionError) as error:
        yield Drop(id=raw.id, reason="no JSON", detail=str(error)[:80])
        return
    if not isinstance(row, dict):
        yield Drop(id=raw.id, reason="no JSON object")
        return
    yield _draft(raw.id, row, column_of(list(row)))


def _draft(name: str, row: dict[str, Any], column: str | None) -> Draft | Drop:
    text = row.get(column) if column else None
    if not isinstance(text, str):
        return Drop(id=name, reason="no text in the row")
    url, title = (row.get(key) for key in KEPT)
    return Draft(
        id=name, text=text.encode("utf-8", "ignore").decode(),
        url=url if isinstance(url, str) else "", title=title if isinstance(title, str) else "",
    )  # fmt: skip


def _rows(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield the rows of a CSV or TSV file as JSON."""
    with opened(path, meter) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
        first = text.readline(LARGEST_RECORD)
        sign = "\t" if first.count("\t") > first.count(",") else ","
        names = next(csv.reader([first], delimiter=sign), [])
        column = column_of(names)
        csv.field_size_limit(LARGEST_RECORD)
        rows = csv.reader(text, delimiter=sign)
        number = 0
        while True:
            number += 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Drop(id=f"#{number}", reason="no CSV row", detail=str(error))
                continue
            row = dict(zip(names, cells, strict=False))
            kept = {key: row[key] for key in (column, *KEPT) if key and key in row}
            yield Raw(id=f"#{number}", data=json.dumps(kept, ensure_ascii=False).encode())


def parquet(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield the rows of a Parquet file as JSON, a few hundred at a time."""
    del meter  # its footer comes first
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise missing_package("pyarrow", "A Parquet file") from None
    number = 0
    try:
        with ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            column = column_of(names)
            wanted = [name for name in (column, *KEPT) if name in names]
            for batch in file.iter_batches(batch_size=ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    data = json.dumps(row, ensure_ascii=False, default=str).encode(
                        "utf-8", "replace"
                    )
                    if len(data) > LARGEST_RECORD:
                        yield Drop(id=f"#{number}", reason="larger than 16 MiB")
                    else:
                        yield Raw(id=f"#{number}", data=data)
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise Damaged(f"is damaged after {number:,} rows: {str(error)[:120]}") from None


JSONL = Format(name="jsonl", about="JSON lines", rules="light", records=jsonl, extract=extract_json)
CSV = Format(name="csv", about="CSV or TSV", rules="light", records=_rows, extract=extract_json)
PARQUET = Format(
    name="parquet", about="Parquet", rules="light", records=parquet, extract=extract_json
)
