"""One rung of the ladder: a name, its family, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sapwood.search.workbench import Making, Workbench


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A name, its family (what ``--only`` names) and the generator that makes it."""

    name: str
    family: str
    make: Callable[[Workbench, str], Making]


def entry(family: str, make: Any, name: str = "", **settings: Any) -> Candidate:
    """Return a candidate that `make` makes with `settings`."""
    return Candidate(name=name or family, family=family, make=lambda b, n: make(b, n, **settings))
