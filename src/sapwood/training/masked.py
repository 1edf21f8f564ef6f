"""The loss of label words at masks: cross-entropy over the labels of their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.models.masked import MaskedWords, Rows


class MaskedSupervision:
    """The loss of texts with masks, see `MaskedWords`; `gold`: the label number of each."""

    def __init__(self, words: MaskedWords, rows: Sequence[Rows], gold: Sequence[int]) -> None:
        assert len(rows) == len(gold), "a label a row"
        words.encoder.check_length([ids for row in rows for ids in row.values()])
        self.words, self.rows, self.gold = words, rows, gold

    def __len__(self) -> int:
        return len(self.rows)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of texts: the loss is their mean."""
        return len(numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the examples `numbers`."""
        rows = [self.rows[n] for n in numbers]
        for part, scores, tokens in self.words.scores(rows, budget=budget, gradient=True):
            gold = torch.tensor([int(self.gold[numbers[n]]) for n in part], device=scores.device)
            yield functional.cross_entropy(scores, gold, reduction="sum"), tokens
