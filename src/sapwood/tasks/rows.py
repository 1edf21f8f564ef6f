"""Files as records: CSV, TSV, JSONL, JSON, Parquet and Hugging Face data sets, one row at a time.

A row that cannot be read is passed on as the reason why, so that nothing vanishes silently.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sapwood.errors import DataError, ResourceError
from sapwood.tasks.columns import clean_header
from sapwood.tasks.conll import is_columns, sentences
from sapwood.tasks.encodings import Content

Record = dict[str, object]
Numbered = Iterator[tuple[int, Record | str]]

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".iob2": "conll",
}
PEEK = 100  # JSON objects whose keys are pooled, since any one of them may lack a key
FIELD_LIMIT = 1 << 24  # characters; csv's own 131,072 refuses long documents


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A source as (row, record or the reason it cannot be read) pairs, 1-based, read once.

    `columns` keeps the file's order, doubles included; `names` maps a column of class numbers to
    their names where the file carries them.
    """

    columns: tuple[str, ...]
    records: Numbered
    format: str
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_rows(path: Path, content: Content) -> Rows:
    """Open a file by its suffix, or by its first character where JSON and JSONL are mixed up.

    Raises DataError: E-DATA-002 kind not known, E-DATA-007 empty, E-DATA-008 a quote never
    closed, E-DATA-009 broken JSON, ResourceError E-RESOURCE-025 an extra is not installed.
    """
    kind = FORMATS.get(path.suffix.lower())
    if content.encoding is None:
        return _parquet(path)
    if kind is None and path.suffix.lower() == ".txt" and is_columns(path, content.encoding):
        kind = "conll"
    if kind is None or kind == "parquet":
        raise DataError(
            "E-DATA-002",
            f"{path.name}: cannot read {'this as Parquet' if kind else 'this kind of file'}",
            fix="give a .csv, .tsv, .jsonl, .json, .parquet or .conll file",
        )
    if content.size == 0:
        raise DataError("E-DATA-007", f"{path.name} is empty", fix="give a file with rows")
    if kind == "conll":
        columns, records = _peeked(sentences(path, content.encoding))
        if not columns:
            raise DataError(
                "E-DATA-008",
                f"{path.name} holds no token with its tag",
                fix="write one token and its tag a line, a blank line after each sentence",
            )
        return Rows(columns=columns, records=records, format="conll")
    if kind in ("csv", "tsv"):
        return _delimited(path, content.encoding, kind)
    with path.open(encoding=content.encoding) as file:
        first = next((char for line in file for char in line.strip("\ufeff \t\r\n")), "")
        second_line = kind == "json" and first == "{" and _each_line_is_json(path, content.encoding)
    if first == "[" or (kind == "json" and not second_line):
        return _json(path, content.encoding)
    return _json_lines(path, content.encoding)


def _delimited(path: Path, encoding: str, kind: str) -> Rows:
    with path.open(encoding=encoding, newline="") as file:
        top = next((line for line in file if line.strip("\ufeff\r\n\t ,;")), "")
    notes: list[str] = []
    delimiter = "\t" if kind == "tsv" else ","
    told = re.fullmatch(r"\ufeff?\"?sep=([,;\t|])\"?\s*", top)
    if told:  # the line by which Excel tells itself the separator
        delimiter = told[1]
    elif kind == "csv" and "," not in top:
        others = sorted(";\t|", key=top.count, reverse=True)
        if top.count(others[0]):
            delimiter = others[0]
            notes.append(f"columns are separated by {delimiter!r}, as its first line shows")
    quoting: Any = csv.QUOTE_MINIMAL
    if delimiter == "\t" and not _quotes_pair_up(path, encoding):
        quoting = csv.QUOTE_NONE
        notes.append("quotes are read as plain characters, since they do not pair up")
    lines = _fields(path, encoding, delimiter, quoting)
    header: tuple[str, ...] = ()
    for _, fields in lines:
        if isinstance(fields, str):
            raise DataError("E-DATA-008", f"{path.name}: the first line cannot be read: {fields}")
        if any(fields) and not (told and clean_header(fields[0]).startswith("sep=")):
            header = tuple(clean_header(name) for name in fields)
            break
    while header and not header[-1]:  # spreadsheets leave empty columns at the right
        header = header[:-1]
    if not header:
        raise DataError("E-DATA-007", f"{path.name} holds no rows", fix="give a file with rows")
    return Rows(
        columns=header, records=_numbered(lines, header, delimiter), format=kind, notes=tuple(notes)
    )


