"""Prefix language modelling: read the beginning both ways, write the rest (Raffel et al. 2020).

Paper: arXiv 1910.10683, section 3.2 (T5); first in Liu et al. 2018 (arXiv 1801.10198).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sapwood.interfaces import Integers
from sapwood.objectives.clm import opened
from sapwood.objectives.span import formed, parted, wrong_form
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import NO_TARGET, Arrays, Measure, Objective, Window


@dataclass(frozen=True, kw_only=True)
class PrefixLm(Objective):
    """The text is cut once, at random; the part before the cut is given, the rest is the target.

    `density`: the share of the target in the mean, at most 0.5; the prefix has from
    (1 - 2 density) of the tokens to all but one, each length equally likely. `form`: "joined", one
    row of a decoder that sees the first `prefix` tokens both ways; "pair", input and target of an
    encoder-decoder, each ending in eos.
    """

    name: ClassVar[str] = "prefix_lm"
    net: ClassVar[str] = "prefix"
    layout: ClassVar[str] = "single"
    needs: ClassVar[tuple[str, ...]] = ("opening", "eos")
    density: float = 0.5
    form: str = "joined"

    def __post_init__(self) -> None:
        problems = wrong_form(self.form)
        if not 0 < self.density <= 0.5:
            problems.append(f"density must be above 0 and at most 0.5, not {self.density}")
        self.refuse(problems)

    @property
    def trains(self) -> str:
        """Return "encoder-decoder" for pairs of input and target."""
        return "encoder-decoder" if self.form == "pair" else self.net

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: a row is opened and ended; of a pair, eos takes the target's place."""
        if self.form == "pair":
            return Measure(capacity=length, overhead=0)
        return Measure(capacity=length, overhead=1, tail=1)

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return input_ids, labels (in place) and documents, (n,), and prefix ().

        Pair: input_ids and documents, (n,), and the decoder's labels (m,).
        """
        piece = window.pieces[0]
        size = len(piece.ids)
        cut = size if size < 2 else int(rng.integers(least(size, self.density), size))
        if self.form == "pair":
            ids = np.asarray(piece.ids, dtype=np.int64)
            return formed(ids[:cut], ids[cut:], vocabulary, self.form)
        row = np.array(opened(piece, vocabulary), dtype=np.int64)
        labels = row.copy()
        labels[: cut + 1] = NO_TARGET
        return {
            "input_ids": row,
            "labels": labels,
            "documents": np.zeros_like(row),
            "prefix": np.array(cut + 1),
        }

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`."""
        text = np.concatenate(parted(example))
        return text if self.form == "pair" else text[1:]


def least(tokens: int, density: float) -> int:
    """Return the fewest tokens of a prefix, 1 or more (T5's random_prefix_noise_mask)."""
    return min(max(round((1 - 2 * density) * (tokens - 1)), 1), tokens - 1)
