"""Read labelled texts from a file, a folder of splits or the Hugging Face hub.

Every row that cannot be used is kept as a reason with its number, never dropped silently.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import count, islice
from pathlib import Path

from sapwood.errors import DataError
from sapwood.interfaces import Dropped, Example
from sapwood.registry import did_you_mean
from sapwood.tasks.columns import Columns, choose_columns, words
from sapwood.tasks.encodings import Content, inspect
from sapwood.tasks.rows import FORMATS, Record, Rows, hub_rows, kind_of, open_rows

SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val", "eval"),
    "test": ("test", "testing"),
}
# Files that describe data and hold none; some contain the word "train" in their contents only,
# others are named after a split by the tools that write them.
SIDECARS = re.compile(
    r"(dataset_info|dataset_dict|dataset_infos|state|metadata|config|schema)", re.I
)
HUB_NAME = re.compile(r"^(hf:)?([\w.-]+/[\w.-]+?)(:([\w.-]+))?$")
EDGES = " \t\r\n\f\v\u00a0\u3000\ufeff\u200b\u2060"


@dataclass(frozen=True, kw_only=True)
class Table:
    """The usable rows of one source and the reasons for all others.

    `rows` counts every row looked at, so ``rows == len(examples) + all dropped`` unless a
    ``#N`` sample was asked for, which `notes` then says. `sha256` is that of the file. `mended`:
    rows that are used after a repair, by what it was; `labels`: classes, or types of frames.
    """

    examples: tuple[Example, ...]
    columns: Columns
    path: str
    sha256: str
    rows: int
    dropped: tuple[Dropped, ...]
    labels: tuple[str, ...]
    format: str = "jsonl"
    notes: tuple[str, ...] = ()
    task: str = "classification"
    mended: tuple[Dropped, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source opened for reading, and what its name asks for.

    `first`: how many rows to read, `sample`: how many usable rows to keep; None for all.
    """

    rows: Rows
    name: str
    path: str
    sha256: str
    first: int | None
    sample: int | None
    notes: tuple[str, ...] = ()


def open_source(source: str | Path) -> Source:
    """Open a file, the train file of a folder, or a data set of the Hugging Face hub.

    Raises DataError: E-DATA-001 no such file, 002 kind, 003 encoding, 007 empty, 008 quotes,
    009 JSON, 013 no train file.
    """
    place, first, sample = _without_suffix(str(source))
    path = Path(place).expanduser()
    if path.is_dir():
        path = find_files(path)["train"]
    hub = _hub_name(place, path)
    if hub:
        found = hub_rows(hub[2], hub[4] or "train")
        return Source(rows=found, name=place, path=place, sha256="", first=first, sample=sample)
    _must_be_file(path)
    content = _inspected(path)
    rows = open_rows(path, content)
    notes = (*((content.note,) if content.note else ()), *rows.notes)
    return Source(rows=rows, name=path.name, path=str(path), sha256=content.sha256,
                  first=first, sample=sample, notes=notes)  # fmt: skip


def read_examples(
    source: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    need_label: bool = True,
    classes: int = 2,
) -> Table:
    """Read a CSV, TSV, JSONL, JSON or Parquet file, or a Hugging Face data set (``owner/name``).

    ``FILE[:500]`` reads the first 500 rows; ``FILE#500`` keeps a sample of 500 usable rows chosen
    by content hash, so the same rows whatever their order. A folder means its train file.
    `text` and `label` name columns; without them names and aliases decide (see `columns`).
    `classes` is the fewest distinct labels accepted.

    Raises DataError: E-DATA-001 no such file, 002 kind, 003 encoding, 004 to 006 columns, 007
    empty, 008 quotes, 009 JSON, 010 too few classes, 014 no usable row.
    """
    opened = open_source(source)
    rows, name = opened.rows, opened.name
    columns = choose_columns(
        rows.columns, text=text, label=label, need_label=need_label, where=name
    )
    try:
        examples, dropped, total = _usable(rows, columns, opened.first, need_label=need_label)
    except UnicodeDecodeError as error:
        raise wrong_encoding(name, error) from error
    must_be_usable(name, examples, dropped, total, columns, classes if need_label else 0)
    kept, notes = sampled(examples, opened)
    return Table(
        examples=tuple(kept),
        columns=columns,
        path=opened.path,
        sha256=opened.sha256 or digest(kept),
        rows=total,
        dropped=dropped,
        labels=sorted_labels({e.label for e in kept if e.label is not None}),
        format=rows.format,
        notes=notes,
    )


def read_folder(
    source: str | Path, *, text: str | None = None, label: str | None = None
) -> dict[str, Table]:
    """Read the splits of a folder: {"train": Table, and "dev" and "test" where files exist}."""
    return {
        split: read_examples(path, text=text, label=label, classes=2 if split == "train" else 1)
        for split, path in find_files(source).items()
    }


