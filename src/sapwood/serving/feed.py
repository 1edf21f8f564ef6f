"""The updates of wishes, brought from the engine's thread to the one that talks to a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.types import Receive

from sapwood.errors import ResourceError, SapwoodError
from sapwood.pool.wish import Engine, Ticket, Update, Wish
from sapwood.serving.meters import Meters
from sapwood.serving.refusals import ClientGone
from sapwood.serving.visits import Visit

T = TypeVar("T")


class Feed:
    """What a list of wishes gets, as (number of the choice, update), choices of a wish together.

    It counts what is waited for. `cancel` is to be called in any case, and is harmless at the end.
    """

    def __init__(self, wishes: Sequence[Wish], visit: Visit, meters: Meters) -> None:
        self._wishes, self._visit, self._meters = wishes, visit, meters
        self._updates: asyncio.Queue[tuple[int, Update, float]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._last: dict[int, tuple[float, int]] = {}  # when, and how many tokens there were
        self._read: dict[int, tuple[int, int]] = {}  # tokens of a prompt, and cached ones

    def begin(self, engine: Engine) -> None:
        """Ask for all of them, or for none. Raises what `Engine.write` raises."""
        loop, first = asyncio.get_running_loop(), 0
        try:
            for wish in self._wishes:
                self._tickets.append(engine.write(wish, self._teller(loop, first)))
                first += wish.sampling.samples
        except SapwoodError:
            self.cancel()
            raise

    async def __aiter__(self) -> AsyncIterator[tuple[int, Update]]:
        left = sum(wish.sampling.samples for wish in self._wishes)
        while left:
            choice, update, when = await self._updates.get()
            self._count(choice, update, when)
            if update.error is not None:
                raise update.error
            if update.finish == "cancelled":
                raise ResourceError(
                    "E-RESOURCE-077", "This server is shutting down.", fix="ask again"
                )
            left -= bool(update.finish)
            yield choice, update

    def cancel(self) -> None:
        """Let the engine spend no more on it."""
        for ticket in self._tickets:
            ticket.cancel()

    def _teller(self, loop: asyncio.AbstractEventLoop, first: int) -> Callable[[Update], None]:
        def tell(update: Update) -> None:
            told = (first + update.sample, update, time.perf_counter())
            try:
                loop.call_soon_threadsafe(self._updates.put_nowait, told)
            except RuntimeError:  # the loop has ended, and with it whoever waited
                self.cancel()

        return tell

    def _count(self, choice: int, update: Update, when: float) -> None:
        visit = self._visit
        wish = self._wish_of(choice)
        before, tokens = self._last.get(choice, (0.0, 0))
        if update.tokens > tokens:
            if visit.first is None:
                visit.first = when - visit.arrived
            if tokens:
                pace = (when - before) / (update.tokens - tokens)
                self._meters.between.labels(self._meters.name_of(visit.model)).observe(pace)
            self._last[choice] = (when, update.tokens)
        visit.written += update.tokens - tokens
        if update.prompt:
            self._read[wish] = (update.prompt, update.cached)
            visit.prompt = sum(prompt for prompt, _ in self._read.values())
            visit.cached = sum(cached for _, cached in self._read.values())

    def _wish_of(self, choice: int) -> int:
        """Return the number of the wish that a choice belongs to; all have as many samples."""
        return choice // self._wishes[0].sampling.samples


async def left(receive: Receive) -> None:
    """Return once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_there(receive: Receive, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return what `work` returns, ended when the client leaves or so many seconds are over.

    Raises ClientGone, and ResourceError (E-RESOURCE-076) when it takes too long.
    """
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left(receive))
    try:
        await asyncio.wait(
            {doing, leaving}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
        )
        if doing.done():
            return doing.result()
        if leaving.done():
            raise ClientGone
        raise too_late()
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


def too_late() -> ResourceError:
    """Return what a client hears whose time is over."""
    return ResourceError(
        "E-RESOURCE-076",
        "The answer took longer than a request may.",
        fix="ask for fewer tokens, or for less at once",
    )
