"""All pieces brought together: duplicates out, documents held out, shards cut, drops listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.corpora.cleaning import place, read_marker
from sapwood.corpora.duplicates import Found, find
from sapwood.corpora.settings import Settings
from sapwood.corpora.shelf import read_object, read_rows, write_object, write_rows
from sapwood.packages import sha256_of

# Bytes of text of a shard: what one worker packs at once, some 300 MB of memory at its highest.
SHARD = 32 << 20
SHOWN, BEGINNING = 2, 300  # documents of a shard offered to the card, and characters of each


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The documents of a piece that go into a shard: its rows, and which are held out."""

    piece: int
    rows: tuple[int, ...]
    held: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Shard `number` of a build: what it is made of."""

    number: int
    slices: tuple[Slice, ...]
    build: Path
    out: Path


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What is left of all pieces; arrays are by document, in the order of the sources."""

    build: Path
    pieces: int
    bounds: NDArray[np.int64]
    bytes: NDArray[np.int64]
    held: NDArray[np.bool_]
    found: Found


def gather(build: Path, pieces: int, settings: Settings) -> Gathered:
    """Find duplicates over all pieces and choose what is held out.

    The same document is held out in every corpus of the same share: its content decides. Of
    several documents one is held out at least, so that there is something to measure on.
    """
    prints = [np.load(_prints(build, n), mmap_mode="r", allow_pickle=False) for n in range(pieces)]
    found = find(prints, near=settings.near)
    sizes: list[int] = []
    chosen: list[bool] = []
    for number in range(pieces):
        for _, size, name in read_marker(build, number)["kept"]:
            sizes.append(size)
            chosen.append(any(fnmatchcase(name, p) for p in settings.held_documents))
    shares = np.concatenate([np.zeros(0), *(_shares(piece) for piece in prints)])
    held = (shares < settings.held) & found.kept
    named = np.asarray(chosen, dtype=bool) & found.kept
    held |= named
    if settings.held > 0 and not held.any() and found.kept.sum() > 1:
        held[np.flatnonzero(found.kept)[np.argmin(shares[found.kept])]] = True
    return Gathered(
        build=build, pieces=pieces, held=held, found=found,
        bounds=np.concatenate([[0], np.cumsum([len(p) for p in prints])]).astype(np.int64),
        bytes=np.asarray(sizes, dtype=np.int64),
    )  # fmt: skip


def _prints(build: Path, number: int) -> Path:
    return place(build, number).with_suffix(".npy")


