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
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import Counter

from sapwood.errors import ConfigError, ResourceError, SapwoodError
from sapwood.interfaces import Answer
from sapwood.pool.wish import About, Busy, Found, Update, Wish
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
        with suppress(Exception):  # it may have failed just now
            if self.answer is not None:
                self.answer.cancel()


class _Line:
    """The way to the copies: a loop of its own that asks, and errors as SapwoodErrors."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="sapwood-ask", daemon=True).start()

    def soon(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run `work` on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def to(self, held: str) -> Any:
        """Return the handle that finds the copy which holds a model; with "" any will do."""
        return self._handle.options(multiplexed_model_id=held)

    async def ask(self, method: Any, *given: Any) -> Reply:
        """Return what a copy replies; its value is no refusal. Raises SapwoodErrors."""
        answer = None
        try:
            answer = method.remote(*given)
            return _accepted(await answer)
        except asyncio.CancelledError:
            with suppress(Exception):
                if answer is not None:
                    answer.cancel()
            raise
        except Exception as error:
            raise _told(error) from None

    async def stream(self, asked: _Asked, wanted: Wanted, wish: Wish) -> AsyncIterator[Reply]:
        """Yield what a copy writes until it is cancelled. Raises SapwoodErrors."""
        if asked.cancelled:
            return
        try:
            asked.answer = self.to(wanted.held).options(stream=True).write.remote(wanted, wish)
            async for reply in asked.answer:
                yield _accepted(reply)
        except (Exception, asyncio.CancelledError) as error:
            if not asked.cancelled:
                raise _told(error) from None


def _accepted(reply: Reply) -> Reply:
    if reply.refusal is not None:
        raise reply.refusal.error()
    return reply


def _told(error: BaseException) -> SapwoodError:
    """Return what is told of an error: nothing that it may quote."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    if isinstance(error, SapwoodError):
        return error
    if isinstance(error, BackPressureError):
        return Busy(int(error.args[0]), 1.0)
    if isinstance(error, RayActorError | DeploymentUnavailableError):
        return ResourceError(
            "E-RESOURCE-071",
            "The server takes no requests: the copy of the base that was asked has ended.",
            fix="ask again",
        )
    kind = type(getattr(error, "cause", None) or error).__name__
    return ResourceError("E-RESOURCE-073", f"The request could not be answered: {kind}.")


class _Served:
    """What is served by name, the base first, and how often it was asked."""

    def __init__(self, base: About) -> None:
        self._lock = threading.Lock()
        self._known = {base.name: (Wanted(name=base.name), base)}
        self._counts: dict[str, tuple[int, int]] = {}  # queries and tokens

    def abouts(self) -> tuple[About, ...]:
        """Return what is known of all."""
        with self._lock:
            found = [(about, self._counts.get(name, (0, 0)))
                     for name, (_, about) in self._known.items()]  # fmt: skip
        return tuple(replace(about, queries=n, tokens=tokens) for about, (n, tokens) in found)

    def wanted(self, model: str) -> Wanted:
        """Return what is sent of a model. Raises ConfigError (E-CONFIG-280) for an unknown one."""
        with self._lock:
            found, names = self._known.get(model), list(self._known)
        if found is None:
            raise ConfigError(
                "E-CONFIG-280",
                f"No model '{model[:80]}' is served here.{did_you_mean(model[:80], names)}",
                fix="list them: GET /v1/models",
            )
        return found[0]

    def put(self, wanted: Wanted, about: About | None) -> None:
        """Serve a model from now on, or no longer (None)."""
        with self._lock:
            if about is not None:
                self._known[wanted.name] = (wanted, about)
            else:
                self._known.pop(wanted.name, None)

    def count(self, model: str, tokens: int, *, queries: int = 1) -> None:
        """Count answered queries."""
        with self._lock:
            before = self._counts.get(model, (0, 0))
            self._counts[model] = before[0] + queries, before[1] + tokens


