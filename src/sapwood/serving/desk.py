"""What all routes share: the engine, the registry, the meters, and changes of what is served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sapwood.errors import ConfigError, SapwoodError
from sapwood.pool.wish import About, Engine
from sapwood.serving.meters import Meters
from sapwood.serving.registry import Loaded, Registry, check_name
from sapwood.serving.settings import Settings
from sapwood.serving.vetting import vet
from sapwood.serving.visits import Journal

T = TypeVar("T")


class Desk:
    """One served engine. Changes of what is served come one after the other, on a thread of theirs.

    `registry` is None where the served adaptations stay as they are.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        registry: Registry | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.engine, self.settings, self.registry = engine, settings, registry
        self.journal = journal or Journal()
        self.draining = threading.Event()
        self.meters = Meters(self.serves)
        self.meters.watch("sapwood_waiting", "Requests that wait for a place.", engine.waiting)
        self.meters.watch("sapwood_alive", "1 while the engine answers.", lambda: engine.alive)
        self._changes = ThreadPoolExecutor(1, "sapwood-change")
        self._signature = registry.signature() if registry else ()
        self._known = registry.loaded() if registry else {}
        self.aliases()  # a broken file is told now, not to whoever asks

    @property
    def ready(self) -> bool:
        """Whether requests are answered now."""
        return self.engine.alive and not self.draining.is_set()

    def serves(self, model: str) -> bool:
        """Tell whether a name is that of a served model."""
        return any(about.name == model for about in self.engine.models())

    def aliases(self) -> dict[str, str]:
        """Return what each alias means now."""
        return self.registry.aliases() if self.registry else {}

    async def model(self, name: str) -> str:
        """Return the model that a name in a request means: itself, or an alias' target.

        What another process loaded into the registry meanwhile is loaded here, too.
        """
        meant = self.aliases().get(name, name)  # first: what it means was loaded before it meant it
        if self._behind():
            following = self.change(self.follow)
            if not self.serves(meant):
                await following
        return meant

    async def catch_up(self) -> None:
        """Load and unload here what another process did."""
        if self._behind():
            await self.change(self.follow)

    def change(self, how: Callable[..., T], *given: Any) -> asyncio.Future[T]:
        """Run a change of what is served after those that were asked for before it."""
        return asyncio.get_running_loop().run_in_executor(self._changes, how, *given)

    def load(self, name: str, folder: str) -> About:
        """Serve an adaptation of the registry. Raises what `vet` and `Engine.open` raise."""
        registry = self.changeable()
        self.follow()
        check_name(name)
        if name in self.aliases():
            raise ConfigError(
                "E-CONFIG-304", f"'{name}' is an alias.", fix="load it under another name"
            )
        source = registry.folder(folder)
        registry.check_room()  # what cannot be kept is not begun
        known = self.serves(name)
        about = self.open(name, source)
        try:
            self._record(name, Loaded(folder=folder, digest=about.digest))
        except SapwoodError:
            if not known:
                self.engine.close(name)
            raise
        return about

    def open(self, name: str, folder: Path) -> About:
        """Check a folder's files, then let the engine check and serve what they hold."""
        vet(folder)
        return self.engine.open(name, folder)

    def unload(self, name: str) -> None:
        """Serve an adaptation no longer.

        Raises ConfigError: E-CONFIG-280 it is not served, E-CONFIG-304 an alias means it, or it is
        the base.
        """
        self.changeable()
        self.follow()
        if name == self.engine.base:
            raise ConfigError("E-CONFIG-304", "The base cannot be unloaded.", fix="end the server")
        pointing = sorted(alias for alias, target in self.aliases().items() if target == name)
        if pointing:
            raise ConfigError(
                "E-CONFIG-304",
                f"The alias '{pointing[0]}' means '{name[:64]}'.",
                fix="point it elsewhere first: POST /admin/alias",
            )
        if self.serves(name):
            self._record(name, None)  # first: where that fails, it is served as before
        self.engine.close(name)

    def changeable(self) -> Registry:
        """Return the registry. Raises ConfigError (E-CONFIG-303) where there is none."""
        if self.registry is None:
            raise ConfigError(
                "E-CONFIG-303",
                "This server has no registry, so what it serves stays as it is.",
                fix="start it with --registry FOLDER",
            )
        return self.registry

    def _record(self, name: str, loaded: Loaded | None) -> None:
        registry = self.changeable()
        registry.record(name, loaded)
        self._known = {**self._known, name: loaded}

    def _behind(self) -> bool:
        return self.registry is not None and self.registry.signature() != self._signature

    def follow(self) -> None:
        """Load and unload what another process did; what is refused here is told in the log."""
        registry = self.changeable()
        signature, now = registry.signature(), registry.loaded()
        for name, said in now.items():
            if name in self._known and self._known[name] == said:
                continue
            try:
                if said is not None:
                    self.open(name, registry.folder(said.folder))
                elif self.serves(name):
                    self.engine.close(name)
            except SapwoodError as error:
                self.journal.write("not_followed", model=name, code=error.code)
        # last, so that whoever asks for what is being loaded waits for it
        self._known, self._signature = now, signature
