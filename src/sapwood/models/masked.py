"""Label words scored where a masked language model has its masks.

Pattern-exploiting training (PET, Schick and Schütze 2021, arXiv 2001.07676). A label whose words
are several tokens gets as many masks, filled in all at once: its score is the sum of their
log-probabilities, as PET has it while it trains. Rows are packed without padding, and the head runs
at the masks alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sapwood.models.encoder import PACK_TOKENS, Encoder
from sapwood.models.layout import split_by_budget

KINDS = ("bert",)  # whose head is `cls` and whose rows can be packed
Rows = Mapping[int, Sequence[int]]  # how many masks -> token ids of the text with so many


def has_head(config: Mapping[str, Any]) -> bool:
    """Tell from a checkpoint's config whether it has a masked-language-model head known here."""
    made_for = " ".join(config.get("architectures") or ())
    known = config.get("model_type") in KINDS
    return known and any(name in made_for for name in ("ForMaskedLM", "ForPreTraining"))


class MaskedWords:
    """The words of labels at masks: `labels` token ids each, `head` from states to logits.

    `mask`: the id of the mask; the last ones of a row are those that are read.
    """

    def __init__(
        self, encoder: Encoder, head: Any, labels: Sequence[Sequence[int]], *, mask: int
    ) -> None:
        assert all(labels), "a label needs at least one token"
        self.encoder, self.head, self.labels, self.mask = encoder, head, labels, mask
        self.counts = tuple(sorted({len(ids) for ids in labels}))

    def scores(
        self, rows: Sequence[Rows], *, budget: int = PACK_TOKENS, gradient: bool = False
    ) -> Iterator[tuple[list[int], Tensor, int]]:
        """Yield (row numbers, log-probabilities of the labels, tokens) some rows at a time.

        `rows`: for each text its token ids with as many masks as `counts` names; scores: (rows,
        labels), float32.
        """
        sizes = [sum(len(row[count]) for count in self.counts) for row in rows]
        for part in split_by_budget(sizes, budget):
            columns: dict[int, Tensor] = {}
            for count in self.counts:
                said = self._said([rows[n][count] for n in part], count, gradient=gradient)
                for label, ids in enumerate(self.labels):
                    if len(ids) == count:
                        columns[label] = said[:, range(count), list(ids)].sum(-1)
            found = torch.stack([columns[n] for n in range(len(self.labels))], 1)
            yield part, found, sum(sizes[n] for n in part)

    def _said(self, rows: Sequence[Sequence[int]], count: int, *, gradient: bool) -> Tensor:
        """Return log-probabilities at the masks of rows, (rows, masks, vocabulary)."""
        states = self.encoder.states(rows, gradient=gradient)
        at = [[n for n, token in enumerate(ids) if token == self.mask][-count:] for ids in rows]
        masked = torch.stack([own[places] for own, places in zip(states, at, strict=True)])
        with torch.set_grad_enabled(gradient):
            said: Tensor = self.head(masked).float().log_softmax(-1)
        return said