def _numbered(
    lines: Iterator[tuple[int, list[str] | str]], header: tuple[str, ...], delimiter: str
) -> Numbered:
    width = len(header)
    blanks: list[int] = []
    for row, (_, fields) in enumerate(lines, 1):
        if not fields:
            blanks.append(row)
            continue
        for blank in blanks:  # blank lines at the very end are no rows at all
            yield blank, "the line is empty"
        blanks = []
        if isinstance(fields, str):
            yield row, fields
        elif len(fields) < width:
            yield row, f"fewer fields than the {width} of the first line"
        elif len(fields) > width and any(fields[width:]):
            yield (
                row,
                f"more fields than the {width} of the first line (an unquoted {delimiter!r}?)",
            )
        else:
            yield row, dict(zip(header, fields, strict=False))


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _fields(
    path: Path, encoding: str, delimiter: str, quoting: Any
) -> Iterator[tuple[int, list[str] | str]]:
    """Yield (line in the file, its fields or what is wrong with its quotes)."""
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                with _long_fields():
                    fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise DataError(
                        "E-DATA-008",
                        f"{path.name}:{line}: a quote is opened and never closed",
                        details=["everything after it would be read as one field"],
                        fix='write a quote inside a field as "" or remove it',
                    ) from error
                reason = (
                    "longer than 16 million characters" if "limit" in str(error) else str(error)
                )
                yield line, f"its quotes cannot be read ({reason})"
                continue
            yield line, fields


def _quotes_pair_up(path: Path, encoding: str) -> bool:
    """Tell whether quoting was meant: no fault, and no quoted field that swallows whole lines."""
    try:
        for _, fields in _fields(path, encoding, "\t", csv.QUOTE_MINIMAL):
            swallowed = any("\t" in f and ("\n" in f or "\r" in f) for f in fields)
            if isinstance(fields, str) or swallowed:
                return False
    except DataError:
        return False
    return True


def _each_line_is_json(path: Path, encoding: str) -> bool:
    with path.open(encoding=encoding) as file:
        lines = list(islice((line.strip("\ufeff \t\r\n") for line in file if line.strip()), 2))
    try:
        return len(lines) > 1 and all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False


def _json_lines(path: Path, encoding: str) -> Rows:
    def numbered() -> Numbered:
        blanks: list[int] = []
        with path.open(encoding=encoding) as file:
            for row, line in enumerate(file, 1):
                line = line.strip("\ufeff \t\r\n")
                if not line:
                    blanks.append(row)
                    continue
                for blank in blanks:
                    yield blank, "the line is empty"
                blanks = []
                try:
                    yield row, _record(json.loads(line))
                except ValueError as error:
                    yield row, f"not JSON ({str(error).split(':')[0]})"
                except RecursionError:
                    yield row, "not JSON that can be read (nested too deep)"

    columns, records = _peeked(numbered())
    if not columns:
        reasons = {reason for _, reason in islice(records, PEEK) if isinstance(reason, str)}
        raise DataError(
            "E-DATA-009",
            f"{path.name}: no line is a JSON object",
            details=sorted(reasons),
            fix='write one object a line: {"text": "...", "label": "..."}',
        )
    return Rows(columns=columns, records=records, format="jsonl")


def _json(path: Path, encoding: str) -> Rows:
    try:
        content = json.loads(path.read_text(encoding=encoding).strip("\ufeff"))
    except json.JSONDecodeError as error:
        raise DataError(
            "E-DATA-009",
            f"{path.name}:{error.lineno}:{error.colno} is not JSON: {error.msg}",
            fix="write a list of objects, or one object a line in a .jsonl file",
        ) from error
    except RecursionError as error:
        raise DataError("E-DATA-009", f"{path.name} is nested too deep to be read") from error
    listed = _listed(path, content)
    columns, records = _peeked((row, _record(item)) for row, item in enumerate(listed, 1))
    if not columns:
        what = "holds no rows" if not listed else "is a list, but not of objects"
        code = "E-DATA-007" if not listed else "E-DATA-009"
        raise DataError(code, f"{path.name} {what}", fix='write [{"text": "...", "label": "..."}]')
    return Rows(columns=columns, records=records, format="json")


