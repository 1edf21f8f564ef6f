"""The clean file that is written from what was found in data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

from sapwood.errors import ConfigError, DataError
from sapwood.files import write_text
from sapwood.interfaces import Example
from sapwood.tasks.check import Findings
from sapwood.tasks.encodings import inspect
from sapwood.tasks.readers import Table, rows_of
from sapwood.tasks.rows import FORMATS, Record, open_rows


def write_fixed(findings: Findings, table: Table, out: str | Path) -> tuple[str, ...]:
    """Write the usable rows to `out`, mended, and return what was done, one sentence each.

    Unusable rows and repeated rows (same text and label) are left out, near-miss labels replaced;
    other columns of the source are kept. The suffix of `out` (.jsonl, .json, .csv, .tsv) is the
    format. The file appears whole or not at all. Raises ConfigError E-CONFIG-020 for another
    suffix, or for the source itself; ResourceError when it cannot be written.
    """
    target = Path(out).expanduser()
    kind = FORMATS.get(target.suffix.lower())
    if kind not in ("csv", "tsv", "jsonl", "json"):
        raise ConfigError(
            "E-CONFIG-020", f"Cannot write {target.name}: its suffix names no known format",
            fix="--fix clean.jsonl (or .json, .csv, .tsv)",
        )  # fmt: skip
    if target.exists() and Path(table.path).exists() and target.samefile(table.path):
        raise ConfigError(
            "E-CONFIG-020", f"{target.name} is the source itself, which is never overwritten",
            fix="--fix clean.jsonl",
        )  # fmt: skip
    repeated, leaked = set(findings.repeated), set(findings.leaked)
    kept = [example for example in table.examples if example.row not in repeated | leaked]
    changed = [example for example in kept if example.label in findings.relabel]
    records = _records(table, kept, findings)
    text = io.StringIO()
    _write(text, records, kind)
    write_text(target, text.getvalue())
    done = [f"wrote {rows_of(len(kept))} to {target}"]
    for wrong, right in findings.relabel.items():
        count = sum(example.label == wrong for example in changed)
        if count:
            done.append(f"replaced the label '{wrong}' by '{right}' in {rows_of(count)}")
    if repeated:
        done.append(f"left out {rows_of(len(repeated))} that repeat a text with its label")
    if leaked:
        done.append(f"left out {rows_of(len(leaked))} that are also in the test data, or nearly")
    for dropped in table.dropped:
        done.append(f"left out {rows_of(len(dropped.rows))}: {dropped.reason}")
    conflicts = [problem for problem in findings.problems if problem.code == "D-CONFLICT"]
    for problem in conflicts:
        done.append(f"left as they are: {rows_of(problem.count)} with {problem.what}")
    return tuple(done)


def _records(table: Table, kept: Sequence[Example], findings: Findings) -> list[Record]:
    by_row = {example.row: example for example in kept}
    text, label = table.columns.text, table.columns.label
    records: list[Record] = []
    for row, source in _source(table):
        example = by_row.get(row)
        if example is None or not isinstance(source, dict):
            continue
        mended = dict(source)
        if table.task == "classification":  # elsewhere columns are not what an example holds
            mended[text] = example.text
        if label is not None and example.label is not None and table.task == "classification":
            mended[label] = findings.relabel.get(example.label, example.label)
        records.append(mended)
    return records


def _source(table: Table) -> Iterator[tuple[int, Record | str]]:
    path = Path(table.path)
    if table.format == "hub" or not path.is_file():
        text, label = table.columns.text, table.columns.label or "label"
        return iter([(e.row, {text: e.text, label: e.label}) for e in table.examples])
    content = inspect(path)
    if content.sha256 != table.sha256:
        raise DataError("E-DATA-016", f"{path.name} has changed since it was read",
                        fix="run the check again")  # fmt: skip
    last = max((example.row for example in table.examples), default=0)
    return islice(open_rows(path, content).records, last)


def _write(file: IO[str], records: Sequence[Record], kind: str) -> None:
    if kind == "jsonl":
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    elif kind == "json":
        json.dump(records, file, ensure_ascii=False, indent=1)
    else:
        columns = list(dict.fromkeys(key for record in records for key in record))
        writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n")
        writer.writerow(columns)
        for record in records:
            writer.writerow([_cell(record.get(column)) for column in columns])


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
