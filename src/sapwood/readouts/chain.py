"""Linear chains over labels, batched: the sum over all paths, the best one, and marginals.

The forward, backward and Viterbi passes of a conditional random field (Lafferty et al. 2001; as the
last layer of a tagger: Lample et al. 2016, arXiv 1603.01360). A step that is not allowed scores
`NEVER` instead of minus infinity, whose gradient is not a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = -1e4  # exp(-1e4) is exactly zero, and a few of these still add up in float32


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Scores of label sequences, a row each; all float32.

    `emissions`: (rows, steps, labels); `starts` and `ends`: (rows, labels); `pairs`: (rows, labels,
    labels), from the label before to the label after; `lengths`: (rows,), each at least 1, what
    follows is padding.
    """

    emissions: Tensor
    starts: Tensor
    pairs: Tensor
    ends: Tensor
    lengths: Tensor

    def forward(self) -> Tensor:
        """Return the log of the summed paths that end at each label, (rows, steps, labels).

        Steps of padding repeat the last one.
        """
        state = self.starts + self.emissions[:, 0]
        states = [state]
        for step in range(1, self.emissions.shape[1]):
            moved = torch.logsumexp(state[:, :, None] + self.pairs, 1) + self.emissions[:, step]
            state = torch.where(self._inside(step), moved, state)
            states.append(state)
        return torch.stack(states, 1)

    def backward(self) -> Tensor:
        """Return the log of the summed paths from after each label, (rows, steps, labels)."""
        state = self.ends
        states = [state]
        for step in range(self.emissions.shape[1] - 1, 0, -1):
            after = (state + self.emissions[:, step])[:, None]
            moved = torch.logsumexp(self.pairs + after, 2)
            state = torch.where(self._inside(step), moved, state)
            states.append(state)
        return torch.stack(states[::-1], 1)

    def _inside(self, step: int) -> Tensor:
        return (step < self.lengths)[:, None]

    def total(self) -> Tensor:
        """Return the log of the sum of all paths of each row, (rows,)."""
        return torch.logsumexp(self.forward()[:, -1] + self.ends, 1)

    def score(self, paths: Tensor) -> Tensor:
        """Return the score of one path a row, (rows,); `paths`: (rows, steps), padding ignored."""
        rows = torch.arange(len(paths), device=paths.device)
        steps = torch.arange(paths.shape[1], device=paths.device)
        inside = steps[None] < self.lengths[:, None]
        emitted = self.emissions.gather(2, paths[:, :, None])[:, :, 0]
        moves = self.pairs[rows[:, None], paths[:, :-1], paths[:, 1:]]
        last = paths[rows, self.lengths - 1]
        return (
            (emitted * inside).sum(1)
            + (moves * inside[:, 1:]).sum(1)
            + self.starts[rows, paths[:, 0]]
            + self.ends[rows, last]
        )

    def best(self) -> list[list[int]]:
        """Return the best path of each row (Viterbi 1967)."""
        state = self.starts + self.emissions[:, 0]
        own = torch.arange(state.shape[1], device=state.device).expand_as(state)
        back = []
        for step in range(1, self.emissions.shape[1]):
            moved, came = (state[:, :, None] + self.pairs).max(1)
            inside = self._inside(step)
            state = torch.where(inside, moved + self.emissions[:, step], state)
            back.append(torch.where(inside, came, own))
        at = (state + self.ends).argmax(1)
        path = [at]
        for came in reversed(back):
            at = came.gather(1, at[:, None])[:, 0]
            path.append(at)
        found = torch.stack(path[::-1], 1).tolist()
        return [row[:n] for row, n in zip(found, self.lengths.tolist(), strict=True)]
