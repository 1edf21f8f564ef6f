"""Which texts to label first: vote-k (Su et al. 2022, arXiv 2209.01975).

Each text votes for the texts nearest to it. The one with the most votes is chosen; then a vote
counts less, by a factor of rho, for each text its voter has among those chosen. So the chosen are
typical, and spread over all that there is. This is the graph part of the paper, called fast vote-k
there; its second part, which asks a language model how sure it is, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sapwood.context.similarity import CELLS
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats, Integers

# With the paper's 150 neighbours a few of the chosen satisfy every voter, and the next are those
# that nobody voted for: 77 of 2,000 rows of BANKING77 with 100 neighbours taught a regression on
# MiniLM features 28 %, random rows 36 %, with 10 neighbours 51 % (means of 5 seeds). Over budgets
# of 20 to 300 of three sets, about 0.4 votes for each text, over all that is chosen, was best; on
# three more sets it held: 77 rows of CLINC150 49 % against 31 %, of SMP2019 (by characters) 72 %
# against 64 %, of Chinese reviews 69 % against 67 %.
REACH, LEAST_NEIGHBOURS, MOST_NEIGHBOURS = 0.4, 5, 150
DECIMALS = 9  # votes that differ by less are equal but for rounding


def vote_k(
    embeddings: Floats,
    budget: int,
    *,
    neighbours: int | None = None,
    rho: float = 10.0,
    seed: int = 0,
    chosen: Sequence[int] = (),
) -> list[int]:
    """Return `budget` places to label, in the order of choice, the most telling first.

    `embeddings`: (texts, width), compared by cosine; `neighbours`: how many others each text votes
    for, None meaning 0.4 x texts / labels there will be, from 5 to 150; `rho`, above 1: how fast a
    voter is satisfied; `chosen`: places that have labels already, which satisfy their voters and
    are not chosen again.
    As in the paper only texts not yet chosen vote. Ties are broken by `seed`.

    Time grows with the square of the number of texts, memory with texts x neighbours: similarities
    are held for one block of texts at a time.

    Raises ConfigError: a budget below 1 or above what is left to choose (E-CONFIG-111), neighbours
    below 1 or rho not above 1 (E-CONFIG-112); DataError: embeddings that are no finite matrix
    (E-DATA-065).
    """
    vectors = np.asarray(embeddings)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise DataError(
            "E-DATA-065", f"Vote-k needs a matrix of finite numbers, got shape {vectors.shape}."
        )
    count, before = len(vectors), sorted(set(chosen))
    check_budget(budget, count - len(before))
    if (neighbours is not None and neighbours < 1) or not rho > 1:
        raise ConfigError(
            "E-CONFIG-112",
            f"Vote-k needs at least 1 neighbour and rho above 1, got {neighbours} and {rho}.",
        )
    if neighbours is None:
        fitting = round(REACH * count / (budget + len(before)))
        neighbours = min(MOST_NEIGHBOURS, max(LEAST_NEIGHBOURS, fitting))
    voted = nearest(vectors, min(neighbours, count - 1))  # (texts, neighbours)
    ties = np.random.default_rng(seed).permutation(count)
    return _elected(voted, budget, rho, before, ties)


def _elected(
    voted: Integers, budget: int, rho: float, before: Sequence[int], ties: Integers
) -> list[int]:
    """Return `budget` places in the order of choice; of equals the first in `ties` is taken."""
    count, wide = len(voted), max(1, voted.shape[1])
    order = np.argsort(voted.ravel(), kind="stable")  # the votes, by who gets them
    starts = np.searchsorted(voted.ravel()[order], np.arange(count + 1))
    weight = np.ones(count)  # of each text's votes
    votes = _counted(voted, np.arange(count), weight)
    free = np.ones(count, bool)
    found: list[int] = []
    for turn in range(len(before) + budget):
        if turn < len(before):
            place = before[turn]
        else:
            ranked = np.where(free, np.round(votes, DECIMALS), -np.inf)[ties]
            place = int(ties[np.argmax(ranked)])
            found.append(place)
        free[place] = False
        voters = np.append(order[starts[place] : starts[place + 1]] // wide, place)
        after = weight[voters] / rho
        after[-1] = 0.0  # what is chosen votes no more
        votes -= _counted(voted, voters, weight[voters] - after)
        weight[voters] = after
    return found


def nearest(embeddings: Floats, neighbours: int) -> NDArray[np.int32]:
    """Return the places of each row's nearest others by cosine, (rows, neighbours), unordered."""
    rows = np.asarray(embeddings, np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    found = np.empty((len(rows), neighbours), np.int32)
    block = max(1, CELLS // max(1, len(rows)))
    for start in range(0, len(rows), block):
        alike = rows[start : start + block] @ rows.T
        alike[np.arange(len(alike)), np.arange(start, start + len(alike))] = -np.inf
        split = len(rows) - neighbours
        found[start : start + block] = np.argpartition(alike, split - 1, axis=1)[:, split:]
    return found


def _counted(voted: Integers, voters: Integers, weight: Floats) -> NDArray[np.float64]:
    """Return the votes of `voters`, each worth its weight, that every text gets, (texts,)."""
    worth = np.repeat(weight, voted.shape[1])
    return np.bincount(voted[voters].ravel(), worth, minlength=len(voted)).astype(np.float64)


def check_budget(budget: int, left: int) -> None:
    """Raise ConfigError (E-CONFIG-111) unless `budget` of `left` texts can be chosen."""
    if not 1 <= budget <= left:
        raise ConfigError(
            "E-CONFIG-111",
            f"Cannot choose {budget:,} texts to label: {left:,} different ones have no label yet.",
            fix=f"ask for 1 to {left:,}" if left else "add texts without a label",
        )
