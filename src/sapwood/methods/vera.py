"""VeRA: one pair of random matrices for all layers, two trained vectors each (arXiv 2310.11454)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sapwood.methods.lora import attach_branches, check_low_rank
from sapwood.methods.low_rank import LowRank
from sapwood.methods.parts import Method
from sapwood.methods.places import ALL_LINEAR, Place, find


@dataclass(frozen=True, kw_only=True)
class Vera(Method):
    """VeRA's whole configuration.

    `rank` >= 1, large, as what is trained grows by one number a rank and layer; `start` is the
    first value of the trained vector over ranks; `dropout` in [0, 1); `targets`: see `places`.
    The random matrices come from `projection_seed`, on every machine the same.
    """

    name: ClassVar[str] = "vera"
    rank: int = 256
    start: float = 0.1
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    projection_seed: int = 0

    def __post_init__(self) -> None:
        others = [] if self.start else ["start must not be 0: nothing would train"]
        check_low_rank("VeRA", self.rank, 1.0, self.dropout, others)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`."""
        shapes = [_shape(place.module) for place in find(net, self.targets, method="VeRA")]
        outputs, inputs = (max(sizes) for sizes in zip(*shapes, strict=True))
        down, up = projections(self.projection_seed, self.rank, inputs, outputs)

        def branch(place: Place) -> VeraLayer:
            layer: Any = place.module
            return VeraLayer(layer, down, up, start=self.start, dropout=self.dropout)

        return attach_branches(net, self.targets, branch, method="VeRA", seed=seed)

    def describe(self) -> str:
        """Return it in words for the report."""
        return f"vera r={self.rank}"


def projections(seed: int, rank: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return the frozen matrices that all layers cut theirs from, (rank, inputs), (outputs, rank).

    Uniform, as the paper's Kaiming start for linear layers makes them.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    down = torch.empty(rank, inputs)
    up = torch.empty(outputs, rank)
    nn.init.kaiming_uniform_(down, generator=generator)
    nn.init.kaiming_uniform_(up, generator=generator)
    return down, up


def _shape(module: Any) -> tuple[int, int]:
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


class VeraLayer(LowRank):
    """A branch `diag(b) B diag(d) A`: `vera_lambda_d` (rank,), `vera_lambda_b` (outputs,) train."""

    def __init__(
        self, layer: nn.Linear | Conv1D, down: Tensor, up: Tensor, *, start: float, dropout: float
    ) -> None:
        super().__init__(layer, rank=len(down), scale=1.0, dropout=dropout)
        device = layer.weight.device
        self.down = down[:, : self.in_features].to(device)  # views of what all layers share
        self.up = up[: self.out_features].to(device)
        self.vera_lambda_d = nn.Parameter(torch.full((self.rank,), start, device=device))
        self.vera_lambda_b = nn.Parameter(torch.zeros(self.out_features, device=device))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the scaled random matrices."""
        return self.vera_lambda_d[:, None] * self.down, self.vera_lambda_b[:, None] * self.up
