"""Next-sentence prediction: does B follow A? (Devlin et al. 2019, arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sapwood.interfaces import Integers
from sapwood.objectives.layouts import Layout
from sapwood.objectives.pairs import Sentences, next_sentences
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import (
    Arrays,
    Frame,
    Measure,
    Objective,
    Window,
    encoder_frame,
)


@dataclass(frozen=True, kw_only=True)
class Pairwise(Objective):
    """What objectives on pairs share: [CLS] A [SEP] B [SEP] and a label.

    `short`: the share of pairs that aim at fewer tokens than fit, as BERT's 0.1, so that short
    inputs are met in training, too.
    """

    net: ClassVar[str] = "encoder"
    layout: ClassVar[str] = "pairs"
    needs: ClassVar[tuple[str, ...]] = ("first", "separator")
    short: float = 0.1

    def __post_init__(self) -> None:
        self.refuse(self.shares(short=self.short))

    def frame(self, vocabulary: Vocabulary) -> Frame:
        """Return the special tokens around A and B."""
        return encoder_frame(vocabulary)

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: the overhead is that of a pair."""
        return Measure(capacity=length, overhead=self.frame(vocabulary).overhead(pair=True))

    def pairs(self, sentences: Sentences, room: int, rng: np.random.Generator) -> Layout:
        """Return the pairs of an epoch with at most `room` tokens in A and B together."""
        raise NotImplementedError

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return input_ids, token_type_ids and documents, (n,), and next_sentence_label ()."""
        return self.frame(vocabulary).around(window).arrays(**target(window))

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`: nothing is hidden."""
        return example["input_ids"]


def target(window: Window) -> Arrays:
    """Return the target of a pair: next_sentence_label (), 0 = next or in order, 1 = not."""
    return {"next_sentence_label": np.array(window.label, dtype=np.int64)}


@dataclass(frozen=True, kw_only=True)
class Nsp(Pairwise):
    """Label 0: B follows A; 1: B is from another document (more than half, see `pairs`)."""

    name: ClassVar[str] = "nsp"

    def pairs(self, sentences: Sentences, room: int, rng: np.random.Generator) -> Layout:
        """See `Pairwise`."""
        return next_sentences(sentences, room, self.short, rng)
