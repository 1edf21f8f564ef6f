"""The engine that asks copies of a base on a Ray cluster, each model where it is in memory.

A request goes to a copy that has the adaptation already, if there is one with room; so each copy
gets adaptations of its own, and together they hold more of them than one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from sapwood.errors import ConfigError, ResourceError, SapwoodError
from sapwood.interfaces import Answer
from sapwood.pool.wish import About, Busy, Update, Wish
from sapwood.registry import did_you_mean
from sapwood.serving.replicas import Reply, Wanted, received

_LOOK = 0.02  # seconds between looks at whether all is answered
_WATCH = 1.0  # seconds between looks at the copies
_ENDING = 5.0  # seconds in which requests that are cancelled hear of it


class _Asked:
    """A request that is being answered; also its ticket."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.answer: Any = None  # what comes back, once it was sent off
        self.begun = self.cancelled = False

    def cancel(self) -> None:
        """See `Ticket`."""
        if not self.cancelled:
            self.cancelled = True
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self.answer is not None:
            self.answer.cancel()


class ClusterEngine:
    """See `Engine`. `handle`: of the copies; `running`: how many of them run.

    What is served is kept here; a copy opens an adaptation when it is first asked for it. `asked`
    counts which copy answered for which model.
    """

    def __init__(self, handle: Any, running: Callable[[], int]) -> None:
        self._handle, self._running = handle, running
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._now: set[_Asked] = set()
        self._counts: dict[str, tuple[int, int]] = {}
        self.asked = Counter(
            "sapwood_copy_requests", "Requests that each copy of the base answered.",
            ("model", "copy"), registry=None,
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="sapwood-ask", daemon=True).start()
        about = self._soon(self._reading("", handle.base)).result()
        self.base, self._alive = about.name, True
        self._served: dict[str, tuple[Wanted, About]] = {
            about.name: (Wanted(name=about.name), about)
        }
        threading.Thread(target=self._watch, name="sapwood-watch", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether a copy answers; Ray starts others in the place of those that died."""
        return self._alive

    def models(self) -> tuple[About, ...]:
        """See `Engine`; what is said of memory was so when the adaptation was opened."""
        with self._lock:
            found = [(about, *self._counts.get(name, (0, 0)))
                     for name, (_, about) in self._served.items()]  # fmt: skip
        return tuple(replace(about, queries=n, tokens=tokens) for about, n, tokens in found)

    def waiting(self) -> int:
        """See `Engine`."""
        return sum(not asked.begun for asked in tuple(self._now))

    def open(self, name: str, folder: Path) -> About:
        """See `Engine`; one copy checks the folder, the others when they open it."""
        handle = self._handle.options(multiplexed_model_id=name)
        about = self._soon(self._reading("", handle.open, name, folder)).result()
        assert isinstance(about, About)
        wanted = Wanted(name=name, folder=folder, digest=about.digest)
        with self._lock:
            self._served[name] = (wanted, about)
        return about

    def close(self, name: str) -> None:
        """See `Engine`; the copies forget it when others need its room."""
        self._wanted(name)
        with self._lock:
            self._served.pop(name, None)

    def write(self, wish: Wish, tell: Callable[[Update], None]) -> _Asked:
        """See `Engine`."""
        wanted, asked = self._wanted(wish.model), _Asked(self._loop)
        self._enter(asked)
        self._soon(self._writing(asked, wanted, wish, tell))
        return asked

    def classify(self, model: str, texts: Sequence[str]) -> Future[list[dict[str, float]]]:
        """See `Engine`."""
        return self._read("classify", model, texts)

    def extract(self, model: str, texts: Sequence[str]) -> Future[list[Answer]]:
        """See `Engine`."""
        return self._read("extract", model, texts)

    def embed(self, model: str, texts: Sequence[str]) -> Future[tuple[list[list[float]], int]]:
        """See `Engine`."""
        return self._read("embed", model, texts)

    def stop(self, seconds: float) -> int:
        """See `Engine`; the copies are ended by whoever started them."""
        self._ended.set()
        self._wait(seconds)
        left = tuple(self._now)
        for asked in left:
            asked.cancel()
        self._wait(_ENDING)
        return len(left)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._now and time.monotonic() < until:
            time.sleep(_LOOK)

    def _wanted(self, model: str) -> Wanted:
        """Return what is sent of a model. Raises ConfigError (E-CONFIG-280) for an unknown one."""
        with self._lock:
            found, names = self._served.get(model), list(self._served)
        if found is None:
            raise ConfigError(
                "E-CONFIG-280",
                f"No model '{model[:80]}' is served here.{did_you_mean(model[:80], names)}",
                fix="list them: GET /v1/models",
            )
        return found[0]

    def _enter(self, asked: _Asked) -> None:
        if self._ended.is_set():
            raise ResourceError(
                "E-RESOURCE-071",
                "The server takes no requests: it is shutting down.",
                fix="ask another one",
            )
        self._now.add(asked)

    def _soon(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _of(self, model: str) -> Any:
        """Return the handle that finds the copy for a model; any copy will do for the base."""
        return self._handle.options(multiplexed_model_id="" if model == self.base else model)

    def _read(self, how: str, model: str, texts: Sequence[str]) -> Future[Any]:
        wanted, asked = self._wanted(model), _Asked(self._loop)
        self._enter(asked)
        answer = self._soon(self._reading(model, self._of(model).read, how, wanted, list(texts)))
        answer.add_done_callback(lambda _: self._now.discard(asked))
        return answer

    async def _reading(self, model: str, ask: Any, *given: Any) -> Any:
        """Return what a copy replies. Raises SapwoodErrors."""
        answer = None
        try:
            answer = ask.remote(*given)
            reply = await answer
        except asyncio.CancelledError:
            if answer is not None:
                answer.cancel()
            raise
        except Exception as error:
            raise self._told(error) from None
        return self._value(model, reply)

    def _value(self, model: str, reply: Reply) -> Any:
        if reply.refusal is not None:
            raise reply.refusal.error()
        if model:
            self._count(model, 1, 0)
            self.asked.labels(model, reply.copy).inc()
        return reply.value

    def _count(self, model: str, queries: int, tokens: int) -> None:
        with self._lock:
            before = self._counts.get(model, (0, 0))
            self._counts[model] = before[0] + queries, before[1] + tokens

    async def _writing(
        self, asked: _Asked, wanted: Wanted, wish: Wish, tell: Callable[[Update], None]
    ) -> None:
        """Tell what a copy writes, and in any case an end of each sample."""

        def say(update: Update) -> None:
            try:
                tell(update)
            except Exception:  # whoever listened is gone
                asked.cancel()

        left, failed = dict.fromkeys(range(wish.sampling.samples), 0), None
        try:
            async for update, copy in self._updates(asked, wanted, wish):
                if not asked.begun:
                    self.asked.labels(wanted.name, copy).inc()
                asked.begun = True
                left[update.sample] = update.tokens
                if update.finish:
                    self._count(wanted.name, 1, left.pop(update.sample))
                say(update)
        except (Exception, asyncio.CancelledError) as error:
            failed = None if asked.cancelled else self._told(error)
        self._now.discard(asked)
        finish = "error" if failed else "cancelled"
        for sample, tokens in left.items():
            say(Update(sample=sample, tokens=tokens, finish=finish, error=failed))

    async def _updates(
        self, asked: _Asked, wanted: Wanted, wish: Wish
    ) -> AsyncIterator[tuple[Update, str]]:
        """Yield updates and the copy that they come from."""
        if asked.cancelled:
            return
        asked.answer = self._of(wanted.name).options(stream=True).write.remote(wanted, wish)
        async for reply in asked.answer:
            for update, refusal in self._value("", reply):
                yield received(update, refusal), reply.copy

    def _told(self, error: BaseException) -> SapwoodError:
        """Return what is told of an error: nothing that it may quote."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        if isinstance(error, SapwoodError):
            return error
        if isinstance(error, BackPressureError):
            return Busy(self.waiting(), 1.0)
        if isinstance(error, RayActorError | DeploymentUnavailableError):
            return ResourceError(
                "E-RESOURCE-071",
                "The server takes no requests: the copy of the base that was asked has ended.",
                fix="ask again",
            )
        kind = type(getattr(error, "cause", None) or error).__name__
        return ResourceError("E-RESOURCE-073", f"The request could not be answered: {kind}.")

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH):
            try:
                self._alive = self._running() > 0
            except Exception:  # the cluster does not answer
                self._alive = False
