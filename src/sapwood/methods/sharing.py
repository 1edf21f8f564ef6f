"""Who owns which tokens of a pass through a bank, and the factors of those that act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sapwood.methods.low_rank import LowRank

Use = Mapping[str, float]  # adaptation -> weight
Where = slice | Tensor  # of one adaptation's tokens
Branches = tuple[tuple[int, int], ...]  # of a layer: (number in it, number of its adaptation)

# Tokens from which an adaptation has products of its own in passes that write answers, and unused
# blocks at which a batched product is split. Both are choices, not measured optima: two calls more
# a layer took about as long as 8 blocks of one token and rank 8.
OWN = GAP = 8


@dataclass(frozen=True, kw_only=True)
class Own:
    """An adaptation with products of its own: its block, tokens, and weights, None for all 1."""

    block: int
    where: Where
    weight: float | Tensor | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """A batched product of the blocks `first` to `last`, equally many tokens each.

    `index`: (blocks x tokens,) which they are, None for all of the pass in order; `back`: where in
    `index` each token of the pass is, None if not each is there once; `weights`: (blocks, tokens,
    1), 0 where a block has fewer, None for all 1.
    """

    first: int
    last: int
    index: Tensor | None
    back: Tensor | None
    weights: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The products of a pass: of each adaptation with many tokens, and of all others at once.

    `many`: instead of `owns`, where these have about equally many tokens.
    """

    owns: tuple[Own, ...]
    many: tuple[Group, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who owns which tokens of one forward pass.

    `names`: the active adaptations; `shares`: (tokens, active) weights, or (1, active) when all
    tokens are alike; `untrained`: the same object in passes between which no trained tensor
    changes, if that is known. The rest is computed once and kept for all layers.
    """

    names: tuple[str, ...]
    shares: Tensor
    untrained: object | None = None
    columns_made: dict[Any, Tensor] = field(default_factory=dict)
    spans_made: dict[int, tuple[Where, float | Tensor]] = field(default_factory=dict)
    spreads_made: dict[Branches, Spread] = field(default_factory=dict)
    branches_made: dict[Any, Branches] = field(default_factory=dict)

    def columns(self, owners: Sequence[tuple[int, float, int]], dtype: torch.dtype) -> Tensor:
        """Return the mask (tokens or 1, columns) of stacked rows: (active number, scale, rank)."""
        key = (tuple(owners), dtype)
        if key not in self.columns_made:
            blocks = [(self.shares[:, n : n + 1] * s).expand(-1, r) for n, s, r in owners]
            self.columns_made[key] = torch.cat(blocks, 1).to(dtype)
        return self.columns_made[key]

    def span(self, number: int) -> tuple[Where, float | Tensor]:
        """Return the tokens of an active adaptation, and their one weight or (tokens, 1)."""
        if number not in self.spans_made:
            share = self.shares[:, number]
            found = share.nonzero()[:, 0]
            where: Where = found
            if len(share) == 1:
                where = slice(None)
            elif len(found) and int(found[-1] - found[0]) == len(found) - 1:
                where = slice(int(found[0]), int(found[-1]) + 1)  # a view: nothing is gathered
            weights = share[found]
            alike = bool((weights == weights[:1]).all())
            weight = float(weights[0]) if len(weights) and alike else weights[:, None]
            self.spans_made[number] = (where, weight)
        return self.spans_made[number]

    def branches(self, names: tuple[str, ...]) -> Branches:
        """Return which branches of a layer have tokens, given the adaptation of each."""
        if names not in self.branches_made:
            there = self.shares.ne(0).any(0).tolist()
            own = {name: n for n, name in enumerate(self.names) if there[n]}
            found = tuple((n, own[name]) for n, name in enumerate(names) if name in own)
            self.branches_made[names] = found
        return self.branches_made[names]

    def spread(self, blocks: Branches) -> Spread:
        """Return the products of adaptations, given as (block, active number)."""
        if blocks not in self.spreads_made:
            self.spreads_made[blocks] = _spread(self, blocks)
        return self.spreads_made[blocks]


def _spread(sharing: Sharing, blocks: Branches) -> Spread:
    owns, large, few = [], list[tuple[int, int]](), []
    for block, number in sorted(blocks):
        where, weight = sharing.span(number)
        if len(sharing.shares) == 1 or _count(where) >= OWN:
            alike = isinstance(weight, float) and weight == 1
            kept = None if alike else weight
            owns.append(Own(block=block, where=where, weight=kept))
            large.append((block, number))
        else:
            few.append((block, number))
    groups: list[list[tuple[int, int]]] = []
    for block, number in few:
        if not groups or block - groups[-1][-1][0] > GAP:
            groups.append([])
        groups[-1].append((block, number))
    counts = [_count(own.where) for own in owns]
    dense = len(owns) > 1 < len(sharing.shares) and large[-1][0] - large[0][0] < len(owns)
    alike = dense and max(counts) * len(counts) <= 1.5 * sum(counts)
    return Spread(
        owns=() if alike else tuple(owns),
        many=(_group(sharing, large),) if alike else (),
        groups=tuple(_group(sharing, group) for group in groups),
    )


def _group(sharing: Sharing, blocks: Sequence[tuple[int, int]]) -> Group:
    """Return one batched product; see `Group`."""
    first, last = blocks[0][0], blocks[-1][0] + 1
    most = max(_count(sharing.span(number)[0]) for _, number in blocks)
    device, tokens = sharing.shares.device, len(sharing.shares)
    index = torch.zeros(last - first, most, dtype=torch.long, device=device)
    weights = torch.zeros(last - first, most, 1, device=device)
    for block, number in blocks:
        where = sharing.shares[:, number].nonzero()[:, 0]
        index[block - first, : len(where)] = where
        weights[block - first, : len(where), 0] = sharing.shares[where, number]
    flat, filled = index.flatten(), weights.flatten().nonzero()[:, 0]
    own = flat[filled]
    order = own.argsort()
    once = torch.equal(own[order], torch.arange(tokens, device=device))
    ordered = once and torch.equal(flat, own[order])
    return Group(
        first=first,
        last=last,
        index=None if ordered else flat,
        back=filled[order] if once else None,
        weights=None if bool((weights == 1).all()) else weights,
    )


def _count(where: Where) -> int:
    if isinstance(where, slice) and where.stop is None:  # all tokens are alike
        return 0
    return where.stop - where.start if isinstance(where, slice) else len(where)


def add(out: Tensor, where: Where, left: Tensor, right: Tensor) -> None:
    """Add left @ right to the rows `where` of `out`."""
    if isinstance(where, slice):
        out[where].addmm_(left, right)
    else:
        out.index_add_(0, where, left @ right)


def sharing_of(
    names: tuple[str, ...], uses: Mapping[int, Use], rows: Tensor | None, device: torch.device
) -> Sharing:
    """Return who owns the tokens of `rows`, (tokens,), by each row's use; None: all are row 0's."""
    table = torch.zeros(max(uses, default=0) + 2, len(names))  # the last row: the plain base
    for row, use in uses.items():
        for name, weight in use.items():
            if weight:
                table[row, names.index(name)] = weight
    if rows is None:
        return Sharing(names=names, shares=table[:1].to(device))
    last, flat = len(table) - 1, rows.flatten()
    flat = torch.where((flat < 0) | (flat > last), last, flat)
    return Sharing(names=names, shares=table.to(device)[flat])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one layer does in one pass: its active branches as (number in it, active number)."""

    sharing: Sharing
    branches: Branches
    sorted: bool
    seed: int


class Passing:
    """What all layers of a bank look at: who owns the tokens that pass now, None for nobody."""

    def __init__(self) -> None:
        self.sharing: Sharing | None = None


def factors(
    active: Sequence[tuple[LowRank, int]], sharing: Sharing, dtype: torch.dtype
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the gain of each token's x W^T, if any has one, and the A's and B's of branches.

    `active`: each with the number of its adaptation.
    """
    pairs, gains, owners = _pairs(active)
    whole = 1 + sharing.shares[:, owners] @ torch.stack(gains) if gains else None
    made = [a for a, _ in pairs] + [b for _, b in pairs]
    return None if whole is None else whole.to(dtype), made


def _pairs(
    active: Sequence[tuple[LowRank, int]],
) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor], list[int]]:
    """Return A and B of each branch, gains minus 1, and the adaptations that have one."""
    pairs, gains, owners = [], [], []
    for part, at in active:
        (a, b), gain = part.factors(), part.gain()
        if gain is not None:
            b = b * gain[:, None]
            gains.append(gain - 1)
            owners.append(at)
        pairs.append((a, b))
    return pairs, gains, owners
