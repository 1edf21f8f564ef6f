"""Demonstrations like the query and unlike each other: a determinantal point process.

Relevance and diversity in one kernel L = diag(r) S diag(r), r = exp(relevance / (2 scale)), as in
CEIL (Ye et al. 2023, arXiv 2302.05698) before its training: log det L of a set is the sum of its
relevances / scale plus log det S, which falls as its members grow alike. The largest determinant is
sought greedily, each step at the cost of one Cholesky column (Chen et al. 2018, arXiv 1709.05135).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sapwood.context.select import Choice, checked, embedded, most_similar
from sapwood.context.similarity import cosines
from sapwood.interfaces import Example, Floats

# What is left of an example once those chosen explain it; below this only rounding is left.
NOTHING_NEW = 1e-9


@dataclass(frozen=True, kw_only=True)
class Diverse:
    """The `k` of the `candidates` most similar examples that make up the largest determinant.

    `scale`, above 0: how much relevance may be given up for diversity; CEIL's value is 0.1. Near 0
    the choice is that of Nearest.
    """

    sharing: ClassVar[str] = "query"
    needs: ClassVar[str] = "embeddings"

    scale: float = 0.1
    candidates: int = 100

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
        """Choose for each query, most similar last; see Selector. Ties are broken by the seed.

        Cosines are mapped from [-1, 1] to [0, 1], relevance and S alike, as CEIL's code does; S
        stays positive semi-definite.
        """
        checked(pool, k, labels)
        shown, asked = embedded(pool, queries, embeddings, query_embeddings)
        wide = min(len(pool), max(k, self.candidates))
        near = most_similar(cosines(asked, shown), pool, queries, wide, seed)
        chosen: list[Choice] = []
        for query, places in zip(asked, near, strict=True):
            best_first = np.array(places[::-1], np.int64)
            vectors = shown[best_first]
            relevance = (1 + vectors @ query) / 2
            kept = greedy_map((1 + vectors @ vectors.T) / 2, relevance / self.scale, k)
            chosen.append(tuple(int(best_first[i]) for i in sorted(kept, reverse=True)))
        return chosen


def greedy_map(similarity: Floats, log_quality: Floats, count: int) -> list[int]:
    """Return up to `count` places that greedily maximise log det S_Y + sum of log quality over Y.

    `similarity`: S, (places, places), positive semi-definite; `log_quality`: (places,), the
    logarithm of r squared: it never meets S outside the logarithm, so that no scale overflows. In
    the order of choice, ties to the first place. Once nothing adds to the determinant (S has a
    lower rank than `count`), quality alone decides. O(count^2 x places).
    """
    left: NDArray[np.float64] = np.diag(similarity).astype(np.float64)
    quality = np.asarray(log_quality, np.float64)
    columns = np.zeros((min(count, len(left)), len(left)))  # of the Cholesky factor, one a choice
    free = np.ones(len(left), bool)
    chosen: list[int] = []
    for step in range(len(columns)):
        useful = free & (left > NOTHING_NEW)
        gain = quality + np.log(np.where(useful, left, 1.0))
        best = int(np.argmax(np.where(useful if useful.any() else free, gain, -np.inf)))
        chosen.append(best)
        free[best] = False
        if useful.any():
            explained = columns[:step, best] @ columns[:step]
            columns[step] = (similarity[best] - explained) / np.sqrt(left[best])
            left = left - columns[step] ** 2
    return chosen
