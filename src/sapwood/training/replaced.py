"""Replaced-token detection: ELECTRA's generator and discriminator in one step, packed.

Clark et al. 2020, arXiv 2003.10555: loss = generator's masked tokens + 50 times the discriminator's
mean over all tokens; a token counts as replaced only where the sample differs from the text. No
gradient passes through the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sapwood.models.pair import Pair
from sapwood.training.masked_tokens import Head, token_head
from sapwood.training.pieces import Example, Packed, learnt, packable, packs, pieces, run

DISCRIMINATOR = 50.0  # times its loss counts, as in the paper
POSITIONS = 512  # sampled at once


class Replaced:
    """The loss of a `Pair`: "mlm" of the generator, "rtd" of the discriminator."""

    def __init__(self, net: Pair) -> None:
        packable(net)
        self.net, self.head = net, token_head(net.generator)

    @property
    def weights(self) -> Mapping[str, float]:
        """Return what the parts count."""
        return {"mlm": 1.0, "rtd": DISCRIMINATOR}

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """See `Reading`."""
        return {"mlm": learnt(examples), "rtd": sum(len(e["input_ids"]) for e in examples)}

    def sums(
        self, examples: Sequence[Example], budget: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """See `Reading`."""
        generator, discriminator = self.net.generator, self.net.discriminator
        rows = [piece for example in examples for piece in pieces(example)]
        for packed in packs(rows, budget, causal=False, device=generator.device):
            states = run(generator.base_model, packed)[packed.pack.wanted]
            mlm = self.head.loss(states, packed.gold)
            ids, replaced = self._replaced(packed, states)
            pack = replace(packed.pack, ids=ids)
            told = run(discriminator.base_model, replace(packed, pack=pack))
            scores = discriminator.discriminator_predictions(told).float()
            rtd = functional.binary_cross_entropy_with_logits(
                scores, replaced.float(), reduction="sum"
            )
            yield {"mlm": mlm, "rtd": rtd}, 2 * ids.shape[1]

    @torch.no_grad()
    def _replaced(self, packed: Packed, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return (ids (1, tokens) with samples at the masks, which tokens are not the text's)."""
        sample = sampled(self.head, states, uniform(packed))
        ids, true = packed.pack.ids.clone(), packed.pack.ids.clone()
        ids[0, packed.pack.wanted] = sample
        true[0, packed.pack.wanted] = packed.gold
        return ids, (ids != true)[0]


def uniform(packed: Packed) -> Tensor:
    """Return a number in [0, 1) for each wanted token, drawn from what its row holds.

    The same row has the same numbers wherever it runs, so that a run that goes on repeats them.
    """
    drawn = []
    for piece in packed.pieces:
        many = int((piece.labels >= 0).sum())
        key = crc32(piece.ids.astype(np.int64).tobytes())
        drawn.append(np.random.default_rng(key).random(many))
    return torch.from_numpy(np.concatenate(drawn)).to(packed.gold.device)


def sampled(head: Head, states: Tensor, at: Tensor) -> Tensor:
    """Return token ids drawn from the head's distributions, by their cumulated probabilities.

    `states`: (positions, hidden); `at`: (positions,) in [0, 1).
    """
    found = []
    for first in range(0, len(states), POSITIONS):
        part, own = states[first : first + POSITIONS], at[first : first + POSITIONS]
        share = head.output(head.transform(part)).float().softmax(-1).cumsum(-1)
        place = torch.searchsorted(share, own[:, None] * share[:, -1:], right=True)
        found.append(place[:, 0].clamp_max(share.shape[1] - 1))
    return torch.cat(found)
