"""LoReFT: the residual stream is changed in a trained subspace (Wu et al. 2024, arXiv 2404.03592).

`h + R^T (W h + b - R h)` after chosen blocks, R with orthonormal rows: inside the span of R the
states become `W h + b`, outside they stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sapwood.errors import ConfigError
from sapwood.methods.lora import freeze
from sapwood.methods.parts import Guest, Method
from sapwood.methods.places import Place, kind_of, role

HOME = "reft"
_POSITIONS = re.compile(r"f([1-9]\d*)(?:\+l([1-9]\d*))?|l([1-9]\d*)")
# Kinds whose blocks are not told which row a token is of (see models/layout.py).
_WITHOUT_ROWS = ("t5", "xlnet")


@dataclass(frozen=True, kw_only=True)
class Reft(Method):
    """LoReFT's whole configuration.

    `rank` >= 1, at most the hidden size; `layers`: block numbers from 0 (in T5 of both stacks), by
    default all; `positions`: "all", or as the paper writes it "f4" (the first four tokens of each
    sequence, what is prepended included), "l4" (the last four of each row; no prefix may be encoded
    before, as its last tokens are not the row's) or "f4+l4". First and last tokens need rows that
    are packed.
    """

    name: ClassVar[str] = "reft"
    rank: int = 4
    layers: tuple[int, ...] = ()
    positions: str = "all"

    def __post_init__(self) -> None:
        problems = []
        if self.rank < 1:
            problems.append(f"rank must be 1 or more, got {self.rank}")
        if min(self.layers, default=0) < 0:
            problems.append(f"layers are counted from 0, got {min(self.layers)}")
        if self.positions != "all" and not any(_ends(self.positions)):
            problems.append(f"positions must be all, fN, lN or fN+lN, got '{self.positions}'")
        if problems:
            raise ConfigError("E-CONFIG-020", "ReFT's settings are wrong.", details=problems)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. The output does not change at first.

        Raises ConfigError: E-CONFIG-020 the rank is above the hidden size, E-CONFIG-021 naming the
        layers there are not, E-CONFIG-022 the kind has no known blocks, E-CONFIG-025 a block has a
        ReFT already, E-CONFIG-095 the kind does not tell first and last tokens.
        """
        found = self._blocks(net)
        kind, hidden = kind_of(net), int(net.config.hidden_size)
        if self.rank > hidden:
            raise ConfigError(
                "E-CONFIG-020", f"ReFT rank {self.rank} is above the hidden size, {hidden}."
            )
        if self.positions != "all" and kind in _WITHOUT_ROWS:
            raise _untold(f"a net of the '{kind}' kind does not say where its rows begin and end")
        if any(hasattr(place.module, HOME) for place in found):
            raise ConfigError(
                "E-CONFIG-025", "A block has a ReFT already.", fix="give both different layers"
            )
        freeze(net)
        streams = 2 if kind == "xlnet" else 1
        generator = torch.Generator().manual_seed(seed)
        for place in found:
            start = torch.randn(self.rank, hidden, generator=generator)
            device = next(place.module.parameters()).device
            guest = Intervention(place.module, start.to(device), self.positions, streams)
            place.module.add_module(HOME, guest)
        return net

    def _blocks(self, net: Any) -> list[Place]:
        blocks = role(net, "block")
        numbers = [int(place.name) for place in blocks]
        absent = sorted(set(self.layers) - set(numbers))
        if absent:
            raise ConfigError(
                "E-CONFIG-021",
                "The layers of ReFT must all take effect.",
                details=[f"there is no block {number}" for number in absent],
                fix=f"use numbers from 0 to {max(numbers)}",
            )
        wanted = self.layers or numbers
        return [place for place, number in zip(blocks, numbers, strict=True) if number in wanted]

    def describe(self) -> str:
        """Return it in words for the report."""
        where = "" if self.positions == "all" else f", positions {self.positions}"
        return f"reft r={self.rank}{where}"


def _ends(positions: str) -> tuple[int, int]:
    """Return how many first and last tokens "fN+lN" means, zeros where it is something else."""
    found = _POSITIONS.fullmatch(positions)
    return (int(found[1] or 0), int(found[2] or found[3] or 0)) if found else (0, 0)


def _untold(why: str) -> ConfigError:
    return ConfigError(
        "E-CONFIG-095",
        f"ReFT cannot find the first and last tokens: {why}.",
        fix="use positions=all",
    )


class Intervention(Guest):
    """What is done to the states that a block gives, as a hook of the block.

    Trained: `rotate` (rank, hidden), whose rows made orthonormal are R, `weight` (rank, hidden),
    at first R, `bias` (rank,), at first zero.
    """

    FILES: ClassVar[dict[str, str]] = {"source": "weight", "shift": "bias"}

    def __init__(self, block: nn.Module, start: Tensor, positions: str, streams: int) -> None:
        super().__init__(block)
        self.positions, self.streams = positions, streams
        self.rotate = nn.Parameter(orthonormal(start))
        self.source = nn.Parameter(self.rows().detach().clone())
        self.shift = nn.Parameter(torch.zeros(len(start), device=start.device))
        self._handle = block.register_forward_hook(self._hook, with_kwargs=True)

    def extra_repr(self) -> str:
        """Return what changes the output besides the trained tensors."""
        return f"positions={self.positions}"

    def rows(self) -> Tensor:
        """Return R, (rank, hidden)."""
        return orthonormal(self.rotate)

    def change(self, states: Tensor) -> Tensor:
        """Return what is added to `states`, (..., hidden)."""
        rows = self.rows()
        inner = functional.linear(
            states, (self.source - rows).to(states.dtype), self.shift.to(states.dtype)
        )
        added: Tensor = inner @ rows.to(states.dtype)
        return added

    def remove(self, net: Any, path: str) -> None:
        """Leave the block, hook and all."""
        self._handle.remove()
        super().remove(net, path)

    def _hook(self, block: nn.Module, given: Any, named: Any, out: Any) -> Any:
        if not self.active:
            return out
        where = None if self.positions == "all" else chosen(named.get("pack"), self.positions)
        if isinstance(out, Tensor):
            return self._changed(out, where)
        changed = [
            self._changed(states, where) if number < self.streams and states is not None else states
            for number, states in enumerate(out)
        ]
        return tuple(changed)

    def _changed(self, states: Tensor, where: Tensor | None) -> Tensor:
        if where is None:
            return states + self.change(states)
        return states.index_add(1, where, self.change(states[:, where]))


def orthonormal(matrix: Tensor) -> Tensor:
    """Return the rows of `matrix` (rank, hidden) made orthonormal in turn, float32.

    QR with a positive diagonal, which is unique: no row flips its sign from one step to the next.
    """
    q, r = torch.linalg.qr(matrix.float().t())
    rows: Tensor = (q * torch.where(r.diagonal() < 0, -1.0, 1.0)).t()
    return rows


def chosen(pack: Any, positions: str) -> Tensor:
    """Return the numbers of the tokens of a pack (a `Layout`) that are meant, rising.

    Raises ConfigError (E-CONFIG-095) where they cannot be told: without a pack, and last tokens of
    rows with a prefix, of rows that grow, or of rows that end in several ways.
    """
    first, last = _ends(positions)
    if pack is None:
        raise _untold("the rows are not packed")
    meant = pack.positions < first
    if last:
        if pack.cached or pack.shared or pack.past is not None or pack.capture is not None:
            raise _untold("last ones are those of whole rows, and here a part is encoded alone")
        for group in pack.groups:
            lengths = group.valid.sum(1, keepdim=True)
            steps = torch.arange(group.valid.shape[1], device=lengths.device)[None]
            if group.visible is not None:
                seen = group.visible.sum(-1)  # (rows or 1, length)
                chain = (seen == steps + 1) | ~group.valid
                whole = (seen == lengths) | ~group.valid
                if not (bool(chain.all()) or bool(whole.all())):
                    raise _untold("the answers have several tokens and branch")
            meant[group.index[group.valid & (steps >= lengths - last)]] = True
    where: Tensor = meant.nonzero().flatten()
    return where
