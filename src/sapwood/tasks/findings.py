"""Findings shown to a person, and the clean file written from them."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

from sapwood.errors import ConfigError, DataError
from sapwood.files import write_text
from sapwood.interfaces import Example
from sapwood.tasks.check import Findings, Problem
from sapwood.tasks.encodings import inspect
from sapwood.tasks.readers import Table, rows_of
from sapwood.tasks.rows import FORMATS, Record, open_rows

WIDTH = 80
SIGNS = {"block": "✗ blocks", "warn": "! look at", "note": "· note"}
BAR = 24


def render(findings: Findings) -> str:
    """Return the findings as text, 80 columns wide: the worst first, then what the data is."""
    dropped = findings.rows - findings.kept
    first = f"{Path(findings.path).name}: {findings.kept:,} of {findings.rows:,} rows can be used"
    lines = [_cut(first)]
    columns = findings.columns
    named = f"text '{columns.get('text')}'"
    if columns.get("label"):
        named += f", label '{columns['label']}'"
    lines += [_cut(f"  columns    {named}"), *_labels(findings), *_facts(findings)]
    lines += [part for note in findings.notes for part in _wrapped(f"note: {note}", "  ")]
    for level, sign in SIGNS.items():
        chosen = [problem for problem in findings.problems if problem.level == level]
        if chosen:
            lines.append("")
            lines.append(sign)
            for problem in chosen:
                lines += _problem(problem)
    lines.append("")
    lines.append(_verdict(findings, dropped))
    return "\n".join(lines)


def _labels(findings: Findings) -> list[str]:
    if not findings.labels:
        return []
    items = list(findings.labels.items())
    most = items[0][1]
    width = min(24, max(_wide(label) for label, _ in items[:8]))
    lines = []
    for place, (label, count) in enumerate(items[:8]):
        head = "  labels     " if place == 0 else "             "
        bar = "█" * max(1, round(BAR * count / most))
        lines.append(f"{head}{_padded(label, width)} {bar:<{BAR}} {count:>9,}")
    if len(items) > 8:
        rest = sum(count for _, count in items[8:])
        lines.append(f"             and {len(items) - 8} more labels with {rest:,} rows")
    return lines


def _facts(findings: Findings) -> list[str]:
    lengths = findings.lengths
    median, longest, unit = lengths["median"], lengths["longest"], lengths["unit"]
    lines = [f"  length     median {median:,}, longest {longest:,} {unit}"]
    if findings.languages:
        listed = ", ".join(
            f"{code} {share:.0%}" for code, share in findings.languages.items() if share >= 0.005
        )
        lines.append(_cut(f"  languages  {listed}"))
    return lines


def _problem(problem: Problem) -> list[str]:
    where = "test: " if problem.where == "test" else ""
    count = ""
    if problem.rows:
        count = f"{rows_of(problem.count)}: "
    lines = _wrapped(f"{where}{count}{problem.what}", "  • ")
    details = []
    if problem.rows:
        more = ", ..." if len(problem.rows) > 5 else ""
        listed = ", ".join(f"{row:,}" for row in problem.rows[:5])
        details.append(f"{'row' if len(problem.rows) == 1 else 'rows'} {listed}{more}")
    if problem.value and f"'{problem.value}'" not in problem.what:
        details.append(f"e.g. {json.dumps(problem.value, ensure_ascii=False)}")
    if details:
        lines += _wrapped("  ".join(details), "    ")
    tail = "; ".join(part for part in (problem.cause, problem.fix) if part)
    return lines + (_wrapped(tail, "    ") if tail else [])


def _verdict(findings: Findings, dropped: int) -> str:
    fixable = dropped or findings.repeated or findings.relabel or findings.leaked
    name = Path(findings.path).name
    if findings.blocks and not findings.leaked:
        return "Not fit for training as it is: mend what blocks first."
    if fixable:
        return "Fix: run the same command again with --fix clean.jsonl"
    if findings.warns:
        return "Fit for training; look at the points above first."
    return f"Nothing to mend. Next: sapwood adapt {name} --budget 10m"


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


def _wide(text: str) -> int:
    """Return the columns a text takes on a terminal; Chinese characters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, width: int) -> str:
    from rich.cells import set_cell_size

    cut = text if _wide(text) <= width else set_cell_size(text, width - 1) + "…"
    return set_cell_size(cut, width)


def _cut(line: str) -> str:
    return line if _wide(line) <= WIDTH else _padded(line, WIDTH).rstrip()


def _wrapped(text: str, indent: str) -> list[str]:
    hanging = " " * len(indent)
    wide = _wide(text) - len(text)  # room lost to double-width characters
    return textwrap.wrap(
        text,
        max(40, WIDTH - wide),
        initial_indent=indent,
        subsequent_indent=hanging,
        break_long_words=True,
    )
