"""The folder of a build: whose it is, whether it goes on, and who works in it now."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sapwood.config import VERSION
from sapwood.corpora.corpus import MAIN
from sapwood.corpora.settings import Settings
from sapwood.corpora.shelf import read_object, write_object
from sapwood.corpora.sources import Given
from sapwood.errors import ConfigError
from sapwood.files import told
from sapwood.packages import sha256_of

STATE, JOB = ".build", "job.json"
OURS = ("corpus.json", "README.md", "tokenizer", "documents", "tokens", "drops.jsonl.gz")


def identity(given: Sequence[Given], settings: Settings) -> dict[str, Any]:
    """Return what a build is of: its settings, its sources as they lie on disk, this version."""
    named = asdict(settings)
    named["keep_out"] = [sha256_of(path) for path in settings.keep_out]
    if not settings.trains:
        named["tokenizer"] = sha256_of(Path(settings.tokenizer) / "tokenizer.json")
    files = [
        [file.source, file.name, file.format, file.bytes, file.path.stat().st_mtime_ns]
        for source in given
        for file in source.files
    ]
    licences = {source.name: source.licence for source in given}
    plain: dict[str, Any] = _plain(
        {"version": VERSION, "settings": named, "files": files, "licences": licences}
    )
    return plain


def _plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def check_folder(out: Path) -> None:
    """Raise ConfigError E-CONFIG-235 where `out` holds what no build made; writes nothing."""
    if out.is_file():
        raise ConfigError("E-CONFIG-235", f"{out} is a file.", fix="choose a folder with --out")
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    strange = [name for name in held if name not in OURS and not name.startswith(".")]
    if not strange and (STATE in held or MAIN in held):
        return
    if held:
        raise ConfigError(
            "E-CONFIG-235",
            f"{out} holds what no build of Sapwood made: {', '.join((strange or held)[:3])}.",
            fix="choose another folder with --out",
        )


def prepare(out: Path, wanted: dict[str, Any], *, fresh: bool) -> bool:
    """Make `out` ready for a build of `wanted`; return whether it is finished already.

    Raises ConfigError E-CONFIG-236 where it holds a build with other settings or sources.
    """
    state = read_object(out / STATE / JOB)
    known = state or (read_object(out / MAIN) or {}).get("job")
    if fresh or known is None:
        with told(out):
            _empty(out)
    elif _without_times(known) != _without_times(wanted) or (state and known != wanted):
        raise ConfigError(
            "E-CONFIG-236",
            f"{out} holds a {'finished corpus' if state is None else 'build'} of other sources or "
            "settings.",
            details=_differences(known, wanted),
            fix="choose another --out, or pass --fresh to build here anew",
        )
    elif state is None:
        return True
    write_object(out / STATE / JOB, wanted)
    return False


def _empty(out: Path) -> None:
    """Remove an earlier build, but for the lock that this one holds."""
    for path in (*(out / name for name in OURS), *(out / STATE).glob("*")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".lock":
            path.unlink(missing_ok=True)


def _without_times(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job without when its files were changed, which a copy does not keep."""
    return {**job, "files": [file[:4] for file in job["files"]]}


def _differences(known: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    before, now = known.get("settings", {}), wanted["settings"]
    lines = [
        f"{name}: {before.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if _without_times(known)["files"] != _without_times(wanted)["files"]:
        lines.append("the files of the sources, their order or their sizes")
    elif known["files"] != wanted["files"] and all(len(file) > 4 for file in known["files"]):
        lines.append("when the files of the sources were changed")
    if known.get("licences") != wanted["licences"]:
        lines.append("the licences of the sources")
    if known.get("version") != wanted["version"]:
        lines.append(f"version {known.get('version')} of Sapwood there, {wanted['version']} now")
    return lines


@contextmanager
def locked(out: Path, name: str) -> Iterator[None]:
    """Hold a build against a second one in the same folder; a killed one holds nothing.

    Raises ConfigError E-CONFIG-237 where another is at work.
    """
    from filelock import FileLock, Timeout

    with told(out):
        (out / STATE).mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / STATE / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            "E-CONFIG-237", f"Another build is at work in {out}.",
            fix="wait for it, or choose another folder with --out",
        ) from None  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def clear(out: Path) -> None:
    """Remove the state of a finished build, and what killed workers left half written."""
    shutil.rmtree(out / STATE, ignore_errors=True)
    for folder in (out, out / "documents", out / "tokens"):
        for part in folder.glob(".*.part"):
            if part.is_file() and f".{os.getpid()}." not in part.name:
                part.unlink(missing_ok=True)
