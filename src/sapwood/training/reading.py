"""How a net's loss on examples of an objective is computed: the interface of its several ways.

Each way is a `Reading`: masked (BERT kinds), causal (decoders), denoising (T5), permuted (XLNet),
replaced (ELECTRA). What they give is summed, so that it does not depend on how a batch is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from sapwood.training.pieces import Example


class Reading(Protocol):
    """The parts of a loss, such as "mlm" and "nsp": each is a sum over a count of its own."""

    net: Any

    @property
    def weights(self) -> Mapping[str, float]:
        """Return what each part's mean counts in the loss."""
        ...

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """Return what each part's sum over `examples` is divided by."""
        ...

    def sums(
        self, examples: Sequence[Example], budget: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Yield (summed losses by part, tokens computed), about `budget` tokens at a time."""
        ...
