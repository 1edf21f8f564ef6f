"""From an address to the end of the process: listening, ending cleanly, and many processes at once.

SIGTERM or Ctrl-C: nothing new is taken, running requests get their time, what is left is cancelled;
a second signal waits no longer. An engine whose thread died ends the process with an error.
"""

from __future__ import annotations

import errno
import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from sapwood.errors import ConfigError, ResourceError
from sapwood.serving.desk import Desk
from sapwood.serving.settings import Settings

DEAD = ResourceError.exit_code
_LOOK = 0.2  # seconds between looks at the engine and the signals
_START = 60.0  # seconds that a listening socket may take to be served


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens; port 0 takes any. Raises ConfigError (E-CONFIG-308)."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host, settings.port))
        made.listen(1024)
    except OSError as error:
        made.close()
        raise ConfigError(
            "E-CONFIG-308",
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or error}.",
            fix=_way_out(error),
        ) from None
    return made


def _way_out(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "give --host an address of this machine, such as 127.0.0.1"
    if error.errno == errno.EACCES:
        return "choose a --port from 1024 on; lower ones belong to the system"
    return "choose another --port; 0 takes any that is free"


def address_of(listening: socket.socket) -> str:
    """Return the URL that a socket answers."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(desk: Desk, app: Any, listening: socket.socket, ready: Callable[[], None]) -> int:
    """Serve until a signal or the engine's end; return the exit code. Runs in the main thread.

    `ready` is called once requests are answered.
    """
    import uvicorn

    config = uvicorn.Config(
        app, log_config=None, lifespan="off", access_log=False, server_header=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="sapwood-http")
    with _signals() as asked:
        thread.start()
        until = time.monotonic() + _START
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        if server.started:
            ready()
        while desk.engine.alive and thread.is_alive() and not asked:
            time.sleep(_LOOK)
        died = not desk.engine.alive or not thread.is_alive()
        desk.draining.set()
        cancelled = _stopped(desk, asked, 0.0 if died else desk.settings.drain)
        server.should_exit = True
        thread.join(8)
    desk.journal.write("end", cancelled=cancelled, died=died)
    return DEAD if died else 0


def _stopped(desk: Desk, asked: Sequence[int], seconds: float) -> int:
    """Let the engine end; a second signal ends the waiting. Return how many were cancelled."""
    left: list[int] = []
    ending = threading.Thread(target=lambda: left.append(desk.engine.stop(seconds)), daemon=True)
    ending.start()
    until = time.monotonic() + seconds + 10
    while ending.is_alive() and len(asked) < 2 and time.monotonic() < until:
        ending.join(_LOOK)
    return left[0] if left else desk.engine.stop(0)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yield the list of SIGTERMs and SIGINTs so far, instead of what they usually do.

    Ctrl-C reaches every process of a terminal; one of several hears of it from the first.
    """
    asked: list[int] = []
    kinds = (signal.SIGTERM, signal.SIGINT)
    one_of_several = multiprocessing.parent_process() is not None

    def hear(number: int, frame: Any) -> None:
        if not (one_of_several and number == signal.SIGINT):
            asked.append(number)

    before = [signal.signal(kind, hear) for kind in kinds]
    try:
        yield asked
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def serve_many(
    work: Callable[[int, socket.socket], int],
    count: int,
    listening: socket.socket,
    seconds: float,
) -> int:
    """Run `work(number, socket)` in `count` processes that share a socket; return the exit code.

    `work` is a function of a module. A signal is passed on to all, and they get `seconds`. One that
    ends by itself ends the others: half a server would look like a whole one.
    """
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work, args=(work, number, listening), name=f"sapwood-{number}")
        for number in range(count)
    ]
    with _signals() as asked:
        for worker in workers:
            worker.start()
        passed = 0
        while all(worker.is_alive() for worker in workers):
            wait([worker.sentinel for worker in workers], _LOOK)
            if len(asked) > passed:
                passed = len(asked)
                for worker in workers:
                    worker.terminate()
                if passed > 1:
                    break
        until = time.monotonic() + seconds + 20
        for worker in workers:
            if not passed:
                worker.terminate()
            worker.join(max(0.0, until - time.monotonic()))
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
    codes = [worker.exitcode or 0 for worker in workers]
    return max(map(abs, codes))


def _work(work: Callable[[int, socket.socket], int], number: int, listening: socket.socket) -> None:
    raise SystemExit(work(number, listening))
