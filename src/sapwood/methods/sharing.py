"""Who owns which tokens of a pass through a bank, and the factors of those that act, stacked."""

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


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Who owns which tokens of one forward pass.

    `names`: the active adaptations; `shares`: (tokens, active) weights, or (1, active) when all
    tokens are alike. The rest is computed once and kept for all layers.
    """

    names: tuple[str, ...]
    shares: Tensor
    columns_made: dict[Any, Tensor] = field(default_factory=dict)
    spans_made: dict[int, tuple[Where, float | Tensor]] = field(default_factory=dict)

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


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The factors of some branches of a layer, stacked: `down` (inputs, ranks), `up` (ranks,
    outputs); `gains`, (those that have one, outputs), of the adaptations `gained`, all minus 1.
    """

    branches: Branches
    versions: list[int]
    down: Tensor
    up: Tensor
    gains: Tensor | None
    gained: list[int]

    def fits(self, branches: Branches, versions: list[int], dtype: torch.dtype) -> bool:
        """Tell whether these are the factors of `branches` as they are now, in this format."""
        return (self.branches, self.versions, self.down.dtype) == (branches, versions, dtype)

    def gain(self, sharing: Sharing) -> Tensor | None:
        """Return the factor of each token's outputs, (tokens or 1, outputs), None for 1."""
        if self.gains is None:
            return None
        shares = sharing.shares[:, self.gained].to(self.gains.dtype)
        return torch.addmm(shares.new_ones(()), shares, self.gains)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that passes of one `Sharing` need at a layer: see `Ready`; `columns`: the mask, (tokens
    or 1, ranks); `gain`: the factor of each token's outputs, or None.
    """

    sharing: Sharing
    down: Tensor
    up: Tensor
    columns: Tensor
    gain: Tensor | None


class Passing:
    """What all layers of a bank look at: who owns the tokens that pass now, None for nobody."""

    def __init__(self) -> None:
        self.sharing: Sharing | None = None


def stacked(
    active: Sequence[tuple[LowRank, int]],
    branches: Branches,
    versions: list[int],
    dtype: torch.dtype,
) -> Ready:
    """Return the factors of `active` branches in a number format; see `factors`."""
    pairs, gains, owners = _pairs(active)
    return Ready(
        branches=branches,
        versions=versions,
        down=torch.cat([a for a, _ in pairs]).to(dtype).t(),
        up=torch.cat([b for _, b in pairs], 1).to(dtype).t().contiguous(),
        gains=torch.stack(gains).to(dtype) if gains else None,
        gained=owners,
    )


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
