"""Writes that a kill or a full disk cannot tear: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sapwood.errors import ResourceError


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all. Raises ResourceError when it cannot."""
    part = path.with_name(f".{path.name}.part")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well.

    An older folder at `path` stays until the new one is complete and on disk.
    """
    part = path.with_name(f".{path.name}.part")
    old = path.with_name(f".{path.name}.old")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not path.exists():  # a kill came between the two renames below
            old.rename(path)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.rename(old)
            part.rename(path)
        finally:
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into messages for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                "E-RESOURCE-001",
                f"The disk is full; {path} was not written. What was there before is kept.",
                fix="free some space and run the same command again: it goes on where it stopped",
            ) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise ResourceError(
                "E-RESOURCE-002",
                f"{path} may not be written: {error.strerror}.",
                fix="choose another folder with --out",
            ) from None
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise ResourceError(
                "E-RESOURCE-003",
                f"{path} cannot be written: a file or folder of that name is in the way.",
                fix="choose another folder with --out",
            ) from None
        raise
