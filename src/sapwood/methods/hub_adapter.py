"""AdapterHub's bottlenecks where our `Adapter` reads other states (`adapters` 1.3.0).

Its default, Pfeiffer's "seq_bn", reads the stream after the sublayer's residual is added, and in
BERT after the base's own normalisation; parallel ones ("par_bn") read the residual itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from sapwood.errors import ConfigError
from sapwood.methods.adapter import Adapter, Bottleneck, Tap
from sapwood.methods.lora import freeze
from sapwood.methods.parts import Method
from sapwood.methods.places import Place, kind_of, places, role

READS = ("output", "stream", "residual")


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Where a bottleneck sits in a block: the layer it follows, and how AdapterHub names it.

    `residual`: the module whose input is the sublayer's residual; `norm`: the one that AdapterHub
    applies to the stream first, in nets that normalise after a sublayer.
    """

    layer: str
    theirs: str
    residual: str
    norm: str = ""


_LLAMA = (
    Spot(layer="self_attn.o_proj", theirs="attention_adapters", residual="input_layernorm"),
    Spot(layer="mlp.down_proj", theirs="output_adapters", residual="post_attention_layernorm"),
)
# Of each kind: the spot after attention, the spot after the feed-forward part.
SPOTS = {
    "bert": (
        Spot(layer="attention.output.dense", theirs="attention.output",
              residual="attention.self.query", norm="attention.output.LayerNorm"),
        Spot(layer="output.dense", theirs="output", residual="intermediate.dense",
              norm="output.LayerNorm"),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "gpt2": (
        Spot(layer="attn.c_proj", theirs="attention_adapters", residual="ln_1"),
        Spot(layer="mlp.c_proj", theirs="output_adapters", residual="ln_2"),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HubAdapter(Method):
    """An AdapterHub bottleneck where it stands in nets of the kinds BERT, Llama, Mistral, GPT-2.

    `width` >= 1; `attention`, `output`: after which sublayers; `reads`: the sublayer's "output",
    the "stream" after its residual is added (normalised in BERT) or the "residual" before it;
    `activation`: a name that transformers knows; `scale`: factor of what is added.
    """

    name: ClassVar[str] = "hub-adapter"
    width: int = 48
    attention: bool = False
    output: bool = True
    reads: str = "stream"
    activation: str = "relu"
    scale: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if self.width < 1:
            problems.append(f"width must be 1 or more, got {self.width}")
        if self.reads not in READS:
            problems.append(f"reads is '{self.reads}', not one of {', '.join(READS)}")
        if self.activation not in ACT2FN:
            problems.append(f"activation '{self.activation}' is unknown")
        if not (self.attention or self.output):
            problems.append("attention or output must be true")
        if problems:
            raise ConfigError("E-CONFIG-020", "The adapter is wrong.", details=problems)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. Raises ConfigError (E-CONFIG-022) for other kinds."""
        first, second = spots(kind_of(net))
        wanted = [*([first] if self.attention else []), *([second] if self.output else [])]
        blocks = [place.path for place in role(net, "block")]
        found = {place.path: place for place in places(net)}
        freeze(net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for block in blocks:
                for spot in wanted:
                    self._attach_one(net, found, block, spot)
        return net

    def _attach_one(self, net: Any, found: dict[str, Place], block: str, spot: Spot) -> None:
        settings = Adapter(width=self.width, activation=self.activation, scale=self.scale)
        tap = None
        if self.reads != "output":
            at = _outer(net, f"{block}.{spot.residual}")
            tap = Tap(net.get_submodule(at))
            net.set_submodule(at, tap)
        own = found[f"{block}.{spot.layer}"].module
        at = _outer(net, f"{block}.{spot.layer}")
        made = HubBottleneck(net.get_submodule(at), own, settings, tap)
        if self.reads == "stream":
            made.stream = True
            made.norm += [found[f"{block}.{spot.norm}"].module] if spot.norm else []
        made.train(net.training)
        net.set_submodule(at, made)

    def describe(self) -> str:
        """Return it in words for the report."""
        return f"hub adapter, width {self.width}, reads the {self.reads}"


class HubBottleneck(Bottleneck):
    """A bottleneck over the residual a tap saw, or over that plus the sublayer's output.

    `norm` holds the base's own normalisation that the stream passes first, or nothing.
    """

    def __init__(
        self, layer: nn.Module, own: nn.Module, settings: Adapter, tap: Tap | None
    ) -> None:
        super().__init__(layer, own, settings, tap)
        self.stream = False
        self.norm: list[nn.Module] = []  # a list: torch must not take it for a module of this one

    def extra_repr(self) -> str:
        """Return what changes the output besides the trained tensors."""
        return f"{super().extra_repr()}, stream={self.stream}"

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., hidden)."""
        out: Tensor = self.base_layer(x)
        tap = self._tap[0]
        if not self.active or tap is None:
            return out + self.added(out) if self.active else out
        assert tap.seen is not None, "the sublayer did not run before its end"
        states, tap.seen = tap.seen, None
        if self.stream:
            states = states + out
        for norm in self.norm:
            states = norm(states)
        return out + self.added(states)


def spots(kind: str) -> tuple[Spot, Spot]:
    """Return the spots after attention and after the feed-forward part; E-CONFIG-022 for others."""
    if kind not in SPOTS:
        raise ConfigError(
            "E-CONFIG-022",
            f"AdapterHub's places in a net of the '{kind}' kind are not known here.",
            fix=f"known kinds are {', '.join(SPOTS)}",
        )
    return SPOTS[kind]


def _outer(net: Any, path: str) -> str:
    """Return where the outermost part around a module of the base sits now."""
    return next(place.outer for place in places(net) if place.path == path)
