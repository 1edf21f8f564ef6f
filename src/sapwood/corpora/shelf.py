"""Files of a build, written whole or not at all, with the same bytes every time."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sapwood.files import told

LEVEL = 6  # zlib's default: half the time of 9 for one hundredth more bytes


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes its name when the block ends well; a kill leaves nothing of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as gzipped JSONL without a time stamp; return how many."""
    count = 0
    with whole(path) as file, gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
        for row in rows:
            packed.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a gzipped JSONL file."""
    with gzip.open(path, "rb") as file:
        for line in file:
            yield json.loads(line)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as .npy."""
    with whole(path) as file:
        np.save(file, array, allow_pickle=False)


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object; where it stands, the files it speaks of stand too."""
    with whole(path) as file:
        file.write((json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def read_object(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
