"""What is served, and which of it is in memory: loaded when asked for, the least used let go."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sapwood.errors import ConfigError
from sapwood.evaluation import Bases, answers_of
from sapwood.pool.alone import Alone
from sapwood.pool.memory import Memory
from sapwood.pool.resident import Resident, key_of, prepare
from sapwood.pool.wish import About
from sapwood.registry import did_you_mean


@dataclass(frozen=True, kw_only=True)
class _Served:
    """One name that is served: the content behind it, and what is told of it."""

    folder: Path
    about: About

    @property
    def key(self) -> str:
        """Return the name of the content in the bank."""
        return key_of(self.about.name, self.about.digest)


class Shelf:
    """The adaptations of one base by name; `base` is its own name, `source` what it is loaded from.

    One that is asked for and not in memory is loaded by a thread of its own, from its folder.
    """

    def __init__(
        self,
        bases: Bases,
        base: str,
        source: str,
        memory: Memory,
    ) -> None:
        self.bases, self.base, self.source, self.memory = bases, base, source, memory
        self._cond = threading.Condition()
        self._served: OrderedDict[str, _Served] = OrderedDict()
        self._counts: dict[str, tuple[int, int]] = {}  # queries and tokens, by model
        self._coming: dict[str, Future[Resident]] = {}
        self._proven: set[str] = set()  # digests whose golden probes reproduced
        self.alone = Alone(bases)
        own = bases.get(source)
        self._base_about = About(
            name=base, kind="base", writes=memory.bank is not None, digest=own.sha256,
            created=int(time.time()),
        )  # fmt: skip

    def check(self, model: str) -> None:
        """Raise ConfigError (E-CONFIG-280) where nothing of this name is served."""
        if model != self.base and model not in self._served:
            names = [self.base, *self._served]
            raise ConfigError(
                "E-CONFIG-280",
                f"No model '{model[:80]}' is served here.{did_you_mean(model, names)}",
                fix="list them: GET /v1/models",
            )

    def open(self, name: str, folder: Path) -> About:
        """See `Engine`."""
        if name == self.base:
            raise ConfigError(
                "E-CONFIG-285", f"'{name}' is the name of the base.", fix="give it another name"
            )
        loading = partial(prepare, name, folder, self.bases, self.source, proven=False)
        resident = self.alone.run(loading).result()
        self._proven.add(resident.digest)
        served = _Served(folder=folder, about=_about(resident, self.base))
        self.memory.admit(resident)
        with self._cond:
            self._served[name] = served
        with self._cond:
            return self._now(served)

    def close(self, name: str) -> None:
        """See `Engine`."""
        self.check(name)
        with self._cond:
            self._served.pop(name, None)

    def about(self) -> tuple[About, ...]:
        """Return what is served, the base first."""
        with self._cond:
            served = list(self._served.values())
            queries, tokens = self._counts.get(self.base, (0, 0))
            own = replace(self._base_about, queries=queries, tokens=tokens)
            return (own, *map(self._now, served))

    def _now(self, served: _Served) -> About:
        """Return what is known of one adaptation, under the lock."""
        here = self.memory.get(served.key)
        queries, tokens = self._counts.get(served.about.name, (0, 0))
        size = here.bytes if here else 0
        return replace(
            served.about, resident=here is not None, bytes=size, queries=queries, tokens=tokens
        )

    def hold(self, model: str) -> Resident | None:
        """Return a model's adaptation, loaded and kept until `let_go`; None for the base."""
        if model == self.base:
            return None
        while True:
            self.check(model)
            with self._cond:
                served = self._served.get(model)
            if served is None:
                continue  # closed just now: `check` says so
            found = self.memory.hold(served.key)
            if found is not None:
                return found
            with self._cond:
                coming = self._coming.get(served.key)
                mine = coming is None
                if coming is None:
                    coming = self._coming[served.key] = self._loading(served)
            if mine:
                self._take(coming, served)
            else:
                wait((coming,))
                with self._cond:
                    self._cond.wait_for(lambda key=served.key: key not in self._coming)  # type: ignore[misc]

    def _loading(self, served: _Served) -> Future[Resident]:
        name, digest = served.about.name, served.about.digest
        proven = digest in self._proven
        return self.alone.run(
            partial(prepare, name, served.folder, self.bases, self.source, proven=proven)
        )

    def _take(self, coming: Future[Resident], served: _Served) -> None:
        """Wait for what is loaded and take it into memory."""
        try:
            resident = coming.result()
            if resident.digest != served.about.digest:
                raise ConfigError(
                    "E-CONFIG-286",
                    f"The folder of '{served.about.name}' has changed since it was opened.",
                    fix="open it again: POST /admin/load",
                )
            self.memory.admit(resident)
        finally:
            with self._cond:
                self._coming.pop(served.key, None)
                self._cond.notify_all()

    def count(self, model: str, tokens: int, *, queries: int = 1) -> None:
        """Count answered queries of a model."""
        with self._cond:
            before = self._counts.get(model, (0, 0))
            self._counts[model] = before[0] + queries, before[1] + tokens

    def shut(self) -> None:
        """Load nothing more."""
        self.alone.shut()


def _about(resident: Resident, base: str) -> About:
    made = resident.adaptation
    writes = resident.reader is not None or made is None
    own = {} if made is None else made.parts()
    answers = made is not None and (answers_of(made) or not hasattr(made.readout, "labels"))
    return About(
        name=resident.name,
        parent=base,
        task=made.task if made is not None else "",
        labels=() if made is None or answers else made.labels,
        parts=own or ({"method": resident.method.describe()} if resident.method else {}),
        writes=writes and not resident.plain,
        created=resident.created,
        digest=resident.digest,
    )
