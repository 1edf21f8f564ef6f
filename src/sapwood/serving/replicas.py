"""One of several copies of a base on a Ray cluster, and what travels to it and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError, ResourceError, SapwoodError
from sapwood.pool.wish import About, Update, Wish
from sapwood.serving.vetting import vet


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A SapwoodError on its way between processes: errors do not travel as they are."""

    kind: type[SapwoodError]
    said: Mapping[str, Any]

    @staticmethod
    def of(error: SapwoodError) -> Refusal:
        """Return what is sent of an error."""
        return Refusal(kind=type(error), said=dict(vars(error)))

    def error(self) -> SapwoodError:
        """Return the error again."""
        made = self.kind.__new__(self.kind, self.said["what"])
        vars(made).update(self.said)
        return made


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A model that is asked: the folder and the content of an adaptation, None for the base."""

    name: str
    folder: Path | None = None
    digest: str = ""

    @property
    def held(self) -> str:
        """Return what a copy that has it is found by: "" for the base, which all have."""
        return self.name if self.folder else ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a copy sends: a value or a refusal, and which copy it is."""

    value: Any = None
    refusal: Refusal | None = None
    copy: str = ""


class Replica:
    """One copy of the base, with the adaptations that it was asked for.

    A base that cannot be loaded is told to whoever asks: an error at the start would be tried again
    and again.
    """

    def __init__(self, base: str, device: str, dtype: str, room: Mapping[str, Any]) -> None:
        from ray import serve

        from sapwood.launch import choose_runtime, raise_malloc_thresholds
        from sapwood.pool.pool import open_pool

        raise_malloc_thresholds()
        self._copy = str(serve.get_replica_context().replica_id.unique_id)
        self._digests: dict[str, str] = {}  # of what the pool serves, by name
        self._opening = asyncio.Lock()
        self._failed: SapwoodError | None = None
        try:
            self._pool = open_pool(base, {}, runtime=choose_runtime(device, dtype), **room)
        except SapwoodError as error:
            self._failed = error

        async def held(name: str) -> str:
            return name

        # What is marked as held draws further requests; the pool itself decides what is in memory.
        self._hold = serve.multiplexed(max_num_models_per_replica=room["resident"])(held)

    def check_health(self) -> None:
        """Raise ResourceError where the batch died, so that Ray starts another copy."""
        if self._failed is None and not self._pool.alive:
            raise ResourceError("E-RESOURCE-071", "The thread that answers has died.")

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)
        if pool is not None:
            pool.stop(0)

    async def base(self) -> Reply:
        """Reply with the base's About."""
        return await self._reply(self._base())

    async def open(self, name: str, folder: Path) -> Reply:
        """Check and open an adaptation, in the place of one of that name; reply with its About."""
        return await self._reply(self._open(name, folder))

    async def read(self, how: str, wanted: Wanted, texts: Sequence[str]) -> Reply:
        """Reply with what `how` of the engine gives: "classify", "extract" or "embed"."""
        return await self._reply(self._read(how, wanted, texts))

    async def write(self, wanted: Wanted, wish: Wish) -> AsyncIterator[Reply]:
        """Yield updates, as many at a time as there are; see `sent`."""
        loop = asyncio.get_running_loop()
        updates: asyncio.Queue[Update] = asyncio.Queue()
        ticket, left = None, wish.sampling.samples
        try:
            await self._have(wanted)
            ticket = self._pool.write(wish, lambda update: _put(loop, updates, update))
            while left:
                come = [await updates.get()]
                while not updates.empty():
                    come.append(updates.get_nowait())
                left -= sum(bool(update.finish) for update in come)
                yield Reply(value=[sent(update) for update in come], copy=self._copy)
        except SapwoodError as error:
            yield Reply(refusal=Refusal.of(error), copy=self._copy)
        finally:
            if ticket is not None:
                ticket.cancel()

    async def _reply(self, work: Coroutine[Any, Any, Any]) -> Reply:
        try:
            return Reply(value=await work, copy=self._copy)
        except SapwoodError as error:
            return Reply(refusal=Refusal.of(error), copy=self._copy)

    async def _base(self) -> About:
        self._check()
        return self._pool.models()[0]

    async def _open(self, name: str, folder: Path) -> About:
        self._check()
        async with self._opening:
            about = await self._load(name, folder)
        await self._hold(name)
        return about

    async def _load(self, name: str, folder: Path) -> About:
        await asyncio.to_thread(vet, folder)
        about = await asyncio.to_thread(self._pool.open, name, folder)
        self._digests[name] = about.digest
        return about

    async def _read(self, how: str, wanted: Wanted, texts: Sequence[str]) -> Any:
        await self._have(wanted)
        return await asyncio.wrap_future(getattr(self._pool, how)(wanted.name, texts))

    async def _have(self, wanted: Wanted) -> None:
        """Open what is wanted, unless the pool serves just that."""
        self._check()
        if wanted.folder is None:
            return
        await self._hold(wanted.name)
        async with self._opening:
            known = self._digests.get(wanted.name)
            if known != wanted.digest:
                known = (await self._load(wanted.name, wanted.folder)).digest
        if known != wanted.digest:
            raise ConfigError(
                "E-CONFIG-286",
                f"The folder of '{wanted.name}' has changed since it was opened.",
                fix="open it again: POST /admin/load",
            )

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed


def _put(loop: asyncio.AbstractEventLoop, updates: asyncio.Queue[Update], update: Update) -> None:
    loop.call_soon_threadsafe(updates.put_nowait, update)


def sent(update: Update) -> tuple[Update, Refusal | None]:
    """Return an update without its error, and the error as it travels."""
    if update.error is None:
        return update, None
    return replace(update, error=None), Refusal.of(update.error)


def received(update: Update, refusal: Refusal | None) -> Update:
    """Return the update that was sent."""
    return update if refusal is None else replace(update, error=refusal.error())
