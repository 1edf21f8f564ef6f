"""Sentence-order prediction: were A and B swapped? (Lan et al. 2020, arXiv 1909.11942, ALBERT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sapwood.objectives.layouts import Layout
from sapwood.objectives.nsp import Pairwise
from sapwood.objectives.pairs import Sentences, sentence_order


@dataclass(frozen=True, kw_only=True)
class Sop(Pairwise):
    """Label 0: A and B stand as in their document; 1: they are swapped; half of each.

    Both always come from one document, also where it is short: no pair can be told by its topic.
    """

    name: ClassVar[str] = "sop"

    def pairs(self, sentences: Sentences, room: int, rng: np.random.Generator) -> Layout:
        """See `Pairwise`."""
        return sentence_order(sentences, room, self.short, rng)
