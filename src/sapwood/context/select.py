"""Which examples to show: the same for every query, or the ones most like it.

stratified  the same for every query, so the context is encoded once: the honest default, and free
            of majority-label bias by construction
nearest     by cosine of given embeddings, most similar last (KATE; Liu et al. 2022, DeeLIO,
            arXiv 2101.06804)
bm25        by words in common, most similar last (Robertson & Zaragoza 2009), no model needed

A selector that chooses per query makes every context unique: nothing is shared between queries,
and each pays for reading its whole context. It says so by `sharing`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Example, Floats
from sapwood.metrics import label_indices

SELECTORS = {
    "stratified": "sapwood.context.select:Stratified",
    "nearest": "sapwood.context.select:Nearest",
    "bm25": "sapwood.context.select:Bm25",
}

Choice = tuple[int, ...]

CELLS = 4_000_000  # similarities held at once: 32 MB
# Han and kana are written without spaces: each character is a token, and each pair of neighbours.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
TOKEN = re.compile(rf"[{UNSPACED}]+|[^\W{UNSPACED}]+")


class Selector(Protocol):
    """Chooses demonstrations for queries; a frozen dataclass without state."""

    sharing: ClassVar[str]  # "all", "group" or "query": who sees the same demonstrations

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
        for which fewer than `k` are then left gets all of those. The same `seed` gives the same
        choice. `embeddings`: (pool, width), `query_embeddings`: (queries, width).

        Raises ConfigError: `k` below 0 or above the pool (E-CONFIG-064), embeddings missing or of
        the wrong shape (E-CONFIG-065); DataError: a label not among `labels` (E-DATA-060), a pool
        example without one (E-DATA-067).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """As many examples of each label as `k` allows, in random order, the same for every query."""

    sharing: ClassVar[str] = "all"

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
        gold = _checked(pool, k, labels)
        rng = np.random.default_rng(seed)
        asked = {_same(query) for query in queries}
        order = [int(i) for i in rng.permutation(len(pool)) if _same(pool[i].text) not in asked]
        by_label: list[list[int]] = [[] for _ in labels]
        for place in order:
            by_label[gold[place]].append(place)
        piles = [by_label[label] for label in rng.permutation(len(labels))]
        deepest = max(map(len, piles), default=0)
        dealt = [pile[turn] for turn in range(deepest) for pile in piles if turn < len(pile)]
        chosen = tuple(int(i) for i in rng.permutation(np.array(dealt[:k], np.int64)))
        return [chosen] * max(len(queries), 1)


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The `k` examples whose embeddings point most nearly the way of the query's."""

    sharing: ClassVar[str] = "query"

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
        _checked(pool, k, labels)
        if embeddings is None or query_embeddings is None:
            raise ConfigError(
                "E-CONFIG-065",
                "The nearest demonstrations need embeddings of the pool and of the queries.",
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
        return _most_similar(_cosines(_unit(asked), _unit(shown)), pool, queries, k, seed)


@dataclass(frozen=True, kw_only=True)
class Bm25:
    """The `k` examples that share the rarest words with the query, by BM25 (Lucene's form)."""

    sharing: ClassVar[str] = "query"

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
        _checked(pool, k, labels)
        scores = _bm25_scores([tokens(example.text) for example in pool], queries)
        return _most_similar(scores, pool, queries, k, seed)


def tokens(text: str) -> list[str]:
    """Return lower-case words; runs of Han and kana as single characters and pairs of neighbours.

    >>> tokens("Good 味道好")
    ['good', '味', '道', '好', '味道', '道好']
    """
    out: list[str] = []
    for run in TOKEN.findall(text.lower()):
        if re.match(f"[{UNSPACED}]", run):
            out += [*run, *(run[i : i + 2] for i in range(len(run) - 1))]
        else:
            out.append(run)
    return out


def _same(text: str) -> str:
    """Return what two texts have in common that differ only in case and spaces."""
    return " ".join(text.casefold().split())


def _checked(pool: Sequence[Example], k: int, labels: Sequence[str]) -> NDArray[np.int64]:
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


def _unit(vectors: Floats) -> NDArray[np.float64]:
    """Return the rows at length 1; a zero row stays zero."""
    exact = np.asarray(vectors, np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    unit = np.divide(exact, length, out=np.zeros_like(exact), where=length > 0)
    return np.asarray(unit, np.float64)


def _cosines(queries: Floats, pool: Floats) -> Iterator[Floats]:
    """Yield the cosines of each query with the pool, shape (pool,), computed in blocks."""
    block = max(1, CELLS // max(len(pool), 1))
    for start in range(0, len(queries), block):
        yield from queries[start : start + block] @ pool.T


def _bm25_scores(documents: Sequence[list[str]], queries: Sequence[str]) -> Iterator[Floats]:
    """Yield each query's BM25 scores over the documents, shape (documents,)."""
    known = {token for document in documents for token in document}
    if not known:
        yield from (np.zeros(len(documents)) for _ in queries)
        return
    import bm25s

    index = bm25s.BM25(method="lucene")
    index.index(list(documents), show_progress=False)
    for query in queries:
        shared = [token for token in tokens(query) if token in known]
        yield index.get_scores(shared) if shared else np.zeros(len(documents))


def _most_similar(
    scores: Iterator[Floats], pool: Sequence[Example], queries: Sequence[str], k: int, seed: int
) -> list[Choice]:
    """Return the `k` best places of each query's scores (pool,), best last, none equal to it."""
    places: dict[str, list[int]] = {}
    for place, example in enumerate(pool):
        places.setdefault(_same(example.text), []).append(place)
    ties = np.random.default_rng(seed).permutation(len(pool))
    rank = np.argsort(ties)
    chosen: list[Choice] = []
    for query, row in zip(queries, scores, strict=True):
        own = rank[places.get(_same(query), [])]
        shuffled = -np.asarray(row, np.float64)[ties]
        shuffled[own] = np.inf
        count = min(k, len(pool) - len(own))
        best = _first(shuffled, count)
        chosen.append(tuple(int(ties[i]) for i in best[::-1]))
    return chosen


def _first(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` smallest values, smallest first, ties in their order."""
    if count == 0:
        return np.empty(0, np.int64)
    bound = np.partition(values, count - 1)[count - 1]
    near = np.flatnonzero(values <= bound)
    return near[np.argsort(values[near], kind="stable")][:count].astype(np.int64)
