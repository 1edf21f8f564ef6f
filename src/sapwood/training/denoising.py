"""Text-to-text loss of encoder-decoders: spans corrupted, prefixes continued. T5 and its kin.

Raffel et al. 2020, arXiv 1910.10683. Rows of similar length are padded together; the head runs at
the real tokens of the targets only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.models.text_to_text import TextToText, answered
from sapwood.training.pieces import NOT_LEARNT, Example
from sapwood.training.token_loss import token_loss


class Denoising:
    """The loss of targets after inputs; `name` of its one part."""

    def __init__(self, net: Any, name: str = "span") -> None:
        self.net, self.name, self.model = net, name, TextToText(net)

    @property
    def weights(self) -> Mapping[str, float]:
        """Return 1 for the one part."""
        return {self.name: 1.0}

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """See `Reading`."""
        return {self.name: sum(len(text_to_text(example)[1]) for example in examples)}

    def sums(
        self, examples: Sequence[Example], budget: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """See `Reading`."""
        pairs = [text_to_text(example) for example in examples]
        inputs, targets = [own for own, _ in pairs], [own for _, own in pairs]
        head = self.net.get_output_embeddings()
        for part, states, tokens in answered(self.model, inputs, targets, budget):
            gold = torch.tensor([token for n in part for token in targets[n]], device=states.device)
            yield {self.name: token_loss(states, head.weight, head.bias, gold)}, tokens


def text_to_text(example: Example) -> tuple[list[int], list[int]]:
    """Return (input ids, target ids); an example of one text is divided at its `prefix`."""
    ids, labels = np.asarray(example["input_ids"]), np.asarray(example["labels"])
    if "prefix" in example:
        at = int(example["prefix"])
        ids, labels = ids[:at], labels[at:]
    return ids.tolist(), labels[labels != NOT_LEARNT].tolist()
