"""One rung of the ladder: a name, its family, and what makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.search.job import UNMASKED, bare
from sapwood.search.workbench import Making, Workbench


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A name, its family (what ``--only`` names) and the generator that makes it."""

    name: str
    family: str
    make: Callable[[Workbench, str], Making]


def trained(families: Sequence[str], make: Any) -> Iterator[Candidate]:
    """Yield candidates that `make` trains on a decoder as it is, under demonstrations or not."""
    for family in families:
        if not family.endswith(UNMASKED):
            method = bare(family)
            yield entry(family, make, method=method, under_context=method != family)


def entry(family: str, make: Any, name: str = "", **settings: Any) -> Candidate:
    """Return a candidate that `make` makes with `settings`."""
    return Candidate(name=name or family, family=family, make=lambda b, n: make(b, n, **settings))
