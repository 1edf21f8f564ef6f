"""Next-token loss of recurrent nets: rows of similar length are padded together, exactly.

Every row begins with an empty state. The penalties of AWD-LSTM (Merity et al. 2018, arXiv
1708.02182) are a part of their own, weighed by tokens, where the net has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sapwood.models.layout import split_by_budget
from sapwood.models.text_to_text import padded
from sapwood.training.pieces import NOT_LEARNT, Example, learnt, pieces
from sapwood.training.token_loss import token_loss


class RecurrentTokens:
    """The loss of the tokens that follow, and the net's own penalty while it trains."""

    def __init__(self, net: Any) -> None:
        self.net = net
        config = net.config
        self.regularised = config.activation_penalty > 0 or config.change_penalty > 0

    @property
    def weights(self) -> Mapping[str, float]:
        """Return 1 for both parts; without regularisation there is no penalty."""
        penalised = self.net.training and self.regularised
        return {"clm": 1.0, "penalty": 1.0} if penalised else {"clm": 1.0}

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """See `Reading`."""
        count = learnt(examples, causal=True)
        return {"clm": count, "penalty": count}

    def sums(
        self, examples: Sequence[Example], budget: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """See `Reading`."""
        rows = [piece for example in examples for piece in pieces(example)]
        rows = [piece for piece in rows if len(piece.ids) > 1]
        head = self.net.get_output_embeddings()
        for part in split_by_budget([len(piece.ids) for piece in rows], budget):
            own = [rows[n] for n in part]
            ids, mask = padded([piece.ids[:-1].tolist() for piece in own], self.net.device)
            gold = torch.full(ids.shape, NOT_LEARNT)
            for row, piece in enumerate(own):
                gold[row, : len(piece.ids) - 1] = torch.from_numpy(piece.labels[1:])
            gold = gold.to(self.net.device)
            given = self.net.base_model(input_ids=ids, attention_mask=mask)
            real = gold != NOT_LEARNT
            states = given.last_hidden_state[real]
            parts = {"clm": token_loss(states, head.weight, head.bias, gold[real])}
            if "penalty" in self.weights:
                parts["penalty"] = given.penalty * int(real.sum())
            yield parts, int(mask.sum())
