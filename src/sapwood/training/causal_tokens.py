"""Next-token loss of decoders, packed: plain, with a middle filled in, or after a prefix.

A prefix's tokens see each other both ways (prefix language models: Raffel et al. 2020, arXiv
1910.10683, section 3.2.1); everything after it sees what is before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sapwood.training.pieces import Example, Packed, learnt, packable, packs, pieces, run
from sapwood.training.token_loss import token_loss


class CausalTokens:
    """The loss of the tokens that follow; `name` of its one part."""

    def __init__(self, net: Any, name: str = "clm") -> None:
        packable(net)
        self.net, self.name = net, name

    @property
    def weights(self) -> Mapping[str, float]:
        """Return 1 for the one part."""
        return {self.name: 1.0}

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """See `Reading`."""
        return {self.name: learnt(examples, causal=True)}

    def sums(
        self, examples: Sequence[Example], budget: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """See `Reading`."""
        rows = [piece for example in examples for piece in pieces(example)]
        rows = [piece for piece in rows if len(piece.ids) > 1]
        head = self.net.get_output_embeddings()
        for packed in packs(rows, budget, causal=True, device=self.net.device):
            states = run(self.net.base_model, seen_both_ways(packed), use_cache=False)
            wanted = states[packed.pack.wanted]
            loss = token_loss(wanted, head.weight, head.bias, packed.gold)
            yield {self.name: loss}, packed.pack.ids.shape[1]


def seen_both_ways(packed: Packed) -> Packed:
    """Return the pack with every row's prefix seen both ways."""
    by_start = {
        start: piece.prefix
        for start, piece in zip(packed.pack.starts, packed.pieces, strict=True)
        if piece.prefix
    }
    if not by_start:
        return packed
    groups = []
    for group in packed.pack.layout.groups:
        length = group.index.shape[1]
        steps = torch.arange(length, device=group.index.device)
        prefix = torch.tensor([by_start.get(int(at), 0) for at in group.index[:, 0]])
        within = steps[None] < prefix.to(steps.device)[:, None]  # (rows, length)
        causal = steps[None] <= steps[:, None]
        groups.append(replace(group, visible=causal | (within[:, :, None] & within[:, None, :])))
    layout = replace(packed.pack.layout, groups=tuple(groups))
    return replace(packed, pack=replace(packed.pack, layout=layout))
