"""Tables of names: plain dicts ``name -> "module:attribute"``, imported on use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from sapwood.errors import ConfigError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of `known`, or an empty string.

    >>> did_you_mean("lorra", ["lora", "prefix"])
    " Did you mean 'lora'?"
    """
    near = get_close_matches(name.lower(), {k.lower(): k for k in known}, n=1, cutoff=0.6)
    originals = {k.lower(): k for k in known}
    return f" Did you mean '{originals[near[0]]}'?" if near else ""


def resolve(family: str, table: Mapping[str, str], name: str) -> Any:
    """Import and return the member `name` of a family's `table`.

    Raises ConfigError (E-CONFIG-001) that lists what is known when `name` is not in the table.
    """
    if name not in table:
        raise ConfigError(
            "E-CONFIG-001",
            f"Unknown {family} '{name}'.{did_you_mean(name, table)}",
            fix=f"use one of: {', '.join(table)}",
        )
    module, attribute = table[name].split(":")
    return getattr(import_module(module), attribute)
