"""Masked language modelling: predict hidden tokens from both sides (Devlin et al. 2019).

Paper: arXiv 1810.04805, section 3.1. The rate: Wettig et al. 2023 (arXiv 2202.08005).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from sapwood.objectives.masking import (
    chosen_spans,
    chosen_tokens,
    chosen_words,
    count_of,
    hide,
    wrong_unit,
)
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import (
    NO_TARGET,
    Arrays,
    Frame,
    Measure,
    Objective,
    Window,
    encoder_frame,
)

# BERT's rate. Losses at different rates cannot be compared, so held-out text has one rate for all.
EVALUATION_RATE = 0.15


@dataclass(frozen=True, kw_only=True)
class Mlm(Objective):
    """Hide a share of the tokens, anew every epoch.

    `rate`: of the tokens that are not special (0.30: MosaicBERT and ModernBERT; BERT's was 0.15);
    `mask`, `random`: shares of the hidden that become the mask token, or a random token; the rest
    stay. `unit`: "token"; "word", all tokens of a word; "span", SpanBERT's runs of whole words, of
    which one draw masks, replaces or keeps all.
    """

    name: ClassVar[str] = "mlm"
    net: ClassVar[str] = "encoder"
    joins: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("mask",)
    rate: float = 0.30
    mask: float = 0.8
    random: float = 0.1
    unit: str = "token"

    def __post_init__(self) -> None:
        problems = self.shares(rate=self.rate, mask=self.mask, random=self.random)
        if not self.rate:
            problems.append("rate must be above 0, or nothing is learnt")
        if self.mask + self.random > 1 + 1e-9:  # sums such as 0.9 + 0.1 are not exact
            problems.append("mask and random together must not pass 1")
        self.refuse(problems + wrong_unit(self.unit))

    def frame(self, vocabulary: Vocabulary) -> Frame:
        """See `Objective`."""
        return encoder_frame(vocabulary)

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: every piece stands between [CLS] and [SEP]."""
        return Measure(capacity=length, overhead=self.frame(vocabulary).overhead(pair=False))

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return input_ids, labels and documents, (n,); token_type_ids (n,) of a pair."""
        passage = self.frame(vocabulary).around(window)
        candidates = np.flatnonzero(~vocabulary.special[passage.ids])
        count = count_of(self.rate, len(candidates), rng)
        groups = None
        if self.unit == "token":
            chosen = chosen_tokens(candidates, count, rng)
        elif self.unit == "word":
            chosen = chosen_words(passage.starts, candidates, count, rng)
        else:
            chosen, groups = chosen_spans(passage.starts, candidates, count, rng)
        labels = np.full(len(passage.ids), NO_TARGET)
        labels[chosen] = passage.ids[chosen]
        shown = hide(passage.ids, chosen, (self.mask, self.random), rng, vocabulary, groups)
        return passage.arrays(input_ids=shown, labels=labels)

    def evaluated(self) -> Self:
        """Return the same at a rate of 0.15."""
        return replace(self, rate=EVALUATION_RATE)
