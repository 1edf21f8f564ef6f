"""How far down training reaches: blocks below the lowest part have no gradient and no change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sapwood.errors import ConfigError
from sapwood.methods.parts import Guest, parts
from sapwood.methods.places import Place, role


def blocks(net: Any) -> list[str]:
    """Return the paths of a net's blocks as they are now, parts around them included, in order."""
    return [place.outer for place in role(net, "block")]


def within(net: Any, found: Sequence[Place], layers: Sequence[int], *, method: str) -> list[Place]:
    """Return the places of `found` that lie in the blocks with these numbers, from 0.

    Raises ConfigError (E-CONFIG-021) naming every number in whose block nothing was found.
    """
    paths = [place.path for place in role(net, "block")]
    chosen = {
        n: [p for p in found if p.path.startswith(f"{path}.")] for n, path in enumerate(paths)
    }
    missing = [n for n in layers if not chosen.get(n)]
    if missing:
        raise ConfigError(
            "E-CONFIG-021",
            f"The layers of {method} must all take effect.",
            details=[f"block {n} has no target" for n in missing],
            fix=f"use numbers from 0 to {len(paths) - 1}",
        )
    wanted = {id(place) for n in layers for place in chosen[n]}
    return [place for place in found if id(place) in wanted]


def untouched(net: Any) -> int:
    """Return how many blocks, from the first, carry no part and follow none.

    Their outputs depend on the base and the tokens alone. A part before the first block, as on the
    embeddings, leaves none; parts after the last one, as on the last norm or the head, leave all.
    """
    plain = [place.path for place in role(net, "block")]
    lowest = len(plain)
    order = {id(module): number for number, module in enumerate(net.modules())}
    first = order[id(net.get_submodule(blocks(net)[0]))]
    for path, part in parts(net):
        inside = [n for n, block in enumerate(plain) if f"{path}.".startswith(f"{block}.")]
        if inside:
            lowest = min(lowest, inside[0])
        elif isinstance(part, Guest) or order[id(part)] < first:
            return 0  # modules are registered in the order they run in, guests after all of them
    return lowest
