"""One piece of the sources through all steps: the unit of work that a worker does and a kill loses.

A piece is a run of records in the order of the sources, whatever the number of workers; what is
written for it depends on it and the settings alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.corpora import FORMATS
from sapwood.corpora.draft import Draft, Drop, Format, Raw, Step, in_parts, through
from sapwood.corpora.duplicates import fingerprint
from sapwood.corpora.languages import language_step
from sapwood.corpora.normalise import normalise
from sapwood.corpora.overlap import overlap_step
from sapwood.corpora.private import mask, masked
from sapwood.corpora.quality import quality
from sapwood.corpora.settings import Settings
from sapwood.corpora.shelf import read_object, write_array, write_object, write_rows
from sapwood.registry import resolve

KEEP_OUT = "keep-out.npz"  # in the folder of the build
SHOWN = 160  # characters of a dropped document that are kept for the person who asks why


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record with the source, the format and the id that its documents will have."""

    source: str
    format: str
    id: str
    raw: Raw | Drop


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Piece `number` of a build in the folder `build`."""

    number: int
    records: tuple[Record, ...]
    build: Path
    settings: Settings


def place(build: Path, number: int) -> Path:
    """Return the marker of a piece; the rows and fingerprints stand beside it."""
    return build / "clean" / f"{number:06d}.json"


def clean(piece: Piece) -> int:
    """Do all steps of a piece, write what stays and why the rest went, and return its number."""
    marker = place(piece.build, piece.number)
    if marker.is_file():
        return piece.number
    index = piece.build / KEEP_OUT
    changed = index.stat().st_mtime_ns if piece.settings.keep_out else 0
    steps = _steps(piece.settings, index, changed)
    rows: list[dict[str, Any]] = []
    kept: list[tuple[int, int, str]] = []
    dropped: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for order, record in enumerate(piece.records):
        for found, step, shown in _documents(record, steps, piece.settings):
            if isinstance(found, Drop):
                about = {"id": found.id, "source": record.source, "step": step}
                about |= {"reason": found.reason, "detail": found.detail, "text": shown}
                dropped.append({"order": order, **about})
                continue
            row = {"id": found.id, "text": found.text, "source": record.source}
            row |= {"language": found.language, "title": found.title, "url": found.url}
            rows.append({name: value for name, value in row.items() if value or name in ROW})
            kept.append((order, len(found.text.encode()), found.id))
            for name, count in found.counts.items():
                counts[name] = counts.get(name, 0) + count
    write_rows(marker.with_suffix(".jsonl.gz"), rows)
    write_array(marker.with_suffix(".npy"), fingerprint([row["text"] for row in rows]))
    by_source: dict[str, int] = {}
    for record in piece.records:
        by_source[record.source] = by_source.get(record.source, 0) + 1
    write_object(marker, {"kept": kept, "dropped": dropped, "counts": counts, "records": by_source})
    return piece.number


ROW = ("id", "text", "source", "language")  # what every row has, even where it is empty


def _documents(
    record: Record, steps: Sequence[tuple[str, Step]], settings: Settings
) -> Iterator[tuple[Draft | Drop, str, str]]:
    """Yield (document, "", "") or (drop, step that dropped it, beginning of its text)."""
    if isinstance(record.raw, Drop):
        yield replace(record.raw, id=record.id), "extract", ""
        return
    for draft in _format(record.format).extract(record.raw):
        if isinstance(draft, Drop):
            yield replace(draft, id=record.id), "extract", ""
            continue
        draft = replace(draft, id=record.id, source=record.source)
        if settings.rules != "auto":
            draft = replace(draft, rules=settings.rules)
        normal = normalise(draft)
        if isinstance(normal, Drop):
            yield replace(normal, id=draft.id), "normalise", ""
            continue
        for part in in_parts(normal):
            found, step = through(part, steps)
            if isinstance(found, Drop):
                beginning = " ".join(part.text[: 2 * SHOWN].split())
                yield replace(found, id=part.id), step, masked(beginning)[0][:SHOWN]
            else:
                yield found, "", ""


def _format(name: str) -> Format:
    found: Format = resolve("format", FORMATS, name)
    return found


@lru_cache(maxsize=4)
def _steps(settings: Settings, index: Path, changed: int) -> tuple[tuple[str, Step], ...]:
    """Return the steps after extraction, in order; `index` holds the texts to keep out."""
    del changed  # a part of the key: the same file may hold others later
    steps: list[tuple[str, Step]] = [
        ("language", language_step(settings.languages)),
        ("quality", quality),
    ]
    if settings.keep_out:
        with np.load(index, allow_pickle=False) as arrays:
            steps.append(("overlap", overlap_step({n: arrays[n] for n in arrays.files})))
    if settings.mask:
        steps.append(("private", mask))
    return tuple(steps)


def read_marker(build: Path, number: int) -> dict[str, Any]:
    """Return what is known of a finished piece."""
    found = read_object(place(build, number))
    assert found is not None, f"piece {number} was checked to be there"
    return found
