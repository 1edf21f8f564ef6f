"""A disk that is full or may not be written, as a server tells those who ask it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sapwood.errors import ResourceError, SapwoodError
from sapwood.files import told

FULL = "E-RESOURCE-001"
_FIXES = {
    FULL: "free some space on the server's disk, and ask again",
    "E-RESOURCE-002": "let the server write there, and ask again",
    "E-RESOURCE-003": "take away what is in the way, and ask again",
}


def for_askers(error: SapwoodError) -> SapwoodError:
    """Return an error as whoever asks a server needs it; they run no command."""
    if error.code not in _FIXES:
        return error
    return ResourceError(error.code, error.what, details=error.details, fix=_FIXES[error.code])


@contextmanager
def whole_or_gone(path: Path) -> Iterator[None]:
    """Take the file away that a block could not write to its end, and tell why, as `files.told`."""
    try:
        with told(path):
            yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def check_room(beside: Path, size: int) -> None:
    """Raise what `files.told` raises where `size` bytes cannot be written beside a file."""
    tried = beside.with_name(f".{beside.name}.room")
    try:
        with told(beside), tried.open("wb") as file:
            file.write(bytes(size))
    finally:
        tried.unlink(missing_ok=True)
