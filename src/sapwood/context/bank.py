"""A bank of a few contexts, each for one kind of query: similarity without a context per query.

The pool falls into groups around medoids (Kaufman & Rousseeuw 1990: k-medoids by building up and
swapping, PAM; on a sample of a large pool, as their CLARA does). Each group gets one context of its
own, encoded once, and a query goes to the group whose medoid is most like it. So demonstrations are
like the query, nearly as with `nearest`, at the price of a handful of cached prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sapwood.context.select import Choice, checked, dealt, embedded, piled
from sapwood.context.similarity import (
    bm25_scores,
    cosines,
    lexical_vectors,
    same_text,
    tokens,
    unit,
)
from sapwood.errors import ConfigError
from sapwood.interfaces import Example, Floats

# Examples among which medoids are sought: their distances take 32 MB, a swap some milliseconds.
SAMPLE = 2000
SWAPS = 200  # far more than any run needed; each lowers the cost, so the search ends by itself


@dataclass(frozen=True, kw_only=True)
class Bank:
    """One of `contexts` sets of `k` examples, that of the group a query belongs to."""

    sharing: ClassVar[str] = "group"
    needs: ClassVar[str] = "nothing"

    contexts: int = 4

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
        """Return each query's group, the medoid first; see Selector.

        One tuple for each query. No example equal to any of the queries is in any group. Without
        embeddings of pool and queries, groups and routes go by characters and words in common.
        """
        checked(pool, k, labels)
        asked = {same_text(query) for query in queries}
        usable = [place for place in range(len(pool)) if same_text(pool[place].text) not in asked]
        if k == 0 or not usable:
            return [()] * max(len(queries), 1)
        shown = questions = None
        if embeddings is not None and query_embeddings is not None:
            every, questions = embedded(pool, queries, embeddings, query_embeddings)
            shown = every[usable]
        rest = [pool[place] for place in usable]
        groups = build_bank(
            rest, min(k, len(rest)), self.contexts, seed, labels=labels, embeddings=shown
        )
        medoids = [group[0] for group in groups]
        known = None if shown is None else shown[medoids]
        chosen = [tuple(usable[i] for i in group) for group in groups]
        where = route([rest[m].text for m in medoids], queries, known, questions)
        return [chosen[n] for n in where] if queries else chosen


def build_bank(
    pool: Sequence[Example],
    k: int,
    contexts: int,
    seed: int,
    *,
    labels: Sequence[str],
    embeddings: Floats | None = None,
) -> tuple[Choice, ...]:
    """Return up to `contexts` groups of `k` places in `pool`, the medoid first, largest kind first.

    After the medoid come its nearest neighbours, one label in turn as far as `k` goes: those of its
    own kind first, then those of others, so that a group of one label still shows the rest.
    `embeddings`: (pool, width), compared by cosine; None compares characters in common instead.
    Groups may share examples. Fewer groups come back than asked for when the pool has fewer
    distinct texts. The same `seed` gives the same bank.

    Raises ConfigError: `k` or `contexts` below 1 or above the pool (E-CONFIG-064), embeddings that
    do not fit (E-CONFIG-065); DataError as Selector says.
    """
    gold = checked(pool, k, labels)
    if k < 1 or contexts < 1:
        raise ConfigError(
            "E-CONFIG-064",
            f"A bank of {contexts} contexts of {k} demonstrations is empty.",
            fix="ask for at least one context of one demonstration",
        )
    texts = [example.text for example in pool]
    vectors = lexical_vectors(texts, seed) if embeddings is None else np.asarray(embeddings)
    shown, _ = embedded(pool, [], vectors, vectors[:0])
    middle = _centres(shown, texts, contexts, seed)
    alike = shown @ shown[middle].T  # (pool, groups)
    own = np.argmax(alike, axis=1)
    own[middle] = np.arange(len(middle))
    groups = []
    for number in np.argsort(-np.bincount(own, minlength=len(middle)), kind="stable"):
        order = np.lexsort((-alike[:, number], own != number))
        ranked = [middle[number], *(int(i) for i in order if i != middle[number])]
        piles = piled(ranked, gold, len(labels))
        labels_in_turn = dict.fromkeys(int(gold[place]) for place in ranked)  # the nearest first
        groups.append(tuple(dealt([piles[label] for label in labels_in_turn])[:k]))
    return tuple(groups)


def route(
    medoids: Sequence[str],
    queries: Sequence[str],
    medoid_embeddings: Floats | None = None,
    query_embeddings: Floats | None = None,
) -> NDArray[np.int64]:
    """Return the number of the group each query goes to, shape (queries,).

    By cosine of embeddings, (groups, width) and (queries, width), where both are given; else by
    BM25 of the query over `medoids`, which may then hold a group's texts joined by spaces: more
    words than the medoid alone. Ties, and queries that share no word with any group, go to the
    first group, the largest.
    """
    if medoid_embeddings is None or query_embeddings is None:
        scores = bm25_scores([tokens(text) for text in medoids], queries)
    else:
        scores = cosines(unit(query_embeddings), unit(medoid_embeddings))
    return np.array([int(np.argmax(row)) for row in scores], np.int64)


def compact(groups: Sequence[Choice]) -> tuple[Choice, tuple[Choice, ...]]:
    """Return (places in use, groups as places among these): what a saved context needs to hold.

    >>> compact([(7, 2), (2, 9)])
    ((7, 2, 9), ((0, 1), (1, 2)))
    """
    used = tuple(dict.fromkeys(place for group in groups for place in group))
    at = {place: number for number, place in enumerate(used)}
    return used, tuple(tuple(at[place] for place in group) for group in groups)


def medoids(distances: Floats, count: int, start: Sequence[int] | None = None) -> list[int]:
    """Return `count` rows whose distances to all others, each to its nearest, sum to little.

    `distances`: (rows, rows). From `start`, or built up greedily, one row after another; then the
    best swap of a chosen row for another is made until none lowers the sum.
    """
    matrix = np.asarray(distances, np.float64)
    chosen = list(start) if start is not None else _built(matrix, count)
    for _ in range(SWAPS):
        cost = matrix[:, chosen].min(1).sum()
        best = (cost - 1e-9 * max(cost, 1.0), -1, -1)  # rounding is no gain
        for number in range(len(chosen)):
            others = matrix[:, [c for c in chosen if c != chosen[number]]]
            nearest = others.min(1, initial=np.inf)
            costs = np.minimum(matrix, nearest[:, None]).sum(0)  # of putting each row there instead
            row = int(np.argmin(costs))
            best = min(best, (float(costs[row]), number, row))
        if best[1] < 0:
            break
        chosen[best[1]] = best[2]
    return chosen


def _built(matrix: NDArray[np.float64], count: int) -> list[int]:
    """Return `count` rows, each the one that lowers the sum of distances the most."""
    nearest = np.full(len(matrix), np.inf)
    chosen: list[int] = []
    for _ in range(count):
        costs = np.minimum(matrix, nearest[:, None]).sum(0)
        costs[chosen] = np.inf
        chosen.append(int(np.argmin(costs)))
        nearest = np.minimum(nearest, matrix[:, chosen[-1]])
    return chosen


def _centres(
    shown: NDArray[np.float64], texts: Sequence[str], contexts: int, seed: int
) -> list[int]:
    """Return the places of the medoids among distinct texts, sought in a sample of SAMPLE rows."""
    distinct = {same_text(text): place for place, text in reversed(list(enumerate(texts)))}
    order = np.random.default_rng(seed).permutation(sorted(distinct.values()))[:SAMPLE]
    sample = shown[order]
    found = medoids(1 - sample @ sample.T, min(contexts, len(order)))
    return [int(order[i]) for i in found]
