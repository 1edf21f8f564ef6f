"""What a method needs to see before it trains."""

from __future__ import annotations

from typing import Any

from sapwood.methods.lora import start_from_inputs
from sapwood.training.loop import Supervised

ROWS, TOKENS = 64, 2048  # rows that are looked at, tokens a pack


def started(net: Any, supervised: Supervised) -> None:
    """Show the methods attached to `net` the first training rows, where one asks for them.

    So far: LoRA that starts from its inputs (EVA). Call it before the optimiser is made.
    """

    def run() -> None:
        for _ in supervised.losses(range(min(ROWS, len(supervised))), TOKENS):
            pass

    start_from_inputs(net, run)
