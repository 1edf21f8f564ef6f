"""The thread that has the base's own net for itself: it loads, and asks what cannot be mixed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from sapwood.evaluation import Bases, asking
from sapwood.interfaces import Example
from sapwood.pool.resident import Resident

# Texts of requests that wait for one adaptation are read together, up to so many: enough to fill
# packs, few enough that those who ask others do not wait long.
_TOGETHER = 64

_Asked = tuple[Sequence[str], Future[Any]]


class Alone:
    """Asks one adaptation at a time; the last one stays attached until the net is needed."""

    def __init__(self, bases: Bases) -> None:
        self.bases = bases
        self._thread = ThreadPoolExecutor(1, "sapwood-load")
        self._lock = threading.Lock()
        self._asked: dict[str, deque[_Asked]] = {}
        self._held = ExitStack()
        self._key = ""
        self._reader: Any = None
        self._ended = False

    def run(self, work: Callable[[], Any]) -> Future[Any]:
        """Run `work` while nothing is attached to the base's own net."""

        def alone() -> Any:
            self._let_go()
            return work()

        return self._thread.submit(alone)

    def ask(self, resident: Resident, texts: Sequence[str]) -> Future[Any]:
        """Return what an adaptation says of texts: probabilities (texts, labels), or Answers."""
        found: Future[Any] = Future()
        with self._lock:
            self._asked.setdefault(resident.key, deque()).append((texts, found))
        self._thread.submit(self._answer, resident)
        return found

    def shut(self) -> None:
        """Begin nothing more; harmless when done."""
        if not self._ended:
            self._ended = True
            self._thread.submit(self._let_go)
            self._thread.shutdown(wait=False)

    def _answer(self, resident: Resident) -> None:
        """Answer all that wait for an adaptation, as far as they fit together."""
        together: list[_Asked] = []
        with self._lock:
            waiting = self._asked.get(resident.key, deque())
            while waiting and (not together or _size(together) + len(waiting[0][0]) <= _TOGETHER):
                together.append(waiting.popleft())
        if not together:
            return  # an earlier call took them along
        try:
            rows = [Example(text=text) for texts, _ in together for text in texts]
            said = self._attached(resident).said(rows)
        except BaseException as error:
            for _, found in together:
                found.set_exception(error)
            return
        first = 0
        for texts, found in together:
            found.set_result(said[first : first + len(texts)])
            first += len(texts)

    def _attached(self, resident: Resident) -> Any:
        if self._key != resident.key:
            self._let_go()
            assert resident.adaptation is not None
            opened = asking(resident.adaptation, self.bases, stored=True)
            self._reader, self._key = self._held.enter_context(opened), resident.key
        return self._reader

    def _let_go(self) -> None:
        self._key, self._reader = "", None
        self._held.close()


def _size(asked: Sequence[_Asked]) -> int:
    return sum(len(texts) for texts, _ in asked)
