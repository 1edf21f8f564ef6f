"""Compacter: bottlenecks whose matrices are sums of Kronecker products (arXiv 2106.04647).

`W = sum_i A_i (x) (s_i t_i)`, Karimi Mahabadi et al. 2021. The `parts` small matrices A_i are
shared by all layers and both directions; each layer has its own low-rank factors s_i and t_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from sapwood.errors import ConfigError
from sapwood.methods.adapter import Added, Tap, bottleneck_problems, place_bottlenecks
from sapwood.methods.parts import Method
from sapwood.methods.places import Place


@dataclass(frozen=True, kw_only=True)
class Compacter(Method):
    """Compacter's whole configuration.

    `width`, `placement`, `activation`, `scale`: as for `Adapter`, the width a multiple of `parts`,
    and the base's hidden size too; `parts` >= 1: how many products are summed (the paper's n);
    `rank` >= 1: that of each product's large factor. The paper's own setting is n = 4, rank 1.
    """

    name: ClassVar[str] = "compacter"
    width: int = 48
    placement: str = "houlsby"
    activation: str = "gelu"
    scale: float = 1.0
    parts: int = 4
    rank: int = 1

    def __post_init__(self) -> None:
        problems = bottleneck_problems(self)
        problems += [
            f"{name} must be 1 or more, got {getattr(self, name)}"
            for name in ("parts", "rank")
            if getattr(self, name) < 1
        ]
        if self.parts > 0 and self.width % self.parts:
            problems.append(f"width {self.width} is no multiple of parts, {self.parts}")
        if problems:
            raise ConfigError("E-CONFIG-020", "Compacter's settings are wrong.", details=problems)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. Raises ConfigError: E-CONFIG-020 the hidden size is no multiple of `parts`,
        E-CONFIG-022 the kind lacks the place.
        """
        hidden = int(net.config.hidden_size)
        if hidden % self.parts:
            raise ConfigError(
                "E-CONFIG-020",
                f"The hidden size of the base, {hidden}, is no multiple of parts, {self.parts}.",
                fix="use parts=1, 2 or 4",
            )
        made: list[Hypercomplex] = []

        def make(place: Place, layer: nn.Module, tap: Tap | None) -> Hypercomplex:
            made.append(Hypercomplex(layer, place.module, self, tap, made[0] if made else None))
            return made[-1]

        return place_bottlenecks(net, self.placement, make, seed=seed)

    def describe(self) -> str:
        """Return it in words for the report."""
        return f"{self.placement} compacter, width {self.width}, n={self.parts}"


class Hypercomplex(Added):
    """A bottleneck of Kronecker products; the first one of a net holds `phm_rule`, the A_i.

    `phm_rule` (parts, parts, parts); `down_left` (parts, hidden / parts, rank), `down_right`
    (parts, rank, width / parts), `down_bias` (width,), and the same upwards, `up_left` zero at
    first, so that nothing changes.
    """

    def __init__(
        self,
        layer: nn.Module,
        own: nn.Module,
        settings: Compacter,
        tap: Tap | None,
        first: Hypercomplex | None,
    ) -> None:
        super().__init__(layer, own, tap)
        n, width, hidden = settings.parts, settings.width, self.hidden
        self.act, self.scale = ACT2FN[settings.activation], settings.scale
        self._first = [self if first is None else first]  # in a list, as the tap is
        if first is None:
            # Each number of W is a sum of n products with an A: this keeps its size at s t's.
            self.phm_rule = self._new(n, n, n, std=n**-0.5)
        # Glorot's deviation for W, shared between the two factors of rank-many products.
        std = math.sqrt(math.sqrt(2 / (hidden + width)) / math.sqrt(settings.rank))
        self.down_left = self._new(n, hidden // n, settings.rank, std=std)
        self.down_right = self._new(n, settings.rank, width // n, std=std)
        self.down_bias = self._new(width)
        self.up_left = self._new(n, width // n, settings.rank)
        self.up_right = self._new(n, settings.rank, hidden // n, std=std)
        self.up_bias = self._new(hidden)

    def _new(self, *shape: int, std: float = 0.0) -> nn.Parameter:
        """Return a trained tensor, normal with deviation `std`, drawn the same on every device."""
        return nn.Parameter((torch.randn(shape) * std).to(self.device))

    def extra_repr(self) -> str:
        """Return what changes the output besides the trained tensors."""
        return f"scale={self.scale!r}, act={type(self.act).__name__}"

    def matrix(self, left: Tensor, right: Tensor) -> Tensor:
        """Return sum_i A_i (x) (left_i right_i), (inputs, outputs)."""
        whole = torch.einsum("npq,nik,nkj->piqj", self._first[0].phm_rule, left, right)
        return whole.flatten(2).flatten(0, 1)

    def added(self, states: Tensor) -> Tensor:
        """Return what is added for `states`, (..., hidden)."""
        down = self.matrix(self.down_left, self.down_right).to(states.dtype)
        up = self.matrix(self.up_left, self.up_right).to(states.dtype)
        inner = self.act(functional.linear(states, down.t(), self.down_bias.to(states.dtype)))
        return functional.linear(inner, up.t(), self.up_bias.to(states.dtype)) * self.scale
