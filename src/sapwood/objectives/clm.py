"""Causal language modelling: predict each token from those before it (Bengio et al. 2003)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sapwood.interfaces import Integers
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import (
    NO_TARGET,
    Arrays,
    Measure,
    Objective,
    Piece,
    Window,
)


@dataclass(frozen=True, kw_only=True)
class Clm(Objective):
    """Every token is a target once an epoch, and the end of every document, too.

    A document stands after bos (else eos) and before eos. A piece from inside a document stands
    after the token before it, which is no target there.
    """

    name: ClassVar[str] = "clm"
    net: ClassVar[str] = "decoder"
    needs: ClassVar[tuple[str, ...]] = ("opening", "eos")

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: one token stands before a piece, one ends a document."""
        return Measure(capacity=length, overhead=1, tail=1)

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return input_ids, labels (in place) and documents, (n,), and bytes ()."""
        rows = [opened(piece, vocabulary) for piece in window.pieces]
        return in_a_row(rows, sum(piece.bytes for piece in window.pieces))

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`."""
        ids: Integers = example["input_ids"][example["labels"] != NO_TARGET]
        return ids


def opened(piece: Piece, vocabulary: Vocabulary) -> list[int]:
    """Return a piece after its first context, and before eos where its document ends."""
    before = vocabulary.opening if piece.before is None else piece.before
    assert before is not None
    row: list[int] = [before, *piece.ids.tolist()]
    if piece.last:
        assert vocabulary.eos is not None
        row.append(vocabulary.eos)
    return row


def in_a_row(rows: list[list[int]], size: int) -> Arrays:
    """Return rows of tokens as one example of a decoder: the first of each row is no target."""
    ids = np.array([token for row in rows for token in row], dtype=np.int64)
    lengths = np.array([len(row) for row in rows])
    labels = ids.copy()
    labels[np.cumsum(lengths) - lengths] = NO_TARGET
    return {
        "input_ids": ids,
        "labels": labels,
        "documents": np.repeat(np.arange(len(rows)), lengths),
        "bytes": np.array(size, dtype=np.int64),
    }
