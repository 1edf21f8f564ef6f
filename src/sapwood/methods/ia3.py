"""IA3: trained factors on keys, values and the feed-forward part (Liu et al., arXiv 2205.05638)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sapwood.errors import ConfigError
from sapwood.methods.lora import freeze
from sapwood.methods.parts import Method, Part
from sapwood.methods.places import find


@dataclass(frozen=True, kw_only=True)
class Ia3(Method):
    """IA3's whole configuration.

    `targets`: layers whose outputs are scaled; `inputs`: layers whose inputs are (see `places`).
    """

    name: ClassVar[str] = "ia3"
    targets: tuple[str, ...] = ("key", "value")
    inputs: tuple[str, ...] = ("ff-out",)

    def __post_init__(self) -> None:
        if not (self.targets or self.inputs):
            raise ConfigError("E-CONFIG-020", "IA3 needs targets or inputs: nothing would train.")

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`; nothing is random."""
        before = find(net, self.inputs, method="IA3") if self.inputs else []
        scaled = {place.path for place in before}
        wanted = find(net, self.targets, method="IA3") if self.targets else []
        after = [place for place in wanted if place.path not in scaled]
        freeze(net)
        for place in (*after, *before):
            layer = net.get_submodule(place.outer)
            made = Ia3Layer(layer, place.module, before=place.path in scaled)
            net.set_submodule(place.outer, made)
        return net


class Ia3Layer(Part):
    """Factors `ia3_l`, ones at first: (outputs, 1) on outputs, (1, inputs) on inputs.

    `own`: the linear layer of the base under `layer`.
    """

    def __init__(self, layer: nn.Module, own: nn.Module, *, before: bool) -> None:
        super().__init__(layer)
        self.before, self.transposed = before, isinstance(own, Conv1D)
        weight: Any = own.weight
        outputs, inputs = weight.shape[::-1] if self.transposed else weight.shape
        shape = (1, inputs) if before else (outputs, 1)
        self.ia3_l = nn.Parameter(torch.ones(shape, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        if not self.active:
            return self.base_layer(x)  # type: ignore[no-any-return]
        factors = self.ia3_l.flatten().to(x.dtype)
        if self.before:
            return self.base_layer(x * factors)  # type: ignore[no-any-return]
        return self.base_layer(x) * factors  # type: ignore[no-any-return]

    def fold(self) -> dict[str, Tensor]:
        """Return the weight (and bias) with the factors in it."""
        factors = self.ia3_l.t() if self.transposed else self.ia3_l
        folded = {"weight": self._inner("weight").float() * factors}
        bias = self.bias
        if not self.before and bias is not None:
            folded["bias"] = bias.float() * self.ia3_l.flatten()
        return folded
