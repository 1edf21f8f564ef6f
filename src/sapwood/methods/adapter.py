"""Bottleneck adapters, `h + W2 s(W1 h)`, after a sublayer or beside it.

Houlsby et al. (arXiv 1902.00751), Pfeiffer et al. (2005.00247), parallel: He et al. (2110.04366).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from sapwood.errors import ConfigError
from sapwood.methods.gate import Gate
from sapwood.methods.lora import freeze
from sapwood.methods.parts import Method, Part
from sapwood.methods.places import Place, role
from sapwood.registry import did_you_mean

PLACEMENTS = {
    "houlsby": ("attention-out", "ff-out"),
    "pfeiffer": ("ff-out",),
    "parallel": ("ff-out",),
}


@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """A bottleneck's whole configuration.

    `width` >= 1: how many numbers pass; `placement`: "houlsby" after attention and feed-forward
    part, "pfeiffer" after the feed-forward part, "parallel" beside it; `activation`: a name that
    transformers knows; `scale`: factor of what is added.
    """

    name: ClassVar[str] = "adapter"
    width: int = 48
    placement: str = "pfeiffer"
    activation: str = "relu"
    scale: float = 1.0

    def __post_init__(self) -> None:
        problems = bottleneck_problems(self)
        if problems:
            raise ConfigError("E-CONFIG-020", "The adapter is wrong.", details=problems)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. Raises ConfigError (E-CONFIG-022) where the kind lacks the place."""

        def make(place: Place, layer: nn.Module, tap: Tap | None) -> Bottleneck:
            return Bottleneck(layer, place.module, self, tap)

        return place_bottlenecks(net, self.placement, make, seed=seed)

    def describe(self) -> str:
        """Return it in words for the report."""
        return f"{self.placement} adapter, width {self.width}"


def bottleneck_problems(settings: Any) -> list[str]:
    """Return what is wrong with width, placement, activation and scale, a sentence each."""
    problems = []
    if settings.width < 1:
        problems.append(f"width must be 1 or more, got {settings.width}")
    for field, known in (("placement", PLACEMENTS), ("activation", ACT2FN)):
        given = getattr(settings, field)
        if given not in known:
            problems.append(f"{field} '{given}' is unknown.{did_you_mean(given, known)}")
    if not settings.scale:
        problems.append("scale must not be 0: nothing would train")
    return problems


def place_bottlenecks(
    net: Any,
    placement: str,
    make: Callable[[Place, nn.Module, Tap | None], Added],
    *,
    seed: int,
) -> Any:
    """Freeze the base of `net`, put what `make` returns at each place, and return the net.

    `make` takes the place, the module there now, and the tap for a part that sits beside. Raises
    ConfigError (E-CONFIG-022) where the kind lacks the place.
    """
    found = [place for name in PLACEMENTS[placement] for place in role(net, name)]
    beside = role(net, "ff-in") if placement == "parallel" else []
    freeze(net)
    taps: dict[str, Tap] = {}
    for place in beside:
        block = _block(place)
        if block not in taps:  # gate and up read the same states
            taps[block] = Tap(net.get_submodule(place.outer))
            net.set_submodule(place.outer, taps[block])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place in found:
            made = make(place, net.get_submodule(place.outer), taps.get(_block(place)))
            made.train(net.training)
            net.set_submodule(place.outer, made)
    return net


def _block(place: Place) -> str:
    """Return the path up to the last number in it: the block a module belongs to."""
    names = place.path.split(".")
    last = max(n for n, name in enumerate(names) if name.isdigit())
    return ".".join(names[: last + 1])


class Tap(Part):
    """A module that keeps its input for a part beside it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        """Run the module."""
        self.seen = x if self.active else None
        return self.base_layer(x)

    def fold(self) -> dict[str, Tensor]:
        """Return nothing: it changes nothing."""
        return {}


class Added(Part):
    """What a sublayer gives, plus something made of it, or of the states a tap saw.

    A gate, where there is one, weighs what is added; `own` is the base's module under `layer`.
    """

    def __init__(self, layer: nn.Module, own: nn.Module, tap: Tap | None) -> None:
        super().__init__(layer)
        weight: Any = own.weight
        self.hidden = int(weight.shape[1] if isinstance(own, Conv1D) else weight.shape[0])
        self.device: torch.device = weight.device
        self.adapter_gate: Gate | None = None
        self._tap = [tap]  # in a list: torch must not take it for a module of this one

    @property
    def beside(self) -> bool:
        """Whether it reads what its block reads, not what the sublayer gives."""
        return self._tap[0] is not None

    def added(self, states: Tensor) -> Tensor:
        """Return what is added for `states`, (..., hidden)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., hidden)."""
        out: Tensor = self.base_layer(x)
        if not self.active:
            return out
        tap = self._tap[0]
        states = out
        if tap is not None:
            assert tap.seen is not None, "the feed-forward part did not run before its end"
            states, tap.seen = tap.seen, None
        more = self.added(states)
        return out + (more if self.adapter_gate is None else more * self.adapter_gate(states))


class Bottleneck(Added):
    """What is added is `up(act(down(.)))`.

    `adapter_down` (width, hidden) with bias, normal with deviation 0.02 at first; `adapter_up`
    (hidden, width) with bias, zero at first.
    """

    def __init__(
        self, layer: nn.Module, own: nn.Module, settings: Adapter, tap: Tap | None
    ) -> None:
        super().__init__(layer, own, tap)
        self.act, self.scale = ACT2FN[settings.activation], settings.scale
        # drawn on the CPU, and so the same on every device
        self.adapter_down = nn.Linear(self.hidden, settings.width, dtype=torch.float32)
        self.adapter_up = nn.Linear(settings.width, self.hidden, dtype=torch.float32)
        nn.init.normal_(self.adapter_down.weight, std=0.02)
        nn.init.zeros_(self.adapter_down.bias)
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)
        self.adapter_down.to(self.device)
        self.adapter_up.to(self.device)

    def extra_repr(self) -> str:
        """Return what changes the output besides the trained tensors."""
        return f"scale={self.scale!r}, act={type(self.act).__name__}"

    def added(self, states: Tensor) -> Tensor:
        """Return what is added for `states`, (..., hidden)."""
        inner = self.act(_linear(states, self.adapter_down))
        return _linear(inner, self.adapter_up) * self.scale


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