def find_files(source: str | Path) -> dict[str, Path]:
    """Return the data files of a file or folder by split: "train", then "dev" and "test" if there.

    Split names are matched as whole words ("reviews-train.csv"); files that only describe the
    data (dataset_info.json, ...) are never taken for rows. Raises DataError: E-DATA-001 missing,
    E-DATA-013 no train file or several for one split.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        named = _without_suffix(str(source))[0]
        path = Path(named).expanduser()
        if not _hub_name(named, path):
            _must_be_file(path)
        return {"train": Path(source)}
    inner = [folder / "data"] if (folder / "data").is_dir() else []
    for place in (folder, *inner):
        files = [p for p in sorted(place.iterdir()) if _is_data(p)]
        found = {split: _split_file(files, split, folder) for split in SPLIT_NAMES}
        if found["train"] is None and len(files) == 1 and not any(found.values()):
            return {"train": files[0]}
        if found["train"] is not None:
            return {split: path for split, path in found.items() if path is not None}
    listed = ", ".join(p.name for p in sorted(folder.iterdir())[:12]) or "nothing"
    raise DataError(
        "E-DATA-013",
        f"{folder} holds no train file",
        details=[f"found: {listed}"],
        fix="name the files train.jsonl, dev.jsonl, test.jsonl (or .csv, ...), or give one file",
    )


def sorted_labels(labels: set[str]) -> tuple[str, ...]:
    """Return labels in one order whatever the rows' order: numbers by value, then words."""
    return tuple(sorted(labels, key=lambda v: (0, int(v), v) if v.isdecimal() else (1, 0, v)))


def _is_data(path: Path) -> bool:
    if not path.is_file() or path.name.startswith("."):
        return False
    if path.suffix.lower() == ".txt":  # notes and licences, unless it is named after a split
        return any(path.stem.lower() in names for names in SPLIT_NAMES.values())
    return path.suffix.lower() in FORMATS and not SIDECARS.fullmatch(path.stem)


def _split_file(files: Sequence[Path], split: str, folder: Path) -> Path | None:
    exact = [p for p in files if p.stem.lower() in SPLIT_NAMES[split]]
    loose = [p for p in files if set(words(p.stem)) & set(SPLIT_NAMES[split])]
    fits = exact or loose
    if len(fits) > 1:
        raise DataError(
            "E-DATA-013",
            f"{folder} holds several files for '{split}': {', '.join(p.name for p in fits)}",
            fix="keep one of them in the folder, or join them",
        )
    return fits[0] if fits else None


def _without_suffix(source: str) -> tuple[str, int | None, int | None]:
    """Return (place, first N rows, sample of N rows)."""
    match = re.fullmatch(r"(.+?)(?:\[:(\d+)\]|#(\d+))", source)
    if match is None or Path(source).exists():
        return source, None, None
    place, first, sample = match.groups()
    if int(first or sample) == 0:
        raise DataError("E-DATA-014", f"{source} asks for no rows", fix=f"{place}[:500]")
    return place, int(first) if first else None, int(sample) if sample else None


def _hub_name(place: str, path: Path) -> re.Match[str] | None:
    """Return the match of a hub data set's name, unless `place` looks like a local file."""
    if path.exists() or path.suffix.lower() in FORMATS or path.parent.is_dir():
        return None
    return HUB_NAME.match(place)


def _inspected(path: Path) -> Content:
    try:
        return inspect(path)
    except OSError as error:
        what = f"Cannot read {path}: {error.strerror or error}"
        raise DataError("E-DATA-001", what, fix=f"ls -l {path}") from error


def _must_be_file(path: Path) -> None:
    if path.is_file():
        return
    beside = path.parent if path.parent.is_dir() else Path()
    near = did_you_mean(path.name, [p.name for p in beside.iterdir()])
    raise DataError(
        "E-DATA-001", f"No such file: {path}.{near}", fix="give the path of a data file or folder"
    )


def _usable(
    rows: Rows, columns: Columns, first: int | None, *, need_label: bool
) -> tuple[list[Example], tuple[Dropped, ...], int]:
    examples: list[Example] = []
    reasons: dict[str, list[int]] = {}
    total = 0
    names = rows.names.get(columns.label or "", ())
    for row, record in islice(rows.records, first):
        total += 1
        reason = record
        if isinstance(record, dict):
            found = _example(row, record, columns, names, need_label=need_label)
            if isinstance(found, Example):
                examples.append(found)
                continue
            reason = found
        reasons.setdefault(str(reason), []).append(row)
    dropped = tuple(Dropped(reason=reason, rows=tuple(at)) for reason, at in reasons.items())
    return examples, dropped, total