def _listed(path: Path, content: object) -> list[object]:
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        for key in ("data", *(content if len(content) == 1 else ())):
            if isinstance(content.get(key), list):
                return list(content[key])
        columns = {k: v for k, v in content.items() if isinstance(v, list)}
        plain = all(not isinstance(item, dict | list) for v in columns.values() for item in v)
        if len(columns) > 1 and plain and len({len(v) for v in columns.values()}) == 1:
            return [
                dict(zip(columns, values, strict=True))
                for values in zip(*columns.values(), strict=True)
            ]
    keys = f" with the keys {', '.join(map(repr, content))}" if isinstance(content, dict) else ""
    raise DataError(
        "E-DATA-009",
        f"{path.name} is not a list of rows but {kind_of(content)}{keys}"[:400],
        fix='write a list of objects, or {"data": [...]}',
    )


def kind_of(value: object) -> str:
    """Return what kind of value it is, in the words of JSON.

    >>> kind_of({}), kind_of(1.5), kind_of(None)
    ('an object', 'a number', 'nothing')
    """
    kinds = {"dict": "an object", "str": "a string", "int": "a number", "float": "a number",
             "bool": "true or false", "NoneType": "nothing"}  # fmt: skip
    return kinds.get(type(value).__name__, "a list")


def _record(item: object) -> Record | str:
    if isinstance(item, dict):
        return {clean_header(key): value for key, value in item.items()}
    return f"not an object with named values but {kind_of(item)}"


def _peeked(records: Iterable[tuple[int, Record | str]]) -> tuple[tuple[str, ...], Numbered]:
    stream = iter(records)
    first = list(islice(stream, PEEK))
    keys = (key for _, record in first if isinstance(record, dict) for key in record)
    return tuple(dict.fromkeys(keys)), chain(first, stream)


def _parquet(path: Path) -> Rows:
    try:
        from pyarrow import ArrowException  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise ResourceError(
            "E-RESOURCE-025",
            f"{path.name}: reading Parquet needs pyarrow",
            fix="pip install 'sapwood[parquet]'",
        ) from error
    try:
        file = ParquetFile(path)
        schema = file.schema_arrow
    except (ArrowException, OSError) as error:
        raise DataError("E-DATA-002", f"{path.name} is a broken Parquet file: {error}") from error
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    names = class_names(info.get("features", {}))
    batches = (record for batch in file.iter_batches() for record in batch.to_pylist())
    records = ((row, _record(record)) for row, record in enumerate(batches, 1))
    columns = tuple(clean_header(name) for name in schema.names)
    return Rows(columns=columns, records=records, format="parquet", names=names)


def class_names(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return column -> names of its class numbers, from features as the `datasets` library tells.

    A list of class numbers (the tags of tokens) counts as its entries do.
    """
    names = {}
    for column, feature in features.items():
        if isinstance(feature, list) and len(feature) == 1:  # how old versions wrote a list
            feature = feature[0]
        if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names[clean_header(column)] = tuple(feature["names"])
    return names


def hub_rows(name: str, split: str) -> Rows:
    """Load one split of a Hugging Face data set through the `datasets` extra.

    Raises ResourceError: E-RESOURCE-025 without the extra, E-RESOURCE-026 when it cannot be had.
    """
    try:
        from datasets import load_dataset  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ResourceError(
            "E-RESOURCE-025",
            f"'{name}' is no file here; reading it from the Hugging Face hub needs an extra",
            fix="pip install 'sapwood[datasets]'   or give a path to a file",
        ) from error
    try:
        loaded = load_dataset(name, split=split)
    except Exception as error:  # the extra raises its own, requests' and OS errors alike
        raise ResourceError(
            "E-RESOURCE-026",
            f"Cannot load the split '{split}' of '{name}': {str(error).splitlines()[0]}",
            fix="check the name and the network; another split: OWNER/NAME:SPLIT",
        ) from error
    features = getattr(loaded, "features", None) or {}
    inner = {c: getattr(f, "feature", f) for c, f in features.items()}  # of a list: its entries
    names = {c: tuple(f.names) for c, f in inner.items() if getattr(f, "names", None)}
    records = ((row, _record(record)) for row, record in enumerate(loaded, 1))
    return Rows(columns=tuple(loaded.column_names), records=records, format="hub", names=names)
