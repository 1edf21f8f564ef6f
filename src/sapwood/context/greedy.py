"""The demonstrations that help most on development rows, added one at a time.

Greedy forward selection: each round tries a few more demonstrations at the end of the context and
keeps the one with which the model errs least. The result is one context for all queries. `rounds`
gives the loop to the caller; `Greedy` is the same as a member of SELECTORS, with a judge.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sapwood.context.select import Choice, Judge, checked, dealt, piled
from sapwood.context.similarity import same_text
from sapwood.interfaces import Example, Floats

CANDIDATES = 8  # a round's trials: each costs the reading of all rows it is judged on


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """`k` rounds of `candidates` trials each, scored by `judge`.

    `judge` gets the choices of one round at once and returns a loss for each, (choices,): the mean
    negative log-likelihood of development rows, say, none of which may be in the pool. The choices
    of a round share all but their last demonstration, and so do the keys and values of their
    prompts when they are scored in the order given. `candidates`: random ones, every label in turn,
    so that no round can be of one label alone while `candidates` is at least the number of labels.
    """

    sharing: ClassVar[str] = "all"
    needs: ClassVar[str] = "judge"

    judge: Judge
    candidates: int = CANDIDATES

    def select(
        self,
        pool: Sequence[Example],
        queries: Sequence[str],
        k: int,
        seed: int,
        *,
        labels: Sequence[str],
        embeddings: Floats | None = None,
        query_embeddings: Floats | None = None,
    ) -> list[Choice]:
        """Grow one choice in showing order; see Selector. k x candidates choices are judged.

        Ties go to the first candidate, a loss that is no number counts as the worst. One tuple for
        each query, all equal, and one tuple when `queries` is empty; embeddings are ignored.
        """
        asked = {same_text(query) for query in queries}
        usable = [place for place in range(len(pool)) if same_text(pool[place].text) not in asked]
        growth = rounds(pool, k, seed, labels=labels, usable=usable, candidates=self.candidates)
        losses: Floats | None = None
        while True:
            try:
                choices = growth.send(losses)
            except StopIteration as end:
                return [end.value] * max(len(queries), 1)
            losses = self.judge(choices)


def rounds(
    pool: Sequence[Example],
    k: int,
    seed: int,
    *,
    labels: Sequence[str],
    usable: Sequence[int] | None = None,
    candidates: int = CANDIDATES,
) -> Generator[list[Choice], Floats | None, Choice]:
    """Yield the choices of each round, take their losses by `send`, return the choice that grew.

    The loop is the caller's, who may score, show and stop between rounds. `usable`: the places in
    `pool` that may be shown, None for all; fewer than `k` come back when there are no more. See
    Greedy. Raises as Selector says; ValueError when the losses are not one a choice.
    """
    gold = checked(pool, k, labels)
    rng = np.random.default_rng(seed)
    places = list(range(len(pool)) if usable is None else usable)
    chosen: Choice = ()
    for _ in range(min(k, len(places))):
        rest = [int(i) for i in rng.permutation(places) if i not in chosen]
        piles = piled(rest, gold, len(labels))
        turns = [piles[label] for label in rng.permutation(len(labels))]
        choices = [(*chosen, place) for place in dealt(turns)[: max(1, candidates)]]
        losses = np.asarray((yield choices), np.float64)
        if losses.shape != (len(choices),):
            raise ValueError(f"a judge of {len(choices)} choices returned {losses.shape} losses")
        chosen = choices[int(np.argmin(np.where(np.isnan(losses), np.inf, losses)))]
    return chosen