def _shares(prints: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for every document, from the first 64 bits of its exact hash."""
    low, high = np.asarray(prints[:, 0], np.float64), np.asarray(prints[:, 1], np.float64)
    return (high + low / 2**32) / 2**32


def shards(gathered: Gathered, out: Path) -> Iterator[Shard]:
    """Yield the shards: runs of documents that stay, each of about SHARD bytes of text."""
    number, size = 0, 0
    slices: list[Slice] = []
    for piece in range(gathered.pieces):
        first, last = int(gathered.bounds[piece]), int(gathered.bounds[piece + 1])
        rows: list[int] = []
        for row in np.flatnonzero(gathered.found.kept[first:last]).tolist():
            if size >= SHARD:
                slices += _slice(gathered, piece, rows)
                yield Shard(number=number, slices=tuple(slices), build=gathered.build, out=out)
                number, size, slices, rows = number + 1, 0, [], []
            rows.append(row)
            size += int(gathered.bytes[first + row])
        slices += _slice(gathered, piece, rows)
    if slices:
        yield Shard(number=number, slices=tuple(slices), build=gathered.build, out=out)


def _slice(gathered: Gathered, piece: int, rows: Sequence[int]) -> list[Slice]:
    if not rows:
        return []
    held = gathered.held[gathered.bounds[piece] + np.asarray(rows)]
    return [Slice(piece=piece, rows=tuple(rows), held=tuple(held.tolist()))]


def write_shard(shard: Shard) -> dict[str, Any]:
    """Write the documents of a shard and return its counts; done once, however often asked."""
    marker = shard.build / "documents" / f"{shard.number:05d}.json"
    known = read_object(marker)
    if known is not None:
        return known
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("source", "language", "part")}
    sizes = Counter[str]()
    beginnings: list[dict[str, str]] = []
    path = shard.out / "documents" / f"{shard.number:05d}.jsonl.gz"

    def rows() -> Iterator[dict[str, Any]]:
        for part in shard.slices:
            wanted = dict(zip(part.rows, part.held, strict=True))
            for at, row in enumerate(
                read_rows(place(shard.build, part.piece).with_suffix(".jsonl.gz"))
            ):
                if at not in wanted:
                    continue
                row["part"] = "held" if wanted[at] else "train"
                for name, counter in counts.items():
                    counter[row[name]] += 1
                sizes["bytes"] += (size := len(row["text"].encode()))
                sizes["characters"] += len(row["text"])
                sizes[f"language {row['language']}"] += size
                sizes[f"source {row['source']}"] += size
                sizes[f"part {row['part']}"] += size
                if len(beginnings) < SHOWN * (1 + len(counts["source"])):
                    beginnings.append({"id": row["id"], "text": row["text"][:BEGINNING]})
                yield row

    documents = write_rows(path, rows())
    made = {
        "number": shard.number, "documents": documents, "sha256": sha256_of(path),
        **{name: dict(counter) for name, counter in counts.items()},
        "sizes": dict(sizes), "samples": beginnings,
    }  # fmt: skip
    write_object(marker, made)
    return made


def write_drops(gathered: Gathered, path: Path) -> dict[str, Any]:
    """Write every dropped document with its reason, in the order of the sources; return counts.

    The result has the drops by step and reason, what was done to texts, the records by source, and
    some dropped documents to show.
    """
    dropped: dict[str, Counter[str]] = {}
    counts, records = Counter[str](), Counter[str]()
    shown: dict[str, dict[str, str]] = {}

    def rows() -> Iterator[dict[str, str]]:
        for number in range(gathered.pieces):
            marker = read_marker(gathered.build, number)
            counts.update(marker["counts"])
            records.update(marker["records"])
            listed = [*marker["dropped"], *_repeats(gathered, number, marker)]
            for row in sorted(listed, key=lambda row: row["order"]):
                del row["order"]
                dropped.setdefault(row["step"], Counter())[row["reason"]] += 1
                if row["text"] and row["reason"] not in shown:
                    shown[row["reason"]] = {key: row[key] for key in ("id", "reason", "text")}
                yield {key: value for key, value in row.items() if value}

    total = write_rows(path, rows())
    return {
        "documents": total, "counts": dict(sorted(counts.items())), "records": dict(records),
        "by_step": {step: dict(reasons.most_common()) for step, reasons in dropped.items()},
        "samples": list(shown.values()),
    }  # fmt: skip


def _repeats(gathered: Gathered, number: int, marker: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the documents of a piece that repeat an earlier one."""
    first = int(gathered.bounds[number])
    found = gathered.found
    for at, (order, _, name) in enumerate(marker["kept"]):
        if found.kept[first + at]:
            continue
        piece, row = _where(gathered, int(found.of[first + at]))
        changed = place(gathered.build, piece).stat().st_mtime_ns
        exact = bool(found.exact[first + at])
        yield {
            "order": order, "id": name, "source": name.split("#")[0].split("/")[0],
            "step": "duplicates", "reason": "exact duplicate" if exact else "near duplicate",
            "detail": f"of {_names(gathered.build, piece, changed)[row]}", "text": "",
        }  # fmt: skip


def _where(gathered: Gathered, document: int) -> tuple[int, int]:
    piece = int(np.searchsorted(gathered.bounds, document, side="right")) - 1
    return piece, document - int(gathered.bounds[piece])


@lru_cache(maxsize=64)
def _names(build: Path, number: int, changed: int) -> tuple[str, ...]:
    del changed  # a part of the key: another build may have the same place
    return tuple(name for _, _, name in read_marker(build, number)["kept"])
