"""Stored contexts: encoded prefixes as files that a second process maps instead of encoding.

One safetensors file each. Opening maps it: nothing is read before attention touches it, and
processes that use the same context share its pages. A file is named and checked by the digest of
everything its content depends on (`Decoder.stored_key`), so it never serves other weights.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sapwood.errors import ModelError
from sapwood.files import told
from sapwood.models.prefixes import Prefix

SCHEMA = "sapwood.prefix/1"
# Half-written files of a killed process are cleared when nothing has touched them for so long.
_STALE_SECONDS = 3600


def save_prefix(prefix: Prefix, path: Path, key: str) -> None:
    """Write `prefix` to `path` under `key`, whole or not at all.

    Raises ResourceError when the disk refuses.
    """
    tensors = {"ids": torch.tensor(prefix.ids, dtype=torch.long)}
    for number, pair in enumerate(prefix.layers):
        for name, tensor in zip(("key", "value"), pair, strict=True):
            tensors[f"{name}.{number}"] = tensor.detach().contiguous()
    if prefix.positions is not None:
        tensors["positions"] = prefix.positions.contiguous()
    facts = {"schema": SCHEMA, "key": key, "exact": json.dumps(prefix.exact)}
    facts["start"] = json.dumps(prefix.start)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                save_file(tensors, part, metadata=facts)
            except SafetensorError as error:  # how the library passes on what the system refused
                raise OSError(*_system_error(str(error))) from error
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def open_prefix(path: Path, key: str, device: str | torch.device = "cpu") -> Prefix:
    """Return the prefix stored at `path`; on the CPU its memory is the mapped file.

    Raises ModelError: E-MODEL-060 no such file, E-MODEL-061 damaged or not a stored context,
    E-MODEL-062 it was made under another `key`: other weights, number format or tokens.
    """
    if not path.is_file():
        raise ModelError(
            "E-MODEL-060", f"There is no stored context {path}.", fix="encode it and save it first"
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            facts = file.metadata() or {}
            if facts.get("schema") == SCHEMA and facts.get("key") != key:
                raise ModelError(
                    "E-MODEL-062",
                    f"{path} was encoded by other weights, in another number format, or from "
                    "other tokens.",
                    details=[f"made under {str(facts.get('key'))[:16]}, asked for {key[:16]}"],
                    fix="encode it again with this base and this context",
                )
            return _read(file, facts, set(file.keys()))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(
            "E-MODEL-061",
            f"{path} is damaged or not a stored context: {error}.",
            fix="delete it and encode the context again",
        ) from error


def _read(file: Any, facts: dict[str, str], names: set[str]) -> Prefix:
    if facts.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {facts.get('schema')!r}, not '{SCHEMA}'")
    layers = sum(name.startswith("key.") for name in names)
    start = json.loads(facts["start"])
    return Prefix(
        ids=tuple(map(int, file.get_tensor("ids").tolist())),
        layers=tuple(
            (file.get_tensor(f"key.{n}"), file.get_tensor(f"value.{n}")) for n in range(layers)
        ),
        exact=bool(json.loads(facts["exact"])),
        positions=file.get_tensor("positions") if "positions" in names else None,
        start=None if start is None else int(start),
    )


def _system_error(words: str) -> tuple[int, str]:
    """Return (number, words) of the system's error inside a message of safetensors."""
    _, _, tail = words.partition("os error ")
    digits = tail.split(")", maxsplit=1)[0]
    return (int(digits) if digits.isdigit() else 0), words


class ContextStore:
    """A folder of stored contexts, the least recently used deleted beyond `limit_bytes`.

    Safe with several processes: files appear whole, and a process that has mapped one keeps it
    when another deletes it.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes

    def path(self, key: str) -> Path:
        """Return where the context of `key` is or would be."""
        return self.folder / f"{key}.safetensors"

    def get(self, key: str) -> Prefix | None:
        """Return the context of `key`, or None; a damaged file is deleted."""
        path = self.path(key)
        try:
            found = open_prefix(path, key)
            os.utime(path)  # used now
            return found
        except ModelError as error:
            if error.code != "E-MODEL-060":
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # deleted by another process between the two calls
        return None

    def put(self, key: str, prefix: Prefix) -> bool:
        """Keep `prefix` unless it alone is above the limit; return whether it was kept."""
        if prefix.bytes > self.limit_bytes:
            return False
        save_prefix(prefix, self.path(key), key)
        self._evict(self.path(key))
        return True

    def bytes(self) -> int:
        """Return the size of all stored contexts."""
        return sum(size for _, size, _ in self._files())

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        for path in self.folder.glob("*.safetensors"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield found.st_mtime_ns, found.st_size, path

    def _evict(self, newest: Path) -> None:
        for part in self.folder.glob(".*.part"):
            try:
                if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                    part.unlink()
            except FileNotFoundError:
                continue
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        for _, size, path in files:
            if used > self.limit_bytes and path != newest:
                path.unlink(missing_ok=True)
                used -= size