class ClusterEngine:
    """See `Engine`. `handle`: of the copies; `running`: how many of them run.

    What is served is kept here; a copy opens an adaptation when it is first asked for it. `asked`
    counts which copy answered for which model.
    """

    def __init__(self, handle: Any, running: Callable[[], int]) -> None:
        self._line, self._running = _Line(handle), running
        self._ended = threading.Event()
        self._now: set[_Asked] = set()
        self.asked = Counter(
            "sapwood_copy_requests", "Requests that each copy of the base answered.",
            ("model", "copy"), registry=None,
        )  # fmt: skip
        about = self._about(handle.base)
        self.base, self._alive, self._served = about.name, True, _Served(about)
        threading.Thread(target=self._watch, name="sapwood-watch", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether a copy answers; Ray starts others in the place of those that died."""
        return self._alive

    def models(self) -> tuple[About, ...]:
        """See `Engine`; what is said of memory was so when the adaptation was opened."""
        return self._served.abouts()

    def waiting(self) -> int:
        """See `Engine`."""
        return sum(not asked.begun for asked in tuple(self._now))

    def open(self, name: str, folder: Path) -> About:
        """See `Engine`; one copy checks the folder, the others when they open it."""
        about = self._about(self._line.to(name).open, name, folder)
        self._served.put(Wanted(name=name, folder=folder, digest=about.digest), about)
        return about

    def close(self, name: str) -> None:
        """See `Engine`; the copies forget it when others need its room."""
        self._served.put(self._served.wanted(name), None)

    def write(self, wish: Wish, tell: Callable[[Update], None]) -> _Asked:
        """See `Engine`."""
        wanted, asked = self._served.wanted(wish.model), _Asked(self._line.loop)
        self._enter(asked)
        self._line.soon(self._writing(asked, wanted, wish, tell))
        return asked

    def classify(self, model: str, texts: Sequence[str]) -> Future[Found[dict[str, float]]]:
        """See `Engine`."""
        return self._read("classify", model, texts)

    def extract(self, model: str, texts: Sequence[str]) -> Future[Found[Answer]]:
        """See `Engine`."""
        return self._read("extract", model, texts)

    def embed(self, model: str, texts: Sequence[str]) -> Future[Found[list[float]]]:
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

    def _enter(self, asked: _Asked) -> None:
        if self._ended.is_set():
            raise ResourceError(
                "E-RESOURCE-071",
                "The server takes no requests: it is shutting down.",
                fix="ask another one",
            )
        self._now.add(asked)

    def _about(self, method: Any, *given: Any) -> About:
        about = self._line.soon(self._line.ask(method, *given)).result().value
        assert isinstance(about, About)
        return about

    def _read(self, how: str, model: str, texts: Sequence[str]) -> Future[Any]:
        wanted, asked = self._served.wanted(model), _Asked(self._line.loop)
        self._enter(asked)
        answer = asked.answer = self._line.soon(self._reading(how, wanted, list(texts)))
        answer.add_done_callback(lambda _: self._now.discard(asked))
        return answer

    async def _reading(self, how: str, wanted: Wanted, texts: list[str]) -> Any:
        reply = await self._line.ask(self._line.to(wanted.held).read, how, wanted, texts)
        self._served.count(wanted.name, reply.value.written, queries=len(texts))
        self.asked.labels(wanted.name, reply.copy).inc()
        return reply.value

    async def _writing(
        self, asked: _Asked, wanted: Wanted, wish: Wish, tell: Callable[[Update], None]
    ) -> None:
        """Tell what a copy writes, and in any case an end of each sample."""

        def say(update: Update) -> None:
            try:
                tell(update)
            except Exception:  # whoever listened is gone
                asked.cancel()

        left = dict.fromkeys(range(wish.sampling.samples), 0)
        failed: SapwoodError | None = None
        try:
            async for reply in self._line.stream(asked, wanted, wish):
                if not asked.begun:
                    self.asked.labels(wanted.name, reply.copy).inc()
                asked.begun = True
                for update in (received(*one) for one in reply.value):
                    left[update.sample] = update.tokens
                    if update.finish:
                        self._served.count(wanted.name, left.pop(update.sample))
                    say(update)
        except SapwoodError as error:
            failed = error
        self._now.discard(asked)
        finish = "error" if failed else "cancelled"
        for sample, tokens in left.items():
            say(Update(sample=sample, tokens=tokens, finish=finish, error=failed))

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH):
            try:
                self._alive = self._running() > 0
            except Exception:  # the cluster does not answer
                self._alive = False
