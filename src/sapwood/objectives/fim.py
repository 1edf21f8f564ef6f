"""Filling in the middle: a decoder learns to write what fits between two texts (Bavarian et al.).

Paper: arXiv 2207.14255 (2022). Cuts are between tokens, not characters, so that no token is split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sapwood.interfaces import Integers
from sapwood.objectives.clm import in_a_row, opened
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import Arrays, Measure, Objective, Piece, Window


@dataclass(frozen=True, kw_only=True)
class Fim(Objective):
    """Documents, a share of them with the middle moved to the end; the rest as in clm.

    `rate`: the share that is cut into prefix, middle and suffix at two places, uniform over all
    places from before the first to after the last token; `spm`: the share of these that gives the
    suffix first. `<PRE> p <SUF> s <MID> m eos`, or `<PRE> <SUF> s <MID> p m eos`. A document that
    is longer than an example is cut first, and each piece is treated as a document.
    """

    name: ClassVar[str] = "fim"
    net: ClassVar[str] = "decoder"
    needs: ClassVar[tuple[str, ...]] = ("opening", "eos", "prefix", "suffix", "middle")
    rate: float = 0.5
    spm: float = 0.5

    def __post_init__(self) -> None:
        self.refuse(self.shares(rate=self.rate, spm=self.spm))

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: one token opens, three mark the parts, one ends the middle."""
        return Measure(capacity=length, overhead=5)

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return input_ids, labels (in place) and documents, (n,), and bytes ()."""
        rows = [self._row(piece, rng, vocabulary) for piece in window.pieces]
        return in_a_row(rows, sum(piece.bytes for piece in window.pieces))

    def _row(self, piece: Piece, rng: np.random.Generator, vocabulary: Vocabulary) -> list[int]:
        if rng.random() >= self.rate:
            return opened(piece, vocabulary)
        first, second = sorted(rng.integers(len(piece.ids), size=2, endpoint=True).tolist())
        return moved(piece.ids.tolist(), first, second, vocabulary, suffix_first=self._swap(rng))

    def _swap(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.spm)

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`: every middle back in its place."""
        ids, documents = example["input_ids"], example["documents"]
        rows = np.split(ids, np.flatnonzero(np.diff(documents)) + 1)
        texts = [_restored(row.tolist(), vocabulary) for row in rows]
        return np.array([token for text in texts for token in text], dtype=np.int64)


def moved(
    ids: list[int], first: int, second: int, vocabulary: Vocabulary, *, suffix_first: bool
) -> list[int]:
    """Return the row of a document whose middle is ids[first:second]."""
    prefix, middle, suffix = ids[:first], ids[first:second], ids[second:]
    open_, pre, suf, mid, end = (
        _id(vocabulary, name) for name in ("opening", "prefix", "suffix", "middle", "eos")
    )
    if suffix_first:
        return [open_, pre, suf, *suffix, mid, *prefix, *middle, end]
    return [open_, pre, *prefix, suf, *suffix, mid, *middle, end]


def _id(vocabulary: Vocabulary, name: str) -> int:
    number = getattr(vocabulary, name)
    assert number is not None
    return int(number)


def _restored(row: list[int], vocabulary: Vocabulary) -> list[int]:
    pre, suf, mid = vocabulary.prefix, vocabulary.suffix, vocabulary.middle
    if pre not in row[:2]:
        return row[1:]
    assert suf is not None
    assert mid is not None
    at, to = row.index(suf), row.index(mid)
    return [*row[2:at], *row[to + 1 : -1], *row[at + 1 : to], row[-1]]
