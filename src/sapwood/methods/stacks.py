"""Answers of a bank: the factors of the adaptations that act, side by side, and who passes which.

While answers are written a pass has few tokens of many adaptations, and prompts that are read have
many of one. So an adaptation of `OWN` tokens or more has two products of its own; the few tokens of
all others go through two batched ones, an adaptation a block (cf. Punica, Chen et al., arXiv
2310.18547). Blocks stay where they are while rows join and leave: a newcomer is copied over what
was not used for longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from sapwood.launch.products import faster
from sapwood.methods.low_rank import LowRank
from sapwood.methods.sharing import Branches, Group, Own, Sharing, Where, add

# Ranks are filled up with zeros to one of these or their doubles: one product for all that share.
_LEAST_RANK = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class _Block:
    """What a block holds: which part, in which state, and its gain minus 1."""

    part: ref[LowRank]
    versions: list[int]
    gain: Tensor | None


class Stack:
    """Blocks of factors of one (filled up) rank at one layer.

    `down`: (blocks, inputs, rank); `up`: (blocks, rank, outputs), times the scale. On the CPU both
    are float32 whatever the base's format, as they are trained: one-token products in bfloat16 took
    2 to 5 times as long (8 rows, rank 8, torch 2.13 with AVX-512).
    """

    def __init__(self, rank: int) -> None:
        self.rank, self.blocks = rank, list[_Block]()
        self.down, self.up = torch.empty(0), torch.empty(0)
        self._used, self._now = list[int](), 0  # when each block was last

    def places(
        self,
        active: Sequence[tuple[LowRank, list[int]]],
        held: Sequence[int],
        like: Tensor,
    ) -> list[int]:
        """Return the blocks of parts, given with the versions of their tensors, all as they are.

        `held`: blocks that must stay; `like`: an input, says device and number format.
        """
        self._now += 1
        dtype = torch.float32 if like.device.type == "cpu" else like.dtype
        if (self.down.dtype, self.down.device) != (dtype, like.device):
            self.blocks, self._used = [], []
            self.down, self.up = (torch.empty(0, dtype=dtype, device=like.device) for _ in range(2))
        known = {id(part): n for n, b in enumerate(self.blocks) if (part := b.part()) is not None}
        found = [known.get(id(part), -1) for part, _ in active]
        for n in (*held, *(n for n in found if n >= 0)):
            self._used[n] = self._now
        for number, (part, versions) in enumerate(active):
            if found[number] < 0:
                found[number] = self._room(part)
            elif self.blocks[found[number]].versions == versions:
                continue
            self._fill(found[number], part, versions)
        return found

    def _room(self, part: LowRank) -> int:
        """Return a block to fill: the first nobody has, the one idle for longest, or a new one."""
        idle = [(self._used[n] if b.part() else -1, n) for n, b in enumerate(self.blocks)]
        used, n = min(idle, default=(self._now, 0))
        if used < self._now:
            return n
        count = len(self.blocks)
        down = self.down.new_zeros(count + 1, part.in_features, self.rank)
        up = self.up.new_zeros(count + 1, self.rank, part.out_features)
        if count:
            down[:count], up[:count] = self.down, self.up
        self.down, self.up = down, up
        self.blocks.append(_Block(part=ref(part), versions=[], gain=None))
        self._used.append(self._now)
        return count

    def _fill(self, n: int, part: LowRank, versions: list[int]) -> None:
        (a, b), gain = part.factors(), part.gain()
        rank = len(a)
        self.down[n, :, :rank], self.up[n, :rank] = a.t(), b.t()
        if rank < self.rank:
            self.down[n, :, rank:], self.up[n, rank:] = 0, 0
        if gain is not None:
            self.up[n].mul_(gain)
        if part.scale != 1:
            self.up[n].mul_(part.scale)
        change = None if gain is None else gain - 1
        self.blocks[n] = _Block(part=ref(part), versions=versions, gain=change)
        self._used[n] = self._now


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that passes of one `Sharing` need at a layer, its products with their factors.

    `gain`: the factor of each token's outputs, (tokens or 1, outputs), or None; `places`: branch ->
    (rank of the stack, block).
    """

    sharing: Sharing
    owns: tuple[tuple[Own, Tensor, Tensor], ...]
    groups: tuple[tuple[Group, Tensor, Tensor], ...]
    gain: Tensor | None
    places: dict[int, tuple[int, int]]


def rank_of_stack(rank: int) -> int:
    """Return the rank that one is filled up to."""
    return max(_LEAST_RANK, 1 << (rank - 1).bit_length())


