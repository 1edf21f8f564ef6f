"""Merging into a base of packed weights, which rounds what was trained: only on request, measured.

`parts.merge` refuses it (E-CONFIG-037): a low-rank change is often smaller than the distance
between two values of 4 bits, and then is simply gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sapwood.methods.parts import Part, detach, innermost, parts


@dataclass(frozen=True, kw_only=True)
class Change:
    """How far outputs moved: the mean and largest difference, and the mean that training made."""

    mean: float
    largest: float
    trained: float

    def line(self) -> str:
        """Return it in one line, for people."""
        share = self.mean / self.trained if self.trained else float("inf")
        return (
            f"Merging rounded the weights: outputs moved by {self.mean:.2g} on average, "
            f"{self.largest:.2g} at most; training had moved them by {self.trained:.2g} "
            f"({share:.0%} of it)."
        )


@contextmanager
def _mergeable(found: Sequence[Part]) -> Iterator[None]:
    owners: list[Any] = [m for m in map(innermost, found) if hasattr(m, "mergeable")]
    for owner in owners:
        owner.mergeable = True
    try:
        yield
    finally:
        for owner in owners:
            owner.mergeable = False


def _merge(part: Part) -> None:
    owner: Any = innermost(part)
    for name, tensor in part.fold().items():
        if name == "weight" and hasattr(owner, "hold"):
            owner.hold(tensor.to(owner.weight.dtype))
        else:
            held = owner.get_parameter(name)
            held.data = tensor.to(held.dtype)
    part.enabled = False


@torch.no_grad()
def merge_rounded(net: Any, run: Callable[[], Tensor]) -> Change:
    """Merge every part into `net`, packing the sums again, and measure what that changed.

    `run` returns what to compare, such as log-probabilities on some texts. The base of before is
    gone afterwards. Raises ConfigError (E-CONFIG-023) for a part that is no change of weights,
    before anything was merged.
    """
    found = [part for _, part in parts(net)]
    attached = run()
    for part in found:
        part.enabled = False
    plain = run()
    for part in found:
        part.enabled = True
    with _mergeable(found):
        for part in found:
            part.fold()  # refuses before anything is changed
        for part in reversed(found):
            _merge(part)
    merged = run()
    detach(net)
    moved = (merged - attached).abs().float()
    return Change(
        mean=float(moved.mean()),
        largest=float(moved.max()),
        trained=float((attached - plain).abs().float().mean()),
    )
