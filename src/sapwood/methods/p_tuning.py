"""P-tuning: virtual tokens whose embeddings a small net makes (Liu et al., arXiv 2103.10385).

The small net is there while it trains, and in checkpoints; an adaptation keeps what it makes, a
plain prompt, as PEFT does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sapwood.errors import ConfigError
from sapwood.methods.parts import Method
from sapwood.methods.prompt import (
    STARTS,
    Prompt,
    VirtualTokens,
    check_start,
    first_rows,
    seat_table,
)


@dataclass(frozen=True, kw_only=True)
class PTuning(Method):
    """The whole configuration of p-tuning.

    `tokens`, `start`, `text_ids`: see `Prompt`; here they say where the inputs of the small net
    start. `width` >= 1: how many numbers pass in it.
    """

    name: ClassVar[str] = "p_tuning"
    tokens: int = 20
    width: int = 128
    start: str = "vocabulary"
    text_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_start("p-tuning", self.tokens, self.start, self.text_ids, STARTS)
        if self.width < 1:
            raise ConfigError(
                "E-CONFIG-020", f"The width of p-tuning must be 1 or more, got {self.width}."
            )

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. Raises ConfigError (E-CONFIG-026) when the net has virtual tokens."""
        rows = first_rows(net, self.tokens, self.start, self.text_ids, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = Encoded(net, rows, self.width)
        return seat_table(net, made)

    def describe(self) -> str:
        """Return it in words for the report."""
        return f"p-tuning, {self.tokens} virtual tokens, width {self.width}"

    def kept(self) -> Prompt:
        """Return the configuration of what is stored: a plain prompt that answers the same."""
        return Prompt(tokens=self.tokens, start="random")


class Encoded(VirtualTokens):
    """Virtual tokens whose embeddings a two-layer net makes of trained `inputs` (tokens, hidden).

    Its weights start so that what comes out is as wide as what goes in: virtual tokens begin at
    the scale of real ones, whatever that is in this base.
    """

    def __init__(self, net: Any, rows: Tensor, width: int) -> None:
        super().__init__(net, len(rows))
        hidden = rows.shape[1]
        self.inputs = nn.Parameter(rows)
        inner, outer = nn.Linear(hidden, width), nn.Linear(width, hidden)
        nn.init.normal_(inner.weight, std=(2 / hidden) ** 0.5)  # a ReLU lets half of it through
        nn.init.normal_(outer.weight, std=width**-0.5)
        nn.init.zeros_(inner.bias)
        nn.init.zeros_(outer.bias)
        self.encoder = nn.Sequential(inner, nn.ReLU(), outer).to(rows.device)

    def table(self) -> Tensor:
        """Return the embeddings, (tokens, hidden), float32."""
        out: Tensor = self.encoder(self.inputs)
        return out
