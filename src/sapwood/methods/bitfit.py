"""BitFit: only the biases train (Ben Zaken et al., arXiv 2106.10199); LayerNorm tuning beside it.

Trained tensors are differences, float32 and zero at first, so a base in bfloat16 loses no update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sapwood.errors import ConfigError
from sapwood.methods.lora import freeze
from sapwood.methods.parts import Method, Part, innermost
from sapwood.methods.places import Place, kind_of, places, unread


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Train every bias of the base. It has no settings."""

    name: ClassVar[str] = "bitfit"

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. Raises ConfigError (E-CONFIG-022) for nets without biases, as Llama's."""
        found = [place for place in places(net) if _own(place.module, "bias") and not unread(place)]
        return _differ(net, found, ("bias",), "has no biases; use layernorm or ia3")


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Method):
    """Train the normalisation layers (arXiv 2312.11420). It has no settings."""

    name: ClassVar[str] = "layernorm"

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. Raises ConfigError (E-CONFIG-022) for nets without such layers."""
        found = [place for place in places(net) if is_norm(place.module)]
        return _differ(net, found, ("weight", "bias"), "has no normalisation layers")


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: torch's LayerNorm, and the RMS norms of each kind."""
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith(("Norm", "RMSNorm"))


def _own(module: nn.Module, name: str) -> bool:
    return isinstance(module._parameters.get(name), nn.Parameter)


def _differ(net: Any, found: list[Place], names: tuple[str, ...], why: str) -> Any:
    if not found:
        raise ConfigError("E-CONFIG-022", f"A net of the '{kind_of(net)}' kind {why}.")
    freeze(net)
    for place in found:
        layer = net.get_submodule(place.outer)
        net.set_submodule(
            place.outer, Difference(layer, [n for n in names if _own(place.module, n)])
        )
    return net


class Difference(Part):
    """A module of the base run with changed tensors: its own plus `delta_NAME`, zero at first."""

    def __init__(self, layer: nn.Module, names: list[str]) -> None:
        super().__init__(layer)
        self.names = tuple(names)
        for name in names:
            own = innermost(layer).get_parameter(name)
            self.register_parameter(f"delta_{name}", nn.Parameter(torch.zeros_like(own).float()))

    def changed(self) -> dict[str, Tensor]:
        """Return the tensors that take the place of the base's, in its number format."""
        return {
            name: (own.float() + self.get_parameter(f"delta_{name}")).to(own.dtype)
            for name in self.names
            for own in (self._inner(name),)
        }

    def forward(self, *given: Any, **named: Any) -> Any:
        """Run the module; shapes are the module's own."""
        if not self.active:
            return self.base_layer(*given, **named)
        if set(self.names) == {"bias"} and given:
            out = self.base_layer(*given, **named)
            delta: Tensor = self.delta_bias  # type: ignore[assignment]
            return out + delta.to(out.dtype)
        return torch.func.functional_call(self.base_layer, self.changed(), given, named)

    def fold(self) -> dict[str, Tensor]:
        """Return the changed tensors."""
        return {
            name: self._inner(name).float() + self.get_parameter(f"delta_{name}")
            for name in self.names
        }
