"""DoRA: LoRA's branch changes directions, a trained magnitude a row (Liu et al., arXiv 2402.09353).

`W' = m * (W + s B A) / |W + s B A|`, norms over each output's row, taken as constants in the
backward pass as the paper does. The row norms come from |W|^2, W A^T and A A^T: W + s B A is never
made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sapwood.methods.lora import LoraLayer, attach_branches, check_low_rank, pattern_problems
from sapwood.methods.parts import Method
from sapwood.methods.places import ALL_LINEAR, Place, pattern


@dataclass(frozen=True, kw_only=True)
class Dora(Method):
    """DoRA's whole configuration; the fields mean what they mean for `Lora`."""

    name: ClassVar[str] = "dora"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        others = pattern_problems(self.rank_pattern, self.alpha_pattern)
        check_low_rank("DoRA", self.rank, self.alpha, self.dropout, others)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`."""

        def branch(place: Place) -> DoraLayer:
            rank = int(pattern(self.rank_pattern, place.path, self.rank))
            alpha = float(pattern(self.alpha_pattern, place.path, self.alpha))
            scale = alpha / (rank**0.5 if self.rslora else rank)
            layer: Any = place.module
            return DoraLayer(layer, rank=rank, scale=scale, dropout=self.dropout)

        return attach_branches(net, self.targets, branch, method="DoRA", seed=seed)

    def describe(self) -> str:
        """Return it in words for the report."""
        return f"dora r={self.rank}"


class DoraLayer(LoraLayer):
    """A LoRA branch with `magnitude` (outputs,), at first the row norms of the base weight."""

    FILES: ClassVar[Mapping[str, str]] = {
        **LoraLayer.FILES,
        "magnitude": "lora_magnitude_vector",
    }

    def __init__(
        self, layer: nn.Linear | Conv1D, *, rank: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__(layer, rank=rank, scale=scale, dropout=dropout)
        norms = self.out_by_in().detach().float().square().sum(1)
        self.squares = norms
        self.magnitude = nn.Parameter(norms.sqrt())

    @torch.no_grad()
    def norms(self) -> Tensor:
        """Return |W + s B A| of each row, (outputs,)."""
        a, b = self.factors()
        weight = self.out_by_in()
        cross = (weight @ a.to(weight.dtype).t()).float()  # (outputs, rank)
        squares = self.squares + 2 * self.scale * (cross * b).sum(1)
        squares += self.scale**2 * ((b @ (a @ a.t())) * b).sum(1)
        return squares.clamp_min(torch.finfo(torch.float32).tiny).sqrt()

    def gain(self) -> Tensor:
        """Return magnitude / norm of each output."""
        return self.magnitude / self.norms()

    def stored(self) -> dict[str, Tensor]:
        """Return the factors and the magnitude."""
        return {**super().stored(), "lora_magnitude_vector": self.magnitude}
