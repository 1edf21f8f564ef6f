"""Contrastive search: probable tokens that do not say again what was said.

Su et al. 2022 (arXiv 2202.06417): of the k most probable tokens v the one with the largest
(1 - a) p(v) - a max_j cos(h_v, h_j), where h_v is the last hidden state that v would have and j
runs over the tokens before it. Here j runs over the row's own prompt and answer: a context that all
rows share is encoded to keys and values, and an answer need not avoid its demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.models.choosing import Completion, Sampling, Stops, weighed
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.growing import Asked, Growing
from sapwood.models.past import Past
from sapwood.models.steps import WORTH_COPYING, begin, next_logits, step


class _Said:
    """The directions of the hidden states of what each row said, (rows, room, hidden)."""

    def __init__(self, states: Sequence[Tensor], tokens: int) -> None:
        self.lengths = torch.tensor([len(own) for own in states], device=states[0].device)
        room, hidden = max(map(len, states)) + tokens, states[0].shape[1]
        self.directions = torch.zeros(len(states), room, hidden, device=states[0].device)
        for row, own in enumerate(states):
            self.directions[row, : len(own)] = _direction(own)

    def likeness(self, states: Tensor) -> Tensor:
        """Return the largest cosine of states (rows, k, hidden) with what was said, (rows, k)."""
        longest = int(self.lengths.max())
        found = _direction(states) @ self.directions[:, :longest].transpose(1, 2)
        steps = torch.arange(longest, device=found.device)
        seen = steps[None] < self.lengths[:, None]  # (rows, longest)
        return found.masked_fill(~seen[:, None], -2.0).amax(-1)  # no cosine is below -1

    def add(self, states: Tensor) -> None:
        """Add the state of one token a row, (rows, hidden)."""
        rows = torch.arange(len(states), device=states.device)
        self.directions[rows, self.lengths] = _direction(states)
        self.lengths = self.lengths + 1

    def select(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.directions, self.lengths = self.directions[rows], self.lengths[rows]


def contrasted(
    decoder: Decoder, asked: Sequence[Asked], prefix: Prefix, sampling: Sampling, stops: Stops
) -> list[list[Completion]]:
    """Return the answers of a batch, one to each prompt.

    Each row has `top_k` copies, one a candidate; they differ in their last token alone, so the
    chosen one's is all that is copied.
    """
    past, whole = begin(decoder, [one.ids for one in asked], prefix, sampling.tokens, every=True)
    said, width = _Said(whole, sampling.tokens), sampling.top_k
    states = torch.stack([own[-1] for own in whole])
    every = [Growing(one.own(), 0, sampling, stops) for one in asked]
    past.select(torch.arange(len(asked), device=decoder.device).repeat_interleave(width))
    alive = list(every)
    while True:
        logits = next_logits(decoder, states)
        shares, tokens = _candidates(logits, alive, sampling)
        found = step(decoder, tokens.flatten(), past, prefix).view(*tokens.shape, -1)
        best = _chosen(shares, said.likeness(found), sampling.contrast)
        rows = torch.arange(len(best), device=best.device)
        states, taken = found[rows, best], tokens[rows, best]
        logs = logits.log_softmax(-1).gather(1, taken[:, None])[:, 0]
        for row, token, log in zip(alive, taken.tolist(), logs.tolist(), strict=True):
            row.take(token, log)
        going = [n for n, row in enumerate(alive) if not row.done]
        if not going:
            return [[row.completion()] for row in every]
        past.follow((rows * width + best).repeat_interleave(width), last=1)
        said.add(states)
        if len(going) <= WORTH_COPYING * len(alive):
            kept = torch.tensor(going, device=best.device)
            _drop(past, kept, width)
            said.select(kept)
            states, alive = states[kept], [alive[n] for n in going]


def _candidates(
    logits: Tensor, rows: Sequence[Growing], sampling: Sampling
) -> tuple[Tensor, Tensor]:
    """Return (probabilities, tokens) of the most probable next tokens, both (rows, top_k)."""
    guides = [None if row.done else row.guide for row in rows]
    open_ = weighed(logits, [row.ids for row in rows], guides, sampling)
    shares, tokens = open_.softmax(-1).topk(sampling.top_k, dim=-1)
    return shares, tokens


def _chosen(shares: Tensor, likeness: Tensor, contrast: float) -> Tensor:
    """Return the place of the best candidate of each row, (rows,); no share, no candidate."""
    scores = (1 - contrast) * shares - contrast * likeness
    return scores.masked_fill(shares == 0, float("-inf")).argmax(-1)


def _drop(past: Past, kept: Tensor, width: int) -> None:
    """Keep the copies of the rows `kept`."""
    copies = torch.arange(width, device=kept.device)
    past.select((kept[:, None] * width + copies).flatten())


def _direction(states: Tensor) -> Tensor:
    return functional.normalize(states.float(), dim=-1)
