"""One folder of adaptations by name, and what of it is served: the only way from a name to a file.

A request can only ever say a name. `models.json` keeps what was loaded and unloaded, `aliases.json`
which adaptation each alias means, with what it meant before; both are written whole or not at all,
under a lock, so that several processes can serve one registry.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError
from sapwood.files import told, write_json
from sapwood.registry import did_you_mean
from sapwood.serving.disk import check_room

_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,63}")
_HISTORY = 100  # meanings of an alias that can be gone back to
_ENTRY = 512  # bytes that one more entry needs at most: two names and a digest
ALIASES, MODELS = "aliases.json", "models.json"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A name that was loaded: the subfolder it is read from, and the digest of its content."""

    folder: str
    digest: str


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it is one. Raises ConfigError (E-CONFIG-302).

    It has 1 to 64 of a-z, 0-9, ".", "_" and "-", and does not begin with ".".
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "E-CONFIG-302",
            f"{ascii(name)[:80]} is no {what} of an adaptation.",
            fix="use 1 to 64 of the characters a-z, 0-9, '.', '_' and '-', not '.' first",
        )
    return name


class Registry:
    """A folder whose subfolders are adaptations. Raises ConfigError (E-CONFIG-303) without one."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ConfigError(
                "E-CONFIG-303", f"There is no registry {root}.", fix="name a folder that is there"
            )
        self.root = Path(os.path.realpath(root))
        self._models = _Kept(self.root / MODELS, _is_loaded)
        self._aliases = _Kept(self.root / ALIASES, _is_history)

    def names(self) -> tuple[str, ...]:
        """Return the subfolders whose names are names, in order."""
        with os.scandir(self.root) as entries:
            found = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        return tuple(sorted(name for name in found if _NAME.fullmatch(name)))

    def folder(self, name: str) -> Path:
        """Return the subfolder of this name, which lies in the registry itself.

        Raises ConfigError: E-CONFIG-302 no name, E-CONFIG-303 there is no such folder here.
        """
        check_name(name)
        names = self.names()  # as they are written, on file systems that do not tell a from A too
        path = self.root / name
        real = Path(os.path.realpath(path))
        inside = os.path.commonpath([self.root, real]) == str(self.root) and real == path
        if name not in names or not inside:
            raise ConfigError(
                "E-CONFIG-303",
                f"The registry has no folder '{name}'.{did_you_mean(name, names)}",
                fix="put the adaptation's folder into the registry first",
            )
        return path

    def loaded(self) -> dict[str, Loaded | None]:
        """Return what was loaded by name, None for what was unloaded."""
        found = self._models.read()
        return {
            name: Loaded(folder=str(said["folder"]), digest=str(said["digest"])) if said else None
            for name, said in found.items()
        }

    def to_serve(self) -> dict[str, str]:
        """Return the subfolder of each name that is served: all but what was unloaded."""
        loaded = self.loaded()
        found = {name: name for name in self.names() if loaded.get(name, name) is not None}
        return found | {name: said.folder for name, said in loaded.items() if said}

    def record(self, name: str, loaded: Loaded | None) -> None:
        """Keep that a name was loaded, or unloaded (None)."""
        said = {"folder": loaded.folder, "digest": loaded.digest} if loaded else None
        self._models.change(lambda found: {**found, name: said})

    def check_room(self) -> None:
        """Raise ResourceError where nothing more can be kept: the disk is full, or read-only."""
        self._models.check_room()

    def aliases(self) -> dict[str, str]:
        """Return what each alias means now."""
        return {alias: str(said[-1]["target"]) for alias, said in self._aliases.read().items()}

    def history(self, alias: str) -> tuple[str, ...]:
        """Return what an alias has meant, what it means now at the end; none for no alias."""
        return tuple(str(entry["target"]) for entry in self._aliases.read().get(alias, ()))

    def point(self, alias: str, target: str | None) -> None:
        """Let an alias mean another adaptation from now on, or nothing (None)."""

        def change(found: Mapping[str, Any]) -> dict[str, Any]:
            others = {name: said for name, said in found.items() if name != alias}
            if target is None:
                return others
            entry = {"target": target, "since": int(time.time())}
            return {**others, alias: [*found.get(alias, ()), entry][-_HISTORY:]}

        self._aliases.change(change)

    def roll_back(self, alias: str, expected: str) -> None:
        """Let an alias mean what it meant before, `expected`; see `previous`.

        Raises ConfigError (E-CONFIG-304) when it was changed meanwhile.
        """

        def change(found: Mapping[str, Any]) -> dict[str, Any]:
            said = found.get(alias, ())
            if len(said) < 2 or said[-2]["target"] != expected:
                raise ConfigError(
                    "E-CONFIG-304", f"The alias '{alias}' was just changed.", fix="look again"
                )
            return {**found, alias: said[:-1]}

        self._aliases.change(change)

    def previous(self, alias: str) -> str:
        """Return what an alias meant before. Raises ConfigError (E-CONFIG-304)."""
        known = self.aliases()
        if alias not in known:
            raise ConfigError(
                "E-CONFIG-304",
                f"There is no alias '{alias[:64]}'.{did_you_mean(alias, known)}",
                fix="make one: POST /admin/alias",
            )
        history = self.history(alias)
        if len(history) < 2:
            raise ConfigError(
                "E-CONFIG-304",
                f"The alias '{alias}' never meant anything but '{history[-1]}'.",
                fix="point it elsewhere: POST /admin/alias",
            )
        return history[-2]

    def signature(self) -> tuple[int, ...]:
        """Return what differs after each load and unload, in whatever process it was."""
        return self._models.signature()


def _is_loaded(said: Any) -> bool:
    return said is None or (isinstance(said, dict) and {"folder", "digest"} <= set(said))


def _is_history(said: Any) -> bool:
    entries = isinstance(said, list) and said
    return bool(entries) and all(isinstance(e, dict) and "target" in e for e in entries or ())


class _Kept:
    """One JSON object on disk, read again when it was replaced; `fits` tells a sound entry."""

    def __init__(self, path: Path, fits: Callable[[Any], bool]) -> None:
        self._path, self._fits = path, fits
        self._seen: tuple[tuple[int, ...] | None, dict[str, Any]] = (None, {})

    def signature(self) -> tuple[int, ...]:
        """Return what a replaced file differs by; () where there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> dict[str, Any]:
        """Return the content, {} where there is none; what it was before where it broke meanwhile.

        Raises ConfigError (E-CONFIG-305) for one that was never right.
        """
        signature = self.signature()
        if signature != self._seen[0]:
            try:
                self._seen = (signature, self._content() if signature else {})
            except ConfigError:
                if self._seen[0] is None:
                    raise
        return self._seen[1]

    def change(self, how: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        """Replace the content by what `how` makes of it, one process at a time."""
        from filelock import FileLock

        lock = FileLock(self._path.with_name(f".{self._path.name}.lock"), timeout=30)
        with told(self._path), lock:
            changed = how(self.read())
            write_json(self._path, changed)
            self._seen = (self.signature(), changed)

    def check_room(self) -> None:
        """Raise what `change` would where there is no room for one entry more."""
        size = sum(self.signature()[2:])
        check_room(self._path, size + _ENTRY)

    def _content(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not all(map(self._fits, found.values())):
            raise ConfigError(
                "E-CONFIG-305",
                f"{self._path.name} of the registry is not what a server wrote.",
                fix=f"put it right, or remove it: {self._path}",
            )
        return found
