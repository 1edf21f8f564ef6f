"""Replaced-token detection: which tokens did a small generator put there? (Clark et al. 2020).

Paper: arXiv 2003.10555, ELECTRA. The generator learns mlm on these examples. What it then samples
at their targets stands in the discriminator's input, whose label is 1 where it differs from the
original; both happen in training, because the samples come from the generator of that step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from sapwood.objectives.masking import wrong_unit
from sapwood.objectives.mlm import Mlm
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import Arrays, Frame, Measure, Objective, Window


@dataclass(frozen=True, kw_only=True)
class Rtd(Objective):
    """The generator's examples: targets are masked or stay, and none is replaced at random.

    `rate`: of targets (ELECTRA: 0.15, its large 0.25); `mask`: their share that becomes the mask
    token (0.85), the rest keeps its token; `unit`: as in mlm.
    """

    name: ClassVar[str] = "rtd"
    net: ClassVar[str] = "encoder"
    joins: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("mask",)
    rate: float = 0.15
    mask: float = 0.85
    unit: str = "token"

    def __post_init__(self) -> None:
        problems = self.shares(rate=self.rate, mask=self.mask)
        if not self.rate:
            problems.append("rate must be above 0, or nothing is learnt")
        self.refuse(problems + wrong_unit(self.unit))

    @cached_property
    def generator(self) -> Mlm:
        """Return the masked language modelling that the generator learns."""
        return Mlm(rate=self.rate, mask=self.mask, random=0.0, unit=self.unit)

    def frame(self, vocabulary: Vocabulary) -> Frame:
        """See `Objective`."""
        return self.generator.frame(vocabulary)

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`."""
        return self.generator.measure(length, vocabulary)

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return the arrays of mlm; where labels are targets the trainer puts samples."""
        return self.generator.example(window, rng, vocabulary)
