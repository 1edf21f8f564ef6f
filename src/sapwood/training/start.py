"""What a method needs to see before it trains, and what it is once it has seen it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sapwood.methods.fusion import Fusion, as_fused
from sapwood.methods.lora import Lora, as_ranked, start_from_inputs
from sapwood.methods.parts import Method, parts
from sapwood.methods.together import Together
from sapwood.training.loop import Supervised

ROWS, TOKENS = 64, 2048  # rows that are looked at, tokens a pack


def started(net: Any, supervised: Supervised) -> None:
    """Show the methods attached to `net` the first training rows, where one asks for them.

    So far: LoRA that starts from its inputs (EVA). Call it before the optimiser is made; the
    trained tensors stay the same objects, but some may have another shape.
    """

    def run() -> None:
        for _ in supervised.losses(range(min(ROWS, len(supervised))), TOKENS):
            pass

    start_from_inputs(net, run)


def as_trained(net: Any, method: Method) -> Method:
    """Return the configuration of what an adaptation keeps of `method`, attached to `net`.

    That is `method.kept()`, with what only the net can tell since: the ranks that EVA moved, and
    the methods of the adapters that were fused.
    """
    if isinstance(method, Together):
        return replace(method, methods=tuple(as_trained(net, each) for each in method.methods))
    own = [(path, part) for path, part in parts(net) if part.owner in (None, method)]
    if isinstance(method, Lora):
        return as_ranked(net, method, own)
    if isinstance(method, Fusion):
        return as_fused(method, own)
    return method.kept()
