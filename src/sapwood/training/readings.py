"""Which way of reading fits a net and an objective, and what `fit` makes of it: a `Supervised`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sapwood.models.pair import Pair
from sapwood.training.causal_tokens import CausalTokens
from sapwood.training.denoising import Denoising
from sapwood.training.masked_tokens import MaskedTokens
from sapwood.training.permuted import Permuted
from sapwood.training.pieces import Example
from sapwood.training.reading import Reading
from sapwood.training.recurrent_tokens import RecurrentTokens
from sapwood.training.replaced import Replaced

PAIRS = ("nsp", "sop")
ENCODERS = ("bert", "albert", "modernbert")


# How a net reads examples of objectives: `reading_for`, or another engine's.
Read = Callable[[Any, Sequence[str]], Reading]


def reading_for(net: Any, objectives: Sequence[str]) -> Reading:
    """Return how `net` reads examples of `objectives`, names such as ("mlm", "nsp")."""
    if isinstance(net, Pair):
        return Replaced(net)
    kind = net.config.model_type
    if kind in ENCODERS:
        return MaskedTokens(net, next((name for name in objectives if name in PAIRS), ""))
    if kind == "t5":
        return Denoising(net, objectives[0])
    if kind == "xlnet":
        return Permuted(net)
    if kind == "sapwood_rnn":
        return RecurrentTokens(net)
    return CausalTokens(net, objectives[0])


class Examples(Protocol):
    """Examples by their place, without end; see `training.stream`."""

    def __len__(self) -> int:
        """Return the number of examples of one epoch."""
        ...

    def example(self, place: int) -> Example:
        """Return the example at `place`, from 0."""
        ...


class Pretraining:
    """The loss of a stream of examples: the weighted sum of its parts' means over the batch.

    `precision`: the number format of products; weights and what is summed stay float32.
    """

    def __init__(
        self, reading: Reading, examples: Examples, precision: torch.dtype = torch.float32
    ) -> None:
        self.reading, self.examples, self.precision = reading, examples, precision
        self._batch: list[Example] = []
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return 1: `losses` are divided by what each part counts, for which it draws here."""
        self._batch = [self.examples.example(number) for number in numbers]
        self._counts = self.reading.counts(self._batch)
        return 1

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (share of the loss, tokens computed) for the batch of `supervised`."""
        weights = self.reading.weights
        for sums, tokens in computed(self.reading, self._batch, budget, self.precision):
            parts = [
                weights[name] / self._counts[name] * loss
                for name, loss in sums.items()
                if self._counts[name]
            ]
            if parts:  # rows so short that nothing of them is learnt have none
                yield torch.stack(parts).sum(), tokens


def computed(
    reading: Reading, examples: Sequence[Example], budget: int, precision: torch.dtype
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Yield what `reading.sums` does, computed in `precision`; the caller's part is not."""
    parts = iter(reading.sums(examples, budget))
    device = reading.net.device.type
    while True:
        with _format(device, precision):
            found = next(parts, None)
        if found is None:
            return
        yield found


def _format(device: str, precision: torch.dtype) -> AbstractContextManager[Any]:
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device, dtype=precision)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Losses on text that is not trained on.

    `loss`: the weighted sum; `parts`: each part's mean, in nats; `bits_per_byte`: where the
    objective scores every byte once, else None.
    """

    loss: float
    parts: dict[str, float]
    bits_per_byte: float | None
    examples: int

    def words(self) -> str:
        """Return it in a few words."""
        if self.bits_per_byte is not None:
            return f"{self.bits_per_byte:.3f} bits a byte"
        return ", ".join(f"{name} {loss:.3f}" for name, loss in self.parts.items())


@torch.no_grad()
def held_out(
    reading: Reading, examples: Sequence[Example], budget: int, precision: torch.dtype
) -> HeldOut:
    """Return the losses on `examples`; `budget`: tokens computed at once."""
    totals: dict[str, float] = dict.fromkeys(reading.weights, 0.0)
    for sums, _ in computed(reading, examples, budget, precision):
        for name, part in sums.items():
            totals[name] += float(part)
    counts = reading.counts(examples)
    means = {name: totals[name] / counts[name] for name in totals if counts[name]}
    size = sum(int(example.get("bytes", 0)) for example in examples)
    bits = None
    if size and "clm" in means:
        bits = totals["clm"] / math.log(2) / size
    loss = sum(reading.weights[name] * mean for name, mean in means.items())
    return HeldOut(loss=loss, parts=means, bits_per_byte=bits, examples=len(examples))
