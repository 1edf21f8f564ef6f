"""An adaptation's folder looked through before anything of it is mapped or believed.

What comes from elsewhere is read here as bytes with bounds: only files that an adaptation has, no
links, no pickle, JSON of bounded size and depth, tensors whose header agrees with the file and
whose numbers are finite. Whether they fit the base, and do what they did when they were saved, is
for the pool to check afterwards.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sapwood.adaptation import ARRAYS, CONTEXT, MAIN, PREFIX, READOUT
from sapwood.context.facts import RECORDS, SETTINGS
from sapwood.errors import ModelError
from sapwood.methods.folder import FILES
from sapwood.serving.nesting import too_deep
from sapwood.serving.tensors import check_tensors

_PICKLES = (
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz",
)  # fmt: skip
_CODE = (".py", ".pyc", ".so", ".sh", ".jinja")
_KNOWN = {MAIN, CONTEXT, READOUT, ARRAYS, SETTINGS, RECORDS, *FILES}
_SHOWN = {"README.md", "LICENSE", "NOTICE", "report.html", "report.json"}  # never read here
_FIX = "copy the folder again, whole, and remove what does not belong there"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The most that a folder may hold; what Sapwood writes is far below.

    Bytes of the whole `folder`, and of a JSON document or one line of a .jsonl file (`json`);
    `levels` of brackets within brackets.
    """

    folder: int = 4 << 30  # a rank-64 LoRA on all layers of a base of 7 billion weights is 0.6 GB
    json: int = 16 << 20
    levels: int = 32


BOUNDS = Bounds()


def vet(folder: Path, bounds: Bounds = BOUNDS) -> None:
    """Check an adaptation's folder, reading each file once and mapping none.

    Raises ModelError with every problem: E-MODEL-200 there is no such folder, E-MODEL-201 it holds
    what may not be served.
    """
    if not folder.is_dir():
        raise ModelError("E-MODEL-200", f"There is no adaptation in '{folder.name}'.")
    problems: list[str] = []
    total = 0
    try:
        paths = [*_entries(folder, problems)]
    except OSError as error:
        raise ModelError(
            "E-MODEL-200", f"'{folder.name}' cannot be looked into: {error.strerror}."
        ) from None
    for path in paths:
        inside = path.relative_to(folder).as_posix()
        try:
            with _opened(path) as file:
                size = os.fstat(file.fileno()).st_size
                total += size
                if total <= bounds.folder:
                    problems += [f"{inside}: {p}" for p in _problems(path.name, file, size, bounds)]
        except OSError as error:
            problems.append(f"{inside}: it cannot be read: {error.strerror}")
        except _Refused as error:
            problems.append(f"{inside}: {error}")
    if total > bounds.folder:
        problems.append(f"it is larger than {bounds.folder:,} bytes")
    if problems:
        raise ModelError(
            "E-MODEL-201",
            f"'{folder.name}' is not served: it holds what no adaptation of Sapwood does.",
            details=problems[:50],
            fix=_FIX,
        )


class _Refused(Exception):
    """Why a file is not read."""


def _entries(folder: Path, problems: list[str]) -> Iterator[Path]:
    """Yield the files to read, in order; add the others to `problems`."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink():
            problems.append(f"{_shown(entry.name)}: it is a link")
        elif entry.is_dir(follow_symlinks=False):
            if entry.name != PREFIX:
                problems.append(f"{_shown(entry.name)}/: it is a folder that no adaptation has")
                continue
            for inner in sorted(os.scandir(entry.path), key=lambda inner: inner.name):
                if inner.name in FILES and not inner.is_symlink():
                    yield Path(inner.path)
                else:
                    problems.append(f"{PREFIX}/{_shown(inner.name)}: {_foreign(inner.name)}")
        elif entry.name not in _KNOWN | _SHOWN:
            problems.append(f"{_shown(entry.name)}: {_foreign(entry.name)}")
        else:
            yield Path(entry.path)


def _foreign(name: str) -> str:
    if name.endswith(_PICKLES):
        return "it may hold a pickle, which runs code when it is read; tensors are safetensors here"
    if name.endswith(_CODE):
        return "it is code"
    return "no adaptation has such a file"


def _shown(name: str) -> str:
    """Return a file's name as it can be printed."""
    return ascii(name)[1:-1][:80]


def _opened(path: Path) -> IO[bytes]:
    """Open a regular file that has this one name only."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    why = ""
    if not stat.S_ISREG(found.st_mode):
        why = "it is not a regular file"
    elif found.st_nlink > 1:
        why = "it is linked from another place as well; copy it instead"
    if why:
        os.close(descriptor)
        raise _Refused(why)
    return os.fdopen(descriptor, "rb")


def _problems(name: str, file: IO[bytes], size: int, bounds: Bounds) -> Iterator[str]:
    if name.endswith(".safetensors"):
        yield from check_tensors(file, size)
    elif name.endswith(".jsonl"):
        yield from _check_lines(file, bounds)
    elif name.endswith(".json") and name in _KNOWN:
        if size > bounds.json:
            yield f"it has {size:,} bytes; {bounds.json:,} are the most"
        else:
            yield from _check_json(file.read(), bounds, free=("evidence",) if name == MAIN else ())


def _check_lines(file: IO[bytes], bounds: Bounds) -> Iterator[str]:
    number = 0
    while line := file.readline(bounds.json + 1):
        number += 1
        if len(line) > bounds.json:
            yield f"line {number} has more than {bounds.json:,} bytes"
            return
        for problem in _check_json(line, bounds):
            yield f"line {number}: {problem}"
            return


def _check_json(raw: bytes, bounds: Bounds, free: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield what is wrong with a JSON object; entries in `free` may hold any number."""
    if too_deep(raw, bounds.levels):
        yield f"it has more than {bounds.levels} levels of brackets"
        return
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        yield f"it is not JSON: {str(error)[:120]}"
        return
    if not isinstance(content, dict):
        yield "it is no JSON object"
    elif not _finite({name: value for name, value in content.items() if name not in free}):
        yield "it holds a number that is not finite"


def _finite(content: Any) -> bool:
    if isinstance(content, dict):
        return all(map(_finite, content.values()))
    if isinstance(content, list):
        return all(map(_finite, content))
    return not isinstance(content, float) or math.isfinite(content)