def _example(
    row: int, record: Record, columns: Columns, names: Sequence[str], *, need_label: bool
) -> Example | str:
    """Return the example of a record, or the reason there is none."""
    text = record.get(columns.text)
    if not isinstance(text, str):
        if text is None or (isinstance(text, float) and math.isnan(text)):
            return f"column '{columns.text}' empty"
        if isinstance(text, bool | dict | list):
            return f"column '{columns.text}' holds {kind_of(text)}, not text"
        text = str(text)
    text = text.strip(EDGES)
    if not text:
        return f"column '{columns.text}' empty"
    if "\x00" in text:
        return f"column '{columns.text}' holds NUL bytes"
    label: str | None = None
    if columns.label is not None:
        value = record.get(columns.label)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict | list) and value:
            if not need_label:
                value = None
            elif isinstance(value, list):
                return f"column '{columns.label}' holds several labels (one a row is supported)"
            else:
                return f"column '{columns.label}' holds an object, not a label"
        label = clean_label(value, names)
        if label is None and need_label:
            return f"column '{columns.label}' empty"
    if not text.isascii() or not (label or "").isascii():
        try:
            (text + (label or "")).encode()
        except UnicodeEncodeError:
            return "half of a surrogate pair, a broken character"
    return Example(text=text.replace("\r\n", "\n"), label=label, row=row)


def clean_label(value: object, names: Sequence[str] = ()) -> str | None:
    """Return a label as text, or None for an empty one; `names` spell out class numbers.

    >>> clean_label(1.0), clean_label("1.0"), clean_label(True), clean_label(1, ["no", "yes"])
    ('1', '1', 'true', 'yes')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)) or value in ([], {}):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None  # -1: hidden, as hubs write it
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    label = str(value).strip(EDGES)
    if label[-2:] == ".0" and re.fullmatch(r"-?\d+\.0", label):
        label = label[:-2]  # what spreadsheets make of whole numbers beside an empty cell
    return label.replace("\x00", "") or None


def wrong_encoding(name: str, error: UnicodeDecodeError) -> DataError:
    """Return E-DATA-003 for bytes that turn out not to be in the encoding of their file."""
    return DataError(
        "E-DATA-003",
        f"{name} is not valid {error.encoding}: {error.reason}",
        fix="save the file as UTF-8",
    )


def must_be_usable(
    name: str,
    examples: Sequence[Example],
    dropped: Sequence[Dropped],
    total: int,
    columns: Columns,
    classes: int,
) -> None:
    """Raise DataError: E-DATA-007 no rows, 014 none usable, 010 fewer labels than `classes`."""
    if total == 0:
        raise DataError(
            "E-DATA-007",
            f"{name} has a first line that names columns, and no rows",
            details=[f"columns found: {', '.join(map(repr, columns.found))}"],
            fix="give a file with rows",
        )
    if not examples:
        raise DataError(
            "E-DATA-014",
            f"{name}: none of {total:,} rows can be used",
            details=[*(describe(d) for d in dropped), f"columns in use: {columns.why}"],
            fix=next((d.fix for d in dropped if d.fix), "")
            or "mend these rows, or choose other columns with --text and --label",
        )
    labels = {example.label for example in examples}
    if len(labels) < classes:
        raise DataError(
            "E-DATA-010",
            f"{name}: all {len(examples):,} usable rows have the label {min(map(str, labels))!r}",
            details=[describe(d) for d in dropped],
            fix="give rows of at least two classes, or choose another column with --label",
        )


def describe(dropped: Dropped) -> str:
    """Return one line: how many rows, why, and which.

    >>> describe(Dropped(reason="column 'label' empty", rows=(14, 92)))
    "2 rows: column 'label' empty (rows 14, 92)"
    """
    count = len(dropped.rows)
    listed = ", ".join(f"{row:,}" for row in dropped.rows[:5])
    more = ", ..." if count > 5 else ""
    return f"{rows_of(count)}: {dropped.reason} ({'row' if count == 1 else 'rows'} {listed}{more})"


def rows_of(count: int) -> str:
    """Return "1 row" or "2,000 rows"."""
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def sampled(examples: Iterable[Example], opened: Source) -> tuple[list[Example], tuple[str, ...]]:
    """Return the rows a source's name asks for (a sample: by content hash), and its notes."""
    size, total = opened.sample, count()
    if size is None:
        return list(examples), opened.notes
    least = nsmallest(size, ((digest([e]), next(total), e) for e in examples))
    kept = [example for _, _, example in sorted(least, key=lambda one: one[1])]
    if (seen := next(total)) <= size:
        return kept, opened.notes
    return kept, (f"a sample of {size:,} of {seen:,} usable rows, by content hash", *opened.notes)


def digest(examples: Sequence[Example]) -> str:
    """Return a SHA-256 of texts and answers; 64 hexadecimal digits."""
    state = hashlib.sha256()
    for example in examples:
        state.update(f"{example.text}\x00{example.label}\x01".encode())
    return state.hexdigest()
