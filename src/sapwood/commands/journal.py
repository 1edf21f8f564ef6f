"""A run's events as JSON lines in a file, so that whoever looks on may come, go and come again.

The first line says when the run began, the last how it ended. While it runs it holds a lock beside
the file, which the system lets go however the process ends. A file of the same name that ends in
".stop" asks the run to end as Ctrl-C does. What a full disk does not take is lost, and the run goes
on: it is for others to see, and a run says itself what of its own cannot be written.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sapwood.errors import ResourceError, SapwoodError
from sapwood.files import told

if TYPE_CHECKING:
    from sapwood.interfaces import Event

_PAUSE = 0.2  # seconds between two lines of progress: enough to look live, few enough to read again


class Journal:
    """Appends what happens in a run to `path`; does nothing where that is None.

    Raises ResourceError: E-RESOURCE-090 another run writes there, or what `files.told` raises.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._last, self._file = path, 0.0, None if path is None else self._open(path)
        self._torn = False  # whether the last line is half a line

    def _open(self, path: Path) -> Any:
        from filelock import FileLock, Timeout

        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(path.name + ".lock"))
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise ResourceError(
                    "E-RESOURCE-090",
                    f"Another run writes its events to {path}.",
                    fix="wait until it has ended, or name another file with --events",
                ) from None
            return path.open("ab", buffering=0)  # so that it is known how much was written

    @property
    def asked_to_stop(self) -> bool:
        """Whether the run was asked to end."""
        return self.path is not None and self.path.with_suffix(".stop").exists()

    def event(self, event: Event) -> None:
        """Append an event; of progress, as much as a person can follow."""
        now = time.monotonic()
        if event.kind == "progress" and event.done < event.total and now - self._last < _PAUSE:
            return
        self._last = now
        self._write(asdict(event))

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            return
        told = json.dumps({**line, "at": time.time()}, ensure_ascii=False) + "\n"
        content = ("\n" * self._torn + told).encode("utf-8", "replace")
        with suppress(OSError):
            self._torn = self._file.write(content) < len(content)

    def __enter__(self) -> Journal:
        self._write({"kind": "began"})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None or self.path is None:
            return
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        how = "finished" if error is None else "stopped" if stopped else "failed"
        said: dict[str, Any] = {}
        if isinstance(error, SapwoodError):
            said = error.to_json()
        elif how == "failed":
            said = {"error": "E-INTERNAL-001", "what": f"{type(error).__name__}: {error}"}
        self._write({"kind": "ended", "how": how, **said})
        self._file.close()
        self.path.with_suffix(".stop").unlink(missing_ok=True)
        self._lock.release()
