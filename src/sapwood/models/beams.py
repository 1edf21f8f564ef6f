"""Beam search: the most probable answers among the beginnings that a few rows keep.

The rules are those of transformers' `generate(num_beams=...)`, so that both give the same answers
with the same scores: an answer counts once it ends among the best `beams` continuations, its score
is its log-probability over length ** `length_penalty` (the stop token counts), and the search ends
when the best beginning would score below the worst answer kept even if it ended now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapwood.models.choosing import Completion, Sampling, Stops, weighed
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.grammar import Guide
from sapwood.models.growing import Asked
from sapwood.models.steps import WORTH_COPYING, begin, next_logits, step

# The total of a beam that stands for none: far below any sum of log-probabilities.
_DEAD = -1e9


@dataclass(frozen=True, kw_only=True)
class _Beam:
    """A beginning: its tokens, what it is ranked by, and the base's own log-probability."""

    ids: tuple[int, ...] = ()
    total: float = _DEAD
    log_probability: float = 0.0
    guide: Guide | None = None

    @property
    def alive(self) -> bool:
        return self.total > _DEAD / 2


@dataclass(frozen=True, kw_only=True)
class _Next:
    """A continuation: the beam it goes on from, its token, the new total and log-probability."""

    beam: int
    token: int
    total: float
    log_probability: float


class _Search:
    """The beams of one prompt and the answers that ended, the best first."""

    def __init__(self, asked: Asked, sampling: Sampling, stops: Stops) -> None:
        self.sampling, self.stops = sampling, stops
        first = _Beam(total=0.0, guide=asked.guide.copy() if asked.guide else None)
        self.beams = [first, *[_Beam()] * (sampling.beams - 1)]
        self.ended: list[Completion] = []
        self.done = False

    def advance(self, found: Sequence[_Next]) -> tuple[list[int], list[int]]:
        """Take the best continuations, the best first; return (parents, tokens) of the new beams.

        Ranks past `beams` only fill places of answers that ended.
        """
        most, going = self.sampling.beams, list[tuple[_Beam, int, int]]()
        for rank, one in enumerate(found):
            if one.total <= _DEAD / 2 or (rank >= most and len(going) == most):
                break
            beam, stopped = self._grown(one)
            length = len(self.beams[one.beam].ids) + 1
            if stopped or length == self.sampling.tokens:
                if rank < most:
                    self._end(beam, length, stopped)
            elif len(going) < most:
                going.append((beam, one.beam, one.token))
        going += [(_Beam(), 0, 0)] * (most - len(going))
        self.beams = [beam for beam, _, _ in going]
        self.done = not self.beams[0].alive or not self._hopeful()
        return [parent for _, parent, _ in going], [token for _, _, token in going]

    def _grown(self, one: _Next) -> tuple[_Beam, bool]:
        """Return the beam with one token more, without a stop token; whether it ended."""
        parent = self.beams[one.beam]
        ends = one.token in self.sampling.stop_ids
        ids = parent.ids if ends else (*parent.ids, one.token)
        guide = parent.guide.copy() if parent.guide else None
        over = guide is not None and guide.take(one.token)
        beam = _Beam(ids=ids, total=one.total, log_probability=one.log_probability, guide=guide)
        return beam, ends or over or self.stops.reached(ids)

    def _end(self, beam: _Beam, length: int, stopped: bool) -> None:
        made = Completion(
            ids=beam.ids,
            log_probability=beam.log_probability,
            stopped=stopped,
            score=beam.total / length**self.sampling.length_penalty,
        )
        ranked = sorted([*self.ended, made], key=lambda one: -one.score)  # stable: the older first
        self.ended = ranked[: self.sampling.beams]

    def _hopeful(self) -> bool:
        """Return whether the best beginning could still become one of the best answers."""
        if len(self.ended) < self.sampling.beams:
            return True
        best = self.beams[0]
        reached: float = best.total / len(best.ids) ** self.sampling.length_penalty
        return reached > self.ended[-1].score

    def completions(self) -> list[Completion]:
        """Return the best answers, fewer than asked for where no more are possible."""
        return self.ended[: self.sampling.samples]


def search(
    decoder: Decoder, asked: Sequence[Asked], prefix: Prefix, sampling: Sampling, stops: Stops
) -> list[list[Completion]]:
    """Return the answers of a batch, the best `sampling.samples` of each prompt."""
    past, last = begin(decoder, [one.ids for one in asked], prefix, sampling.tokens)
    every = [_Search(one, sampling, stops) for one in asked]
    width, device = sampling.beams, decoder.device
    copies = torch.arange(len(asked), device=device).repeat_interleave(width)
    past.select(copies)
    states, alive = torch.cat(last)[copies], list(every)
    while True:
        parents: list[int] = []
        tokens: list[int] = []
        best = _best(next_logits(decoder, states), alive, sampling)
        for place, (one, found) in enumerate(zip(alive, best, strict=True)):
            origins, own = one.advance(found)
            parents += [place * width + origin for origin in origins]
            tokens += own
        going = [n for n, one in enumerate(alive) if not one.done]
        if not going:
            return [one.completions() for one in every]
        rows = list(range(len(tokens)))
        if len(going) <= WORTH_COPYING * len(alive):
            rows = [n * width + k for n in going for k in range(width)]
            past.select(torch.tensor([parents[row] for row in rows], device=device))
            alive = [alive[n] for n in going]
        else:
            past.follow(torch.tensor(parents, device=device))
        states = step(
            decoder, torch.tensor([tokens[row] for row in rows], device=device), past, prefix
        )


@torch.no_grad()
def _best(logits: Tensor, alive: Sequence[_Search], sampling: Sampling) -> list[list[_Next]]:
    """Return the best continuations of each prompt, (prompts x beams, vocabulary) logits given.

    So many that `beams` of them can go on even if every stop token stands before them.
    """
    beams = [beam for one in alive for beam in one.beams]
    free = logits.log_softmax(-1)
    guides = [beam.guide for beam in beams]
    logs = weighed(free, [beam.ids for beam in beams], guides, sampling)
    before = torch.tensor([beam.total for beam in beams], device=logs.device)
    totals = (logs + before[:, None]).view(len(alive), -1)
    count = max(2, 1 + len(sampling.stop_ids)) * sampling.beams
    found = totals.topk(min(count, totals.shape[1]), dim=-1)
    own = free.view(len(alive), -1).gather(1, found.indices)
    return [
        [
            _Next(
                beam=place // logits.shape[1],
                token=place % logits.shape[1],
                total=total,
                log_probability=one.beams[place // logits.shape[1]].log_probability + log,
            )
            for place, total, log in zip(*row, strict=True)
        ]
        for one, row in zip(
            alive,
            zip(found.indices.tolist(), found.values.tolist(), own.tolist(), strict=True),
            strict=True,
        )
    ]
