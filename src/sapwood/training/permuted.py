"""Permutation language modelling with XLNet's two streams (Yang et al. 2019, arXiv 1906.08237).

The content stream holds the real tokens, targets too; the masks of the example say what each token
may see. Only targets have a query, and the head runs there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.models.layout import split_by_budget
from sapwood.training.pieces import NOT_LEARNT, Example
from sapwood.training.token_loss import token_loss


class Permuted:
    """The loss of targets in a drawn order."""

    def __init__(self, net: Any) -> None:
        self.net = net

    @property
    def weights(self) -> Mapping[str, float]:
        """Return 1 for the one part."""
        return {"plm": 1.0}

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """See `Reading`."""
        return {"plm": sum(int((np.asarray(e["labels"]) != NOT_LEARNT).sum()) for e in examples)}

    def sums(
        self, examples: Sequence[Example], budget: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """See `Reading`."""
        net = self.net
        sizes = [len(example["input_ids"]) + len(example["labels"]) for example in examples]
        for part in split_by_budget(sizes, budget):
            given, gold = padded([examples[n] for n in part], net.device)
            states = net.transformer(**given, use_mems=False).last_hidden_state
            real = gold != NOT_LEARNT
            loss = token_loss(states[real], net.lm_loss.weight, net.lm_loss.bias, gold[real])
            yield {"plm": loss}, sum(sizes[n] for n in part)


def padded(examples: Sequence[Example], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Return (what the net is called with, gold (rows, targets) with NOT_LEARNT).

    Nobody sees what is filled up, and queries that are filled up learn nothing.
    """
    rows, width = len(examples), max(len(e["input_ids"]) for e in examples)
    most = max(len(e["labels"]) for e in examples)
    ids = np.zeros((rows, width), dtype=np.int64)
    seen = np.zeros((rows, width), dtype=np.float32)
    hidden = np.ones((rows, width, width), dtype=np.float32)
    places = np.zeros((rows, most, width), dtype=np.float32)
    types = np.zeros((rows, width), dtype=np.int64)
    gold = np.full((rows, most), NOT_LEARNT, dtype=np.int64)
    for row, example in enumerate(examples):
        n, k = len(example["input_ids"]), len(example["labels"])
        ids[row, :n], seen[row, :n] = example["input_ids"], 1.0
        hidden[row, :n, :n] = example["perm_mask"]
        places[row, :k, :n] = example["target_mapping"]
        gold[row, :k] = example["labels"]
        if "token_type_ids" in example:
            types[row, :n] = example["token_type_ids"]
    named = {
        "input_ids": ids, "attention_mask": seen, "perm_mask": hidden,
        "target_mapping": places, "token_type_ids": types,
    }  # fmt: skip
    given = {name: torch.from_numpy(array).to(device) for name, array in named.items()}
    return given, torch.from_numpy(gold).to(device)