def prepared(
    layer: Any, found: Branches, sharing: Sharing, x: Tensor, before: Prepared | None
) -> Prepared:
    """Return what passes of `sharing` need at a bank's layer, whose stacks are filled.

    `found`: the branches that have tokens; `before`: what the last passes needed.
    """
    known: dict[int, tuple[int, int]] = {}
    if before is not None and sharing.untrained is not None:
        known = before.places if before.sharing.untrained is sharing.untrained else {}
    places = known if all(n in known for n, _ in found) else _placed(layer, found, x, known)
    ranks: dict[int, list[tuple[int, int]]] = {}
    for n, at in found:
        rank, block = places[n]
        ranks.setdefault(rank, []).append((block, at))
    owns, groups, gains, gained = [], [], [], []
    for rank, blocks in ranks.items():
        stack, spread = layer.stacks[rank], sharing.spread(tuple(blocks))
        down, up, held = stack.down, stack.up, stack.blocks
        owns += [(o, *_turned(down[o.block], up[o.block], x)) for o in spread.owns]
        groups += [
            (g, *_turned(down[g.first : g.last], up[g.first : g.last], x)) for g in spread.many
        ]
        groups += [(g, down[g.first : g.last], up[g.first : g.last]) for g in spread.groups]
        changes = [(held[block].gain, at) for block, at in blocks]
        gains += [change for change, _ in changes if change is not None]
        gained += [at for change, at in changes if change is not None]
    whole = (1 + sharing.shares[:, gained] @ torch.stack(gains)).to(x.dtype) if gains else None
    return Prepared(
        sharing=sharing,
        owns=tuple(owns),
        groups=tuple(groups),
        gain=whole,
        places=places,
    )


def _turned(down: Tensor, up: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors for many tokens: in the format of `x`, the first with whole inputs in a row.

    In float32 8 products of 64 tokens and rank 8 at once took 0.27 ms instead of 0.42 a layer
    (mean of 576 x 576, 576 x 1536 and 1536 x 576, one CPU core).
    """
    return down.to(x.dtype).transpose(-1, -2).contiguous().transpose(-1, -2), up.to(x.dtype)


def _placed(
    layer: Any, found: Branches, x: Tensor, known: Mapping[int, tuple[int, int]]
) -> dict[int, tuple[int, int]]:
    """Return where the factors of branches are, as they are now; `known` ones are so already."""
    ranks: dict[int, list[int]] = {}
    for n, _ in found:
        ranks.setdefault(rank_of_stack(layer.low[n].rank), []).append(n)
    places = dict(known)
    for rank, here in ranks.items():
        new = [n for n in here if n not in known]
        active = [(layer.low[n], [t._version for t in layer.tensors[n]]) for n in new]
        stack = layer.stacks.setdefault(rank, Stack(rank))
        blocks = stack.places(active, [known[n][1] for n in here if n in known], x)
        gone = {(rank, block) for block in blocks}
        places = {n: place for n, place in places.items() if place not in gone}
        places |= {n: (rank, block) for n, block in zip(new, blocks, strict=True)}
    return places


def answered(layer: LowRank, x: Tensor, ready: Prepared) -> Tensor:
    """Return the output of base and branches, without a graph."""
    flat, gain = x.flatten(0, -2), ready.gain
    out = faster(flat, layer.out_by_in(), layer.bias if gain is None else None)
    if gain is not None:
        out.mul_(gain)
        if layer.bias is not None:
            out.add_(layer.bias)
    for own, down, up in ready.owns:
        inner = _taken(flat, own.where) @ down
        add(out, own.where, inner if own.weight is None else inner.mul_(own.weight), up)
    for group, down, up in ready.groups:
        wide = flat if flat.dtype == down.dtype else flat.to(down.dtype)
        taken = wide if group.index is None else wide.index_select(0, group.index)
        inner = torch.bmm(taken.view(len(down), -1, layer.in_features), down)
        if group.weights is not None:
            inner.mul_(group.weights)
        if group.index is None and out.dtype == up.dtype:
            out.view(len(down), -1, layer.out_features).baddbmm_(inner, up)
            continue
        added = torch.bmm(inner, up).view(-1, layer.out_features)
        if group.index is None:
            out.add_(added)
        elif group.back is not None:
            out.add_(added.index_select(0, group.back))
        else:
            out.index_add_(0, group.index, added.to(out.dtype))
    return out.view(*x.shape[:-1], layer.out_features)


def _taken(flat: Tensor, where: Where) -> Tensor:
    return flat[where] if isinstance(where, slice) else flat.index_select(0, where)
