"""Masked language modelling with or without pairs: BERT, ALBERT, ModernBERT, packed.

Devlin et al. 2019 (arXiv 1810.04805). The head runs at the predicted tokens only, which at small
sizes is most of what a padded implementation spends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.training.pieces import Example, Packed, Piece, learnt, packable, packs, pieces, run
from sapwood.training.token_loss import token_loss


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head for tokens: `transform` of the states, then `output`, a linear layer."""

    transform: Callable[[Tensor], Tensor]
    output: Any

    def loss(self, states: Tensor, gold: Tensor) -> Tensor:
        """Return the summed cross-entropy of `gold` (positions,) after (positions, hidden)."""
        return token_loss(self.transform(states), self.output.weight, self.output.bias, gold)


def token_head(net: Any) -> Head:
    """Return the masked-language-model head of a transformers encoder."""
    kind = net.config.model_type
    if kind == "bert":
        found = net.cls.predictions
        return Head(transform=found.transform, output=found.decoder)
    if kind == "modernbert":
        return Head(transform=net.head, output=net.decoder)
    if kind == "electra":
        return Head(transform=net.generator_predictions, output=net.generator_lm_head)
    assert kind == "albert", f"no head known for {kind}"
    found = net.predictions
    return Head(
        transform=lambda states: found.LayerNorm(found.activation(found.dense(states))),
        output=found.decoder,
    )


def pair_scores(net: Any, first: Tensor) -> Tensor:
    """Return the two scores of pairs from their first tokens' states, (pairs, hidden)."""
    if net.config.model_type == "bert":
        scores: Tensor = net.cls.seq_relationship(net.bert.pooler(first[:, None]))
        return scores
    body = net.albert
    scores = net.sop_classifier(body.pooler_activation(body.pooler(first)))
    return scores


class MaskedTokens:
    """The loss of masked tokens, and of pairs where `pair` names one: "nsp" or "sop"."""

    def __init__(self, net: Any, pair: str = "") -> None:
        packable(net)
        self.net, self.pair, self.head = net, pair, token_head(net)

    @property
    def weights(self) -> Mapping[str, float]:
        """Return 1 for each part: BERT's loss is their sum."""
        return {"mlm": 1.0, self.pair: 1.0} if self.pair else {"mlm": 1.0}

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """See `Reading`."""
        found = {"mlm": learnt(examples)}
        if self.pair:
            found[self.pair] = sum("next_sentence_label" in example for example in examples)
        return found

    def sums(
        self, examples: Sequence[Example], budget: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """See `Reading`."""
        rows = [piece for example in examples for piece in pieces(example)]
        for packed in packs(rows, budget, causal=False, device=self.net.device):
            states = run(self.net.base_model, packed)
            given = {}
            if len(packed.gold):
                given["mlm"] = self.head.loss(states[packed.pack.wanted], packed.gold)
            if self.pair:
                given[self.pair] = self._pairs(states, packed)
            yield given, packed.pack.ids.shape[1]

    def _pairs(self, states: Tensor, packed: Packed) -> Tensor:
        both = list(zip(packed.pieces, packed.pack.starts, strict=True))
        known: list[tuple[Piece, int]] = [(p, at) for p, at in both if p.pair is not None]
        if not known:
            return states.new_zeros(())
        first = states[[at for _, at in known]]
        gold = torch.tensor([int(p.pair or 0) for p, _ in known], device=states.device)
        return functional.cross_entropy(pair_scores(self.net, first).float(), gold, reduction="sum")
