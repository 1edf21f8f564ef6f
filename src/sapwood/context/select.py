"""Which examples to show: the same for every query, or the ones most like it.

stratified  the same for every query, so the context is encoded once: the honest default, and free
            of majority-label bias by construction
nearest     by cosine of given embeddings, most similar last (KATE; Liu et al. 2022, DeeLIO,
            arXiv 2101.06804)
bm25        by words in common, most similar last (Robertson & Zaragoza 2009), no model needed
dpp         alike the query and unlike each other (diverse.py)
bank        one of a few contexts, the one made for queries of its kind (bank.py)
greedy      the set that a judge likes best, grown one by one (greedy.py)

A selector that chooses per query makes every context unique: nothing is shared between queries,
and each pays for reading its whole context. It says so by `sharing`, and by `needs` what it cannot
choose without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sapwood.context.similarity import bm25_scores, cosines, same_text, tokens, unit
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Example, Floats
from sapwood.metrics import label_indices
from sapwood.registry import resolve

SELECTORS = {
    "stratified": "sapwood.context.select:Stratified",
    "nearest": "sapwood.context.select:Nearest",
    "bm25": "sapwood.context.select:Bm25",
    "dpp": "sapwood.context.diverse:Diverse",
    "bank": "sapwood.context.bank:Bank",
    "greedy": "sapwood.context.greedy:Greedy",
}

Choice = tuple[int, ...]

Judge = Callable[[Sequence[Choice]], Floats]
"""What scores choices: it returns one loss for each, shape (choices,), lower being better."""


class Selector(Protocol):
    """Chooses demonstrations for queries; a frozen dataclass without state.

    `sharing`: who sees the same demonstrations, "all" queries, the queries of one "group", or each
    "query" its own. `needs`: what it cannot choose without, "nothing", "embeddings" of the pool and
    the queries, or a "judge", which its class then takes as an argument (see `make_selector`).
    """

    sharing: ClassVar[str]
    needs: ClassVar[str]

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
        """Return, for each query, the places in `pool` of `k` demonstrations in showing order.

        An example whose text is the query's (but for case and spaces) is never shown to it; a query
        for which fewer than `k` are then left gets all of those. What several queries share shows
        none of them. The same `seed` gives the same choice. `embeddings`: (pool, width),
        `query_embeddings`: (queries, width).

        Raises ConfigError: `k` below 0 or above the pool (E-CONFIG-064), embeddings missing or of
        the wrong shape (E-CONFIG-065); DataError: a label not among `labels` (E-DATA-060), a pool
        example without one (E-DATA-067).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """As many examples of each label as `k` allows, in random order, the same for every query."""

    sharing: ClassVar[str] = "all"
    needs: ClassVar[str] = "nothing"

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
        """Deal out the labels in turn, from a random first one, then shuffle; see Selector.

        Labels that run out are passed over, so one short of examples gets fewer. One tuple for
        each query, all equal, and one tuple when `queries` is empty. No example equal to any of
        the queries is used; embeddings are ignored.
        """
        gold = checked(pool, k, labels)
        rng = np.random.default_rng(seed)
        asked = {same_text(query) for query in queries}
        order = [int(i) for i in rng.permutation(len(pool)) if same_text(pool[i].text) not in asked]
        by_label = piled(order, gold, len(labels))
        piles = [by_label[label] for label in rng.permutation(len(labels))]
        chosen = tuple(int(i) for i in rng.permutation(np.array(dealt(piles)[:k], np.int64)))
        return [chosen] * max(len(queries), 1)


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The `k` examples whose embeddings point most nearly the way of the query's."""

    sharing: ClassVar[str] = "query"
    needs: ClassVar[str] = "embeddings"

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
        """Rank by cosine, most similar last; see Selector. Ties are broken by the seed."""
        checked(pool, k, labels)
        shown, asked = embedded(pool, queries, embeddings, query_embeddings)
        return most_similar(cosines(asked, shown), pool, queries, k, seed)


@dataclass(frozen=True, kw_only=True)
class Bm25:
    """The `k` examples that share the rarest words with the query, by BM25 (Lucene's form)."""

    sharing: ClassVar[str] = "query"
    needs: ClassVar[str] = "nothing"

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
        """Rank by BM25, most similar last; see Selector. Ties are broken by the seed.

        Embeddings are ignored. A query that shares no word with the pool gets a random choice.
        """
        checked(pool, k, labels)
        scores = bm25_scores([tokens(example.text) for example in pool], queries)
        return most_similar(scores, pool, queries, k, seed)


