"""The thread that runs the batch: rows wait here for their places, changes for a quiet moment."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from sapwood.errors import ResourceError
from sapwood.pool.batch import Batch, Seat


class Runner:
    """Runs `batch` in a thread of its own until `end`; without one it only makes changes.

    `failure`: why the thread died, "" while it has not.
    """

    def __init__(self, batch: Batch | None) -> None:
        self.batch, self.failure = batch, ""
        self._cond = threading.Condition()
        self._todo: deque[Callable[[], None]] = deque()
        self._rows: deque[Seat] = deque()
        self._running, self._ended = 0, False
        self._thread = threading.Thread(target=self._run, name="sapwood-batch", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it runs and takes rows."""
        return self._thread.is_alive() and not self.failure and not self._ended

    @property
    def waiting(self) -> int:
        """Return how many rows wait for their places."""
        return len(self._rows)

    @property
    def running(self) -> int:
        """Return how many rows have theirs."""
        return self._running

    def end(self) -> int:
        """Take no more rows and cancel those that are left; return how many."""
        with self._cond:
            self._ended = True
            left = [*self._rows, *(self.batch.seats.values() if self.batch else ())]
            for seat in left:
                seat.cancelled = True
            self._cond.notify_all()
        self._thread.join(5.0)
        return len(left)

    def sit(self, seats: Sequence[Seat]) -> None:
        """Let rows wait for their places in the batch."""
        with self._cond:
            if not self.alive:
                raise self.over()
            self._rows.extend(seats)
            self._cond.notify_all()

    def over(self) -> ResourceError:
        """Return why nothing more is answered."""
        why = self.failure or "it is shutting down"
        return ResourceError(
            "E-RESOURCE-071", f"The server takes no requests: {why}.", fix="ask another one"
        )

    def wait_for_place(self, seat: Seat) -> None:
        """Wait until a row has left the queue."""
        with self._cond:
            self._cond.wait_for(lambda: seat not in self._rows)

    def between_steps(self, change: Callable[[], None]) -> None:
        """Run a change of the bank while no step runs, and return when it is made."""
        made = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                change()
            except BaseException as error:
                failed.append(error)
            finally:
                made.set()

        with self._cond:
            self._todo.append(run)
            self._cond.notify_all()
        while not made.wait(0.5):
            if not self._thread.is_alive():
                raise self.over()
        if failed:
            raise failed[0]

    def _run(self) -> None:
        """Run the batch until the end."""
        try:
            while self._next():
                if self.batch is not None:
                    self.batch.step()
        except BaseException as error:  # whatever it is: waiting requests must hear of it
            self.failure = f"its engine failed: {type(error).__name__}"  # no more: it may quote
            raise
        finally:
            self._end()

    def _next(self) -> bool:
        """Wait for work and give rows their places; return whether to go on."""
        with self._cond:
            self._running = len(self.batch.seats) if self.batch else 0
            if not self._running:
                self._cond.notify_all()
            self._cond.wait_for(lambda: self._todo or self._rows or self._running or self._ended)
            todo = list(self._todo)
            self._todo.clear()
        for change in todo:
            change()
        with self._cond:
            gone = [seat for seat in self._rows if seat.cancelled]
            for seat in gone:
                self._rows.remove(seat)
                seat.tell(seat)
            while self._rows and self.batch is not None and self.batch.free:
                self.batch.add(self._rows.popleft())
                self._running = len(self.batch.seats)
                self._cond.notify_all()
            if gone:
                self._cond.notify_all()
            return bool(self._rows or self._running or self._todo or not self._ended)

    def _end(self) -> None:
        """Tell all that wait that nothing more comes."""
        with self._cond:
            left = [*self._rows, *(self.batch.seats.values() if self.batch else ())]
            self._rows.clear()
            self._running = 0
            self._cond.notify_all()
        for seat in left:
            if not seat.done:
                seat.error = self.over()
            seat.tell(seat)
