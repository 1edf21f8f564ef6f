"""The identity of a checkpoint: a hash over its tensors, read straight from safetensors files.

The format (https://github.com/huggingface/safetensors) is a JSON header and a block of bytes, so
nothing has to be loaded. Prefix caches and adaptations are keyed by this hash, never by a name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.config import home
from sapwood.errors import ModelError
from sapwood.files import write_json

LARGEST_HEADER = 100_000_000  # the format's own limit
BLOCK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """Where one tensor lies: absolute byte range [start, end) in `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_tensors(file: Path) -> dict[str, TensorPlace]:
    """Return the place of every tensor in a safetensors file, by name.

    Raises ModelError (E-MODEL-005) for a file that is cut short or not safetensors.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _damaged(file, f"{size} bytes hold no header of {length} bytes")
        header = _header(file, opened.read(length))
    places: dict[str, TensorPlace] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            start, end = (8 + length + int(offset) for offset in entry["data_offsets"])
            places[name] = TensorPlace(
                file=file, dtype=entry["dtype"], shape=tuple(entry["shape"]), start=start, end=end
            )
        except (TypeError, KeyError, ValueError) as error:
            raise _damaged(file, f"its entry for {name} is broken") from error
    wanted = max((place.end for place in places.values()), default=8 + length)
    if wanted > size:
        raise _damaged(file, f"{wanted:,} bytes expected, {size:,} found")
    return places


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 over all tensors of a folder: name, format, shape and bytes, by name.

    It does not depend on how tensors are spread over files. The result is kept in the cache folder
    for as long as names, sizes and times of the files stay the same.
    """
    files = sorted(folder.glob("*.safetensors"))
    stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    kept = home() / "hashes" / f"{key}.json"
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["files"] == stamp:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not hashed yet
    sha256 = hash_tensors({n: p for f in files for n, p in read_tensors(f).items()})
    write_json(kept, {"files": stamp, "sha256": sha256})
    return sha256


def hash_tensors(places: dict[str, TensorPlace]) -> str:
    """Return the SHA-256 of tensors given by their places, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(places):
        place = places[name]
        digest.update(json.dumps([name, place.dtype, list(place.shape)]).encode())
        with place.file.open("rb") as file:
            file.seek(place.start)
            left = place.end - place.start
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise _damaged(place.file, "it became shorter while it was read")
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def _header(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise _damaged(file, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(file, "its header is not a JSON object")
    return header


def _damaged(file: Path, why: str) -> ModelError:
    return ModelError(
        "E-MODEL-005",
        f"{file} is damaged or cut short: {why}",
        fix="download the file again and compare its size and SHA-256 with the source's",
    )
