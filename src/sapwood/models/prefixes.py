"""Encoded prefixes: what they hold, and the cache of those in memory, by the content of tokens.

With what methods hang on a net for rows to follow: a trained prefix, and virtual tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.interfaces import Integers
from sapwood.models.past import KeysValues


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """An encoded prefix: its token ids and, on the packed path, keys and values of every layer.

    `exact`: False where the tokens did not all see those before them (see models/blocks.py); then
    `positions`, (tokens,), says where each sits, and `start` where the rows that follow begin.
    For an exact prefix both are None: tokens sit at 0, 1, 2, ... and rows begin after the last.
    """

    ids: tuple[int, ...] = ()
    layers: tuple[KeysValues, ...] = ()
    exact: bool = True
    positions: Tensor | None = None
    start: int | None = None

    def cut(self, length: int) -> Prefix:
        """Return the first `length` tokens of this exact prefix, sharing its memory."""
        assert self.exact, "blocks do not follow each other: they cannot be cut"
        layers = tuple((k[:, :, :length], v[:, :, :length]) for k, v in self.layers)
        return Prefix(ids=self.ids[:length], layers=layers)

    def followed(self, layers: Sequence[KeysValues]) -> Prefix:
        """Return this prefix and, after it, keys and values of no tokens, made for there."""
        start, size = self.next_position, layers[0][0].shape[2]
        if self.layers:
            layers = [
                (torch.cat((before[0], key), dim=2), torch.cat((before[1], value), dim=2))
                for before, (key, value) in zip(self.layers, layers, strict=True)
            ]
        positions = self.positions
        if positions is not None:
            more = torch.arange(start, start + size, device=positions.device)
            positions = torch.cat((positions, more))
        return Prefix(
            ids=(*self.ids, *(0,) * size),
            layers=tuple(layers),
            exact=False,
            positions=positions,
            start=start + size,
        )

    @property
    def next_position(self) -> int:
        """Return the position at which rows begin."""
        if self.start is not None:
            return self.start
        return self.layers[0][0].shape[2] if self.layers else len(self.ids)

    @property
    def seat(self) -> dict[str, Any]:
        """Return what `build_pack` takes of a prefix, as keyword arguments."""
        return {"cached": self.layers, "start": self.start, "cached_at": self.positions}

    @property
    def bytes(self) -> int:
        """Return the memory that keys and values take."""
        return sum(x.numel() * x.element_size() for pair in self.layers for x in pair)


NO_PREFIX = Prefix()


def trained_prefix(net: Any) -> Any:
    """Return the trained prefix that hangs on a net and acts, or None.

    It has `tokens`, and `layers(net, start)`: keys and values at positions from `start` on, with
    gradients (see methods/prefix_tuning.py).
    """
    found = getattr(net, "trained_prefix", None)
    return found if found is not None and found.active else None


def virtual_tokens(net: Any) -> tuple[int, ...]:
    """Return the ids of a net's trained virtual tokens, where they act (see methods/prompt.py)."""
    found = getattr(net, "virtual_tokens", None)
    return tuple(found.ids) if found is not None and found.active else ()


def joined(net: Any, prefix: Prefix) -> Prefix:
    """Return what rows follow: `prefix`, then the net's trained prefix if it has one.

    The result is nobody's encoding of tokens: it is never cut, and never remembered.
    """
    trained = trained_prefix(net)
    if trained is None:
        return prefix
    return prefix.followed(trained.layers(net, prefix.next_position))


class PrefixCache:
    """Exact prefixes of one net, the least recently used forgotten beyond `limit` bytes.

    Each is kept under the digest of the weights that made it, so it never serves others.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], tuple[Prefix, Integers]] = (
            OrderedDict()
        )

    def longest(self, weights: str, ids: Sequence[int]) -> Prefix:
        """Return the longest beginning of `ids` that is encoded, sharing memory; maybe empty."""
        wanted, best, found = np.asarray(ids), 0, NO_PREFIX
        for (made_by, _), (prefix, known) in self._kept.items():
            common = _common(wanted, known) if made_by == weights else 0
            if common > best or (common == best == len(prefix.ids) and common):
                best, found = common, prefix
        if not best:
            return NO_PREFIX
        self._kept.move_to_end((weights, found.ids))
        return found if best == len(found.ids) else found.cut(best)

    def keep(self, weights: str, prefix: Prefix) -> None:
        """Keep `prefix`; those that only repeat its beginning are forgotten."""
        ids = np.asarray(prefix.ids)
        for key, (_, known) in list(self._kept.items()):
            if key[0] == weights and _common(ids, known) == len(known):
                del self._kept[key]
        self._kept[weights, prefix.ids] = (prefix, ids)
        used = sum(kept.bytes for kept, _ in self._kept.values())
        while len(self._kept) > 1 and used > self.limit:
            _, (oldest, _) = self._kept.popitem(last=False)
            used -= oldest.bytes


def _common(left: Integers, right: Integers) -> int:
    """Return how many tokens two sequences have in common at their beginning."""
    length = min(len(left), len(right))
    if not length or left[0] != right[0]:
        return 0
    differ = np.flatnonzero(left[:length] != right[:length])
    return int(differ[0]) if len(differ) else length


def grown(prefix: Prefix, ids: Sequence[int], layers: Sequence[KeysValues]) -> Prefix:
    """Return an exact prefix with room for `ids` whose first tokens are `prefix`.

    `layers` gives the shapes. The rest of the keys and values is to be filled in.
    """
    made, size = [], len(ids)
    for number, pair in enumerate(layers):
        room = tuple(x.new_empty(1, x.shape[1], size, x.shape[3]) for x in pair)
        if prefix.layers:
            for to, old in zip(room, prefix.layers[number], strict=True):
                to[:, :, : old.shape[2]] = old
        made.append((room[0], room[1]))
    return replace(prefix, ids=tuple(ids), layers=tuple(made))
