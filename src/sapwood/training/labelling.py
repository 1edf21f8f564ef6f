"""The loss of an encoder under a head for several labels a text: binary cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sapwood.errors import DataError
from sapwood.models.encoder import Encoder
from sapwood.readouts.head import Head
from sapwood.training.heads import TrainedHead


class LabelsSupervision:
    """The loss of texts with any number of labels: `rows` token ids, `wanted` (rows, labels).

    Of a text it is the sum over labels, so that a label's gradient does not shrink with how many
    others there are. Raises DataError (E-DATA-064) when there is not one answer a row and label,
    ModelError (E-MODEL-030) when a row is longer than the base reads.
    """

    def __init__(
        self,
        encoder: Encoder,
        rows: Sequence[Sequence[int]],
        wanted: NDArray[Any],
        head: TrainedHead[Head],
    ) -> None:
        encoder.check_length(rows)
        shape = (len(rows), len(head.start.labels))
        if wanted.shape != shape:
            raise DataError(
                "E-DATA-064",
                f"A head for {shape[1]} labels needs answers of shape {shape}, got {wanted.shape}.",
            )
        self.encoder, self.rows, self.head = encoder, rows, head
        self.wanted = torch.tensor(wanted, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of texts: the loss is their mean."""
        return len(numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the examples `numbers`."""
        rows = [self.rows[n] for n in numbers]
        for part, states in self.encoder.packs(rows, budget=budget, gradient=True):
            own = [rows[n] for n in part]
            logits = self.head(self.encoder.pooled(own, states, self.head.start.pooling))
            wanted = self.wanted[[numbers[n] for n in part]].to(logits.device)
            loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
            yield loss, sum(map(len, states))