def make_selector(name: str, judge: Judge | None = None) -> Selector:
    """Return the selector called `name`; `judge` goes to one that needs it, others ignore it.

    Raises ConfigError: an unknown name (E-CONFIG-001), a judge missing (E-CONFIG-110).
    """
    family = resolve("selector", SELECTORS, name)
    if family.needs != "judge":
        made: Selector = family()
        return made
    if judge is None:
        raise ConfigError(
            "E-CONFIG-110",
            f"The selector '{name}' needs a judge, which scores choices with a model.",
            fix="give one, or use stratified, which needs none",
        )
    made = family(judge=judge)
    return made


def dealt(piles: Sequence[Sequence[int]]) -> list[int]:
    """Return what the piles hold, one from each in turn; piles that run out are passed over.

    >>> dealt([[1, 2, 3], [7]])
    [1, 7, 2, 3]
    """
    turns = zip_longest(*piles)
    return [place for turn in turns for place in turn if place is not None]


def piled(order: Sequence[int], gold: NDArray[np.int64], classes: int) -> list[list[int]]:
    """Return the places of `order` by class, one pile a class, in the order given."""
    piles: list[list[int]] = [[] for _ in range(classes)]
    for place in order:
        piles[gold[place]].append(place)
    return piles


def embedded(
    pool: Sequence[Example],
    queries: Sequence[str],
    embeddings: Floats | None,
    query_embeddings: Floats | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the unit embeddings of pool and queries, or raise ConfigError (E-CONFIG-065)."""
    if embeddings is None or query_embeddings is None:
        raise ConfigError(
            "E-CONFIG-065",
            "Choosing by similarity needs embeddings of the pool and of the queries.",
            fix="name an encoder to embed them, or use the selector bm25, which needs none",
        )
    shown, asked = np.asarray(embeddings), np.asarray(query_embeddings)
    expected = (len(pool), len(queries), *shown.shape[1:2])
    if shown.ndim != 2 or asked.ndim != 2 or (len(shown), *asked.shape) != expected:
        raise ConfigError(
            "E-CONFIG-065",
            f"Embeddings of shape {shown.shape} and {asked.shape} do not fit {len(pool)} "
            f"examples and {len(queries)} queries.",
            fix="embed both with the same encoder, one row each",
        )
    return unit(shown), unit(asked)


def checked(pool: Sequence[Example], k: int, labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the class number of each pool example, or raise as Selector says."""
    if not 0 <= k <= len(pool):
        raise ConfigError(
            "E-CONFIG-064",
            f"Cannot choose {k} demonstrations from a pool of {len(pool)}.",
            fix=f"ask for 0 to {len(pool)}, or add training examples",
        )
    bare = [str(example.row) for example in pool if example.label is None]
    if bare:
        raise DataError(
            "E-DATA-067",
            f"{len(bare)} example(s) without a label cannot be demonstrations.",
            details=[f"row {row}" for row in bare[:5]],
        )
    return label_indices([example.label for example in pool], labels)


def most_similar(
    scores: Iterator[Floats], pool: Sequence[Example], queries: Sequence[str], k: int, seed: int
) -> list[Choice]:
    """Return the `k` best places of each query's scores (pool,), best last, none equal to it."""
    places: dict[str, list[int]] = {}
    for place, example in enumerate(pool):
        places.setdefault(same_text(example.text), []).append(place)
    ties = np.random.default_rng(seed).permutation(len(pool))
    rank = np.argsort(ties)
    chosen: list[Choice] = []
    for query, row in zip(queries, scores, strict=True):
        own = rank[places.get(same_text(query), [])]
        shuffled = -np.asarray(row, np.float64)[ties]
        shuffled[own] = np.inf
        count = min(k, len(pool) - len(own))
        best = first(shuffled, count)
        chosen.append(tuple(int(ties[i]) for i in best[::-1]))
    return chosen


def first(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` smallest values, smallest first, ties in their order."""
    if count == 0:
        return np.empty(0, np.int64)
    bound = np.partition(values, count - 1)[count - 1]
    near = np.flatnonzero(values <= bound)
    return near[np.argsort(values[near], kind="stable")][:count].astype(np.int64)
