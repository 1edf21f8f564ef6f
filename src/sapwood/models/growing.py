"""Answers that grow a token at a time by themselves: greedily or by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sapwood.models.choosing import Completion, Sampling, Stops, drawn, weighed
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.grammar import Guide
from sapwood.models.steps import WORTH_COPYING, begin, next_logits, step


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One prompt: its token ids, the number that its draws go by, the grammar of its answers."""

    ids: Sequence[int]
    number: int
    guide: Guide | None = None

    def own(self) -> Asked:
        """Return the same prompt for one more answer, whose guide goes its own way."""
        return replace(self, guide=self.guide.copy() if self.guide else None)


class Growing:
    """One answer while it grows."""

    def __init__(self, asked: Asked, sample: int, sampling: Sampling, stops: Stops) -> None:
        self.guide, self.sampling, self.stops = asked.guide, sampling, stops
        self.draws = np.random.default_rng((sampling.seed, asked.number, sample))
        self.ids: list[int] = []
        self.log_probability = 0.0
        self.stopped = self.done = False

    def take(self, token: int, log_probability: float) -> None:
        """Add one token, unless the answer is done."""
        if self.done:
            return
        self.log_probability += log_probability
        self.stopped = token in self.sampling.stop_ids
        if not self.stopped:
            self.ids.append(token)
            self.stopped = self.stops.reached(self.ids)
        if self.guide is not None and self.guide.take(token):
            self.stopped = True
        self.done = self.stopped or len(self.ids) == self.sampling.tokens

    def completion(self) -> Completion:
        """Return the answer as it is."""
        return Completion(
            ids=tuple(self.ids),
            log_probability=self.log_probability,
            stopped=self.stopped,
            score=self.log_probability,
        )


def grow(
    decoder: Decoder, asked: Sequence[Asked], prefix: Prefix, sampling: Sampling, stops: Stops
) -> list[list[Completion]]:
    """Return the answers of a batch, `sampling.samples` to each prompt."""
    past, last = begin(decoder, [one.ids for one in asked], prefix, sampling.tokens)
    every = [
        [Growing(one.own(), sample, sampling, stops) for sample in range(sampling.samples)]
        for one in asked
    ]
    copies = torch.arange(len(asked), device=decoder.device).repeat_interleave(sampling.samples)
    if sampling.samples > 1:
        past.select(copies)
    states, alive = torch.cat(last)[copies], [row for rows in every for row in rows]
    while True:
        tokens, logs = choose(next_logits(decoder, states), alive, sampling)
        for row, token, log in zip(alive, tokens.tolist(), logs.tolist(), strict=True):
            row.take(token, log)
        going = [n for n, row in enumerate(alive) if not row.done]
        if not going:
            return [[row.completion() for row in rows] for rows in every]
        if len(going) <= WORTH_COPYING * len(alive):
            kept = torch.tensor(going, device=decoder.device)
            past.select(kept)
            tokens, alive = tokens[kept], [alive[n] for n in going]
        states = step(decoder, tokens, past, prefix)


def choose(logits: Tensor, rows: Sequence[Growing], sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return (the next token of each row, its log-probability), both (rows,)."""
    open_ = weighed(
        logits, [row.ids for row in rows], [None if r.done else r.guide for r in rows], sampling
    )
    if sampling.temperature:
        tokens = drawn(open_, [row.draws.random() for row in rows], sampling)
    else:
        tokens = open_.argmax(-1)
    return tokens, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
