"""Tasks done in this process or in several, with results in the order of the tasks.

A worker ends with its parent, however that ends; the work it was at is lost and done again.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from sapwood.errors import ConfigError, DataError, ModelError, ResourceError, SapwoodError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 2  # tasks a worker that wait: one is read while one is done, and memory stays bounded
ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, ModelError, ResourceError)}


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A SapwoodError on its way between processes, which its own form does not survive."""

    kind: str
    said: dict[str, Any]

    def error(self) -> SapwoodError:
        kind = ERRORS.get(self.kind, SapwoodError)
        said = self.said
        return kind(said["error"], said["what"], details=said["details"], fix=said["fix"])


def each(function: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """Yield `function(task)` for every task, in order, with `workers` processes (1: this one).

    `tasks` is read no further ahead than the workers need. Raises what a task raised, and
    ResourceError E-RESOURCE-061 where a worker was ended from outside.
    """
    if workers <= 1:
        for task in tasks:
            yield function(task)
        return
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    waiting: deque[Future[R | _Failure]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(_guarded, function, task))
            if len(waiting) >= AHEAD * workers:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenProcessPool:
        raise ResourceError(
            "E-RESOURCE-061",
            "A worker was ended from outside; most often memory was short.",
            fix="run the same command again with fewer --workers: it goes on where it stopped",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Any) -> Any:
    found = future.result()
    if isinstance(found, _Failure):
        raise found.error()
    return found


def _guarded(function: Callable[[T], R], task: T) -> R | _Failure:
    try:
        return function(task)
    except SapwoodError as error:
        return _Failure(kind=type(error).__name__, said=error.to_json())


def _begin() -> None:
    """Make ready a worker: one thread, deaf to Ctrl-C, gone when its parent is."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
