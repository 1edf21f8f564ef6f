"""The loss of an encoder under a linear head: one label a text, or a label for each word.

Rows are packed without padding; a method attached to the encoder trains with the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sapwood.errors import DataError
from sapwood.methods import parts
from sapwood.models.encoder import Encoder
from sapwood.readouts.head import Head, TokenHead
from sapwood.training.loop import Recipe, make_optimiser

Kind = TypeVar("Kind", bound=TokenHead)

IGNORED = -100  # the label of tokens that nothing is asked of, as torch and transformers have it


class TrainedHead(nn.Module, Generic[Kind]):
    """A head while it trains: `weight` (labels, width) and `bias` (labels,), float32."""

    def __init__(self, start: Kind, *, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.tensor(start.weight, device=device))
        self.bias = nn.Parameter(torch.tensor(start.bias, device=device))

    def forward(self, states: Tensor) -> Tensor:
        """Map (rows, width) to logits (rows, labels), float32."""
        dropped = functional.dropout(states.float(), self.start.dropout, self.training)
        return functional.linear(dropped, self.weight, self.bias)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return what trains, by name."""
        return {"head.weight": self.weight, "head.bias": self.bias}

    def readout(self) -> Kind:
        """Return the head as it is now."""
        weight, bias = (tensor.detach().cpu().numpy().copy() for tensor in (self.weight, self.bias))
        return replace(self.start, weight=weight, bias=bias)


def head_weights(net: Any, head: TrainedHead[Any]) -> dict[str, nn.Parameter]:
    """Return all that trains by name: the parts of the methods attached to `net`, then the head."""
    return {**parts.weights(net), **head.weights()}


def scaled_optimiser(
    weights: Mapping[str, Tensor], recipe: Recipe, times: Mapping[str, float]
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over `weights`; a tensor learns `times[name]` times as fast.

    The loop sets one rate for all; the factors are applied as a step begins.
    """
    groups: dict[float, list[Tensor]] = {}
    for name, tensor in weights.items():
        groups.setdefault(times.get(name, 1.0), []).append(tensor)
    given: Any = [{"params": tensors, "times": factor} for factor, tensors in groups.items()]
    optimiser = make_optimiser(given, recipe)
    optimiser.register_step_pre_hook(_scale)
    return optimiser


def _scale(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimiser.param_groups:
        group["lr"] *= group["times"]


class HeadSupervision:
    """The loss of texts with one label each: `rows` token ids, `gold` label numbers.

    The pooling is the head's. Raises DataError (E-DATA-060) when a number is no label, ModelError
    (E-MODEL-030) when a row is longer than the base reads.
    """

    def __init__(
        self,
        encoder: Encoder,
        rows: Sequence[Sequence[int]],
        gold: Sequence[int],
        head: TrainedHead[Head],
    ) -> None:
        encoder.check_length(rows)
        assert len(rows) == len(gold), "a label a row"
        _check_labels(gold, head)
        self.encoder, self.rows, self.gold, self.head = encoder, rows, gold, head

    def __len__(self) -> int:
        return len(self.rows)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of texts: the loss is their mean."""
        return len(numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the examples `numbers`."""
        rows = [self.rows[n] for n in numbers]
        for part, states in self.encoder.packs(rows, budget=budget, gradient=True):
            own, pooling = [rows[n] for n in part], self.head.start.pooling
            logits = self.head(self.encoder.pooled(own, states, pooling))
            gold = torch.tensor([int(self.gold[numbers[n]]) for n in part], device=logits.device)
            yield functional.cross_entropy(logits, gold, reduction="sum"), sum(map(len, states))


class TokenSupervision:
    """The loss of texts with a label for some tokens: `gold` has a number or IGNORED for each.

    `first_pieces` makes it from the labels of words. Raises DataError: E-DATA-060 a number is no
    label, E-DATA-064 a row does not have one for each token; ModelError (E-MODEL-030) when a row is
    longer than the base reads.
    """

    def __init__(
        self,
        encoder: Encoder,
        rows: Sequence[Sequence[int]],
        gold: Sequence[Sequence[int]],
        head: TrainedHead[TokenHead],
    ) -> None:
        encoder.check_length(rows)
        uneven = [n for n, (ids, own) in enumerate(zip(rows, gold, strict=True))
                  if len(ids) != len(own)]  # fmt: skip
        if uneven:
            raise DataError(
                "E-DATA-064",
                f"{len(uneven)} row(s) do not have one label for each token, the first is row "
                f"{uneven[0] + 1}.",
            )
        _check_labels([label for own in gold for label in own if label != IGNORED], head)
        self.encoder, self.rows, self.gold, self.head = encoder, rows, gold, head

    def __len__(self) -> int:
        return len(self.rows)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of labelled tokens (1 if there is none): the loss is their mean."""
        return max(1, sum(label != IGNORED for n in numbers for label in self.gold[n]))

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the examples `numbers`."""
        rows = [self.rows[n] for n in numbers]
        for part, states in self.encoder.packs(rows, budget=budget, gradient=True):
            gold = torch.tensor([label for n in part for label in self.gold[numbers[n]]])
            asked = (gold != IGNORED).nonzero()[:, 0]
            device = states[0].device
            logits = self.head(torch.cat(states)[asked.to(device)])
            loss = functional.cross_entropy(logits, gold[asked].to(device), reduction="sum")
            yield loss, len(gold)


def first_pieces(words: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """Return a label for each token: its word's on the word's first piece, IGNORED elsewhere.

    `words`: the number of each token's word, None for special tokens, as a fast tokenizer's
    `word_ids()` gives it; `labels`: one a word.

    >>> first_pieces([None, 0, 0, 1, None], [3, 7])
    [-100, 3, -100, 7, -100]
    """
    found, before = [], None
    for word in words:
        found.append(IGNORED if word is None or word == before else int(labels[word]))
        before = word
    return found


def _check_labels(numbers: Sequence[int], head: TrainedHead[Any]) -> None:
    known = len(head.start.labels)
    wrong = sorted({int(n) for n in numbers if not 0 <= n < known})
    if wrong:
        raise DataError(
            "E-DATA-060",
            f"{len(wrong)} label number(s) are not among the {known} known labels.",
            details=[str(n) for n in wrong[:10]],
        )
