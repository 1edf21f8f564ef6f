"""Which example comes when: epochs of an objective's draws, each in an order of its own.

Everything follows from (seed, place), so that a run which goes on needs nothing but the number of
its step. Two streams blend at a fixed share: new text with old text against forgetting
(experience replay; Ibrahim et al. 2024, arXiv 2403.08763).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from sapwood.errors import ConfigError
from sapwood.interfaces import Integers
from sapwood.training.pieces import Example


class Draws(Protocol):
    """Examples of an objective from documents, anew each epoch; see `objectives`."""

    def plan(self, epoch: int) -> int:
        """Return the number of examples of `epoch`."""
        ...

    def draw(self, epoch: int, index: int) -> dict[str, Any]:
        """Return one example."""
        ...


class Stream:
    """Examples without end: `draws` epoch after epoch, shuffled by (seed, epoch)."""

    def __init__(self, draws: Draws, seed: int = 0) -> None:
        self.draws, self.seed = draws, seed
        self._ends: list[int] = []  # where each epoch known so far ends
        self._order: tuple[int, Integers] | None = None

    def __len__(self) -> int:
        """Return the number of examples of the first epoch."""
        return self.draws.plan(0)

    def example(self, place: int) -> Example:
        """Return the example at `place`, from 0."""
        while not self._ends or place >= self._ends[-1]:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self.draws.plan(len(self._ends)))
            assert self._ends[-1] > before, "an epoch without examples"
        epoch = int(np.searchsorted(self._ends, place, side="right"))
        first = self._ends[epoch - 1] if epoch else 0
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._order = epoch, rng.permutation(self._ends[epoch] - first)
        return self.draws.draw(epoch, int(self._order[1][place - first]))


class Blend:
    """Two streams in one: of `share` of the places `old`, evenly spread, the rest `new`.

    Raises ConfigError (E-CONFIG-242) when the share is not in [0, 1).
    """

    def __init__(self, new: Stream, old: Stream, share: float) -> None:
        if not 0 <= share < 1:
            raise ConfigError(
                "E-CONFIG-242", f"The share of replayed text is {share}; it must be in [0, 1).",
                fix="--replay-share 0.1",
            )  # fmt: skip
        self.new, self.old, self.share = new, old, share

    def __len__(self) -> int:
        """Return the number of examples in which all new ones come once."""
        return round(len(self.new) / (1 - self.share))

    def example(self, place: int) -> Example:
        """Return the example at `place`, from 0."""
        before, after = int(place * self.share), int((place + 1) * self.share)
        if after > before:
            return self.old.example(before)
        return self.new.example(place - before)
