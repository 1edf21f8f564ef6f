"""UL2, a mixture of denoisers: short spans, extreme ones, and the rest of a text (Tay et al. 2023).

Paper: arXiv 2205.05131, table 1: seven denoisers in equal shares, each announced by a mode token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from sapwood.interfaces import Integers
from sapwood.objectives.mixtures import tightest
from sapwood.objectives.prefix_lm import PrefixLm
from sapwood.objectives.span import Span, wrong_form
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import NO_TARGET, Arrays, Measure, Objective, Window

_REGULAR, _EXTREME, _SEQUENTIAL = range(3)  # the order of Vocabulary.modes
# (mode, density, mean length of a span in tokens), UL2's table 1; the sequential one is below.
_SPANS = (
    (_REGULAR, 0.15, 3.0),
    (_REGULAR, 0.15, 8.0),
    (_EXTREME, 0.5, 3.0),
    (_EXTREME, 0.5, 8.0),
    (_EXTREME, 0.15, 64.0),
    (_EXTREME, 0.5, 64.0),
)
_SEQUENTIAL_DENSITY = 0.25


@dataclass(frozen=True, kw_only=True)
class Ul2(Objective):
    """Each example is made by one of seven denoisers, after its mode token if there are any.

    `form`: "pair" for an encoder-decoder, "joined" for a decoder that sees the input both ways.
    """

    name: ClassVar[str] = "ul2"
    net: ClassVar[str] = "encoder-decoder"
    layout: ClassVar[str] = "single"
    needs: ClassVar[tuple[str, ...]] = ("eos", "sentinels")
    form: str = "pair"

    def __post_init__(self) -> None:
        self.refuse(wrong_form(self.form))

    @property
    def trains(self) -> str:
        """Return "prefix" for the joined form."""
        return "prefix" if self.form == "joined" else self.net

    @cached_property
    def denoisers(self) -> tuple[tuple[int, Objective], ...]:
        """Return (mode, objective) of the seven; modes are 0 regular, 1 extreme, 2 sequential."""
        spans = [(m, Span(density=d, mean=mean, form=self.form)) for m, d, mean in _SPANS]
        rest = PrefixLm(density=_SEQUENTIAL_DENSITY, form=self.form)
        return (*spans, (_SEQUENTIAL, rest))

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: what fits every denoiser, and a mode token before it."""
        free = length - bool(vocabulary.modes)
        return tightest([each.measure(free, vocabulary) for _, each in self.denoisers])

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return what the denoiser returns, and its number `member` ()."""
        number = int(rng.integers(len(self.denoisers)))
        mode, denoiser = self.denoisers[number]
        made = denoiser.example(window, rng, vocabulary)
        if vocabulary.modes:
            made = _announced(made, vocabulary.modes[mode], self.form)
        return made | {"member": np.array(number)}

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`."""
        if vocabulary.modes:
            example = example | {"input_ids": example["input_ids"][1:]}
            if self.form == "joined":
                example["prefix"] = np.asarray(example["prefix"] - 1)
        return self.denoisers[int(example["member"])][1].original(example, vocabulary)


def _announced(made: Arrays, mode: int, form: str) -> Arrays:
    """Return an example with a mode token before its input."""
    ids = np.insert(made["input_ids"], 0, mode)
    more: Arrays = {"input_ids": ids, "documents": np.zeros_like(ids)}
    if form == "joined":
        more["labels"] = np.insert(made["labels"], 0, NO_TARGET)
        more["prefix"] = np.asarray(made["prefix"] + 1)
    return made | more
