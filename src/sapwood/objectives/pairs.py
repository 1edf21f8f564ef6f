"""Pairs of texts for next-sentence and sentence-order prediction, as BERT's builder makes them.

Devlin et al. 2019 (arXiv 1810.04805), section 3.1 and appendix A.2; sentence order: Lan et al. 2020
(arXiv 1909.11942). All documents are walked at once, chunk by chunk, so that numpy does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Integers
from sapwood.objectives.layouts import Layout

NEXT, OTHER = 0, 1  # BERT's labels: 0 = B follows A (in order), 1 = it does not
Texts = tuple[Integers, Integers, Integers]  # (document, first, end), each (pairs,), in tokens
_CUT = "ends of pairs that are too long"
_ALONE = "sentences that stand alone in a chunk"


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """The sentences of all documents in a row.

    `edges`: (sentences + 1,) tokens before each sentence, counted over all documents; `bounds`:
    (documents + 1,) the number of each document's first sentence.
    """

    edges: Integers
    bounds: Integers

    @classmethod
    def of(cls, lengths: Integers, counts: Integers) -> Sentences:
        """Make them from (sentences,) tokens a sentence and (documents,) sentences a document.

        Empty sentences are left out.
        """
        full = lengths > 0
        owner = np.repeat(np.arange(len(counts)), counts)[full]
        counts = np.bincount(owner, minlength=len(counts))
        return cls(
            edges=np.concatenate([[0], np.cumsum(lengths[full])]),
            bounds=np.concatenate([[0], np.cumsum(counts)]),
        )


@dataclass(frozen=True, kw_only=True)
class _Chunks:
    """Chunks of sentences: A is first to cut, the rest cut to end; `target` in tokens; all (n,)."""

    documents: Integers
    first: Integers
    cut: Integers
    end: Integers
    target: Integers

    def where(self, kept: NDArray[np.bool_]) -> _Chunks:
        """Return those for which `kept` (n,) is true."""
        each = (self.documents, self.first, self.cut, self.end, self.target)
        documents, first, cut, end, target = (array[kept] for array in each)
        return _Chunks(documents=documents, first=first, cut=cut, end=end, target=target)


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Texts A and B of each pair, and its label (pairs,)."""

    a: Texts
    b: Texts
    labels: Integers


def next_sentences(
    sentences: Sentences, room: int, short: float, rng: np.random.Generator
) -> Layout:
    """Return pairs (A, B): B follows A (label 0) or comes from another document (label 1).

    `room`: tokens of A and B together; `short`: the share of chunks that aim at fewer, at random.
    A chunk of one sentence gets a B from elsewhere, others in half of the cases; what then stood
    after A is put back and begins the next chunk. With one document only, B is from it, from a
    sentence that does not follow A.
    """
    drawn: list[NDArray[np.bool_]] = []

    def put_back(chunk: _Chunks) -> Integers:
        other = (chunk.end - chunk.first == 1) | (rng.random(len(chunk.end)) < 0.5)
        drawn.append(other)
        return np.where(other, chunk.cut, chunk.end)

    chunks = _walk(sentences, room, short, rng, put_back)
    other = np.concatenate(drawn) if drawn else np.zeros(0, dtype=np.bool_)
    documents, first, end = chunks.documents.copy(), chunks.cut.copy(), chunks.end.copy()
    documents[other], first[other], end[other] = _elsewhere(sentences, chunks.where(other), rng)
    edges, usable = sentences.edges, first < end
    a = (chunks.documents, edges[chunks.first], edges[chunks.cut])
    b = (documents, edges[first], edges[end])
    lost = int((a[2] - a[1])[~usable].sum())
    labels = np.where(other, OTHER, NEXT)[usable]
    pairs = _Pairs(a=_at(a, usable), b=_at(b, usable), labels=labels)
    return _layout(sentences, pairs, room, rng, lost)


def sentence_order(
    sentences: Sentences, room: int, short: float, rng: np.random.Generator
) -> Layout:
    """Return pairs of texts that follow each other, in order (0) or swapped (1), half of each.

    Chunks of one sentence have no order; they are left out and counted.
    """
    chunks = _walk(sentences, room, short, rng, lambda chunk: chunk.end)
    edges, alone = sentences.edges, chunks.end - chunks.first == 1
    lost = int((edges[chunks.end] - edges[chunks.first])[alone].sum())
    chunks = chunks.where(~alone)
    swapped = rng.random(len(chunks.end)) < 0.5
    front = (edges[chunks.first], edges[chunks.cut])
    rear = (edges[chunks.cut], edges[chunks.end])
    a = [np.where(swapped, y, x) for x, y in zip(front, rear, strict=True)]
    b = [np.where(swapped, x, y) for x, y in zip(front, rear, strict=True)]
    pairs = _Pairs(
        a=(chunks.documents, a[0], a[1]),
        b=(chunks.documents, b[0], b[1]),
        labels=np.where(swapped, OTHER, NEXT),
    )
    return _layout(sentences, pairs, room, rng, lost)


def _at(texts: Texts, kept: NDArray[np.bool_]) -> Texts:
    return texts[0][kept], texts[1][kept], texts[2][kept]


def _walk(
    sentences: Sentences,
    room: int,
    short: float,
    rng: np.random.Generator,
    proceed: Callable[[_Chunks], Integers],
) -> _Chunks:
    """Return the chunks of all documents; `proceed` says at which sentence the next one begins."""
    edges, bounds = sentences.edges, sentences.bounds
    alive = np.flatnonzero(np.diff(bounds))
    at = bounds[alive]
    made: list[_Chunks] = []
    while len(alive):
        target = np.full(len(alive), room)
        less = rng.random(len(alive)) < short
        target[less] = rng.integers(2, room, size=int(less.sum()), endpoint=True)
        reached = np.searchsorted(edges, edges[at] + target)
        end = np.minimum(np.maximum(reached, at + 1), bounds[alive + 1])
        spread = np.maximum(end - at - 1, 1)  # A has 1 to n - 1 of n sentences, the one of one
        cut = at + 1 + (rng.random(len(alive)) * spread).astype(np.int64)
        chunk = _Chunks(documents=alive, first=at, cut=cut, end=end, target=target)
        made.append(chunk)
        at = proceed(chunk)
        left = at < bounds[alive + 1]
        alive, at = alive[left], at[left]
    empty = np.zeros(0, dtype=np.int64)
    columns = [
        np.concatenate([getattr(chunk, name) for chunk in made]) if made else empty
        for name in ("documents", "first", "cut", "end", "target")
    ]
    documents, first, cut, end, target = columns
    return _Chunks(documents=documents, first=first, cut=cut, end=end, target=target)


def _elsewhere(
    sentences: Sentences, chunks: _Chunks, rng: np.random.Generator
) -> tuple[Integers, Integers, Integers]:
    """Return (document, first, end) in sentences of a B for each A: as long as A leaves room for.

    From another document wherever there are two; else from the same, not from where A goes on;
    first is end where there is nothing to take.
    """
    edges, bounds = sentences.edges, sentences.bounds
    filled = np.flatnonzero(np.diff(bounds))
    count = len(chunks.first)
    if len(filled) > 1:
        own = np.searchsorted(filled, chunks.documents)
        drawn = rng.integers(len(filled) - 1, size=count)
        documents: Integers = filled[drawn + (drawn >= own)]
        sizes = bounds[documents + 1] - bounds[documents]
        first = bounds[documents] + (rng.random(count) * sizes).astype(np.int64)
    else:
        documents = chunks.documents
        low, high = bounds[documents], bounds[documents + 1]
        # One sentence is left out: the one after A, or A's own first when A ends the document.
        out = np.where(chunks.cut < high, chunks.cut, chunks.first)
        first = low + (rng.random(count) * (high - low - 1)).astype(np.int64)
        first += first >= out
    stop = bounds[documents + 1]
    room = chunks.target - (edges[chunks.cut] - edges[chunks.first])
    reached = np.searchsorted(edges, edges[np.minimum(first, stop)] + np.maximum(room, 1))
    return documents, first, np.minimum(np.maximum(reached, first + 1), stop)


def _layout(
    sentences: Sentences, pairs: _Pairs, room: int, rng: np.random.Generator, alone: int
) -> Layout:
    """Return the pairs cut to `room` tokens, in random order.

    BERT's rule: a token at a time leaves the longer text (B when equal), from the front or the back
    by chance.
    """
    sizes_a, sizes_b = pairs.a[2] - pairs.a[1], pairs.b[2] - pairs.b[1]
    excess = np.maximum(sizes_a + sizes_b - room, 0)
    gap = np.minimum(np.abs(sizes_a - sizes_b), excess)
    rest = excess - gap
    off_a = np.where(sizes_a > sizes_b, gap, 0) + rest // 2
    off_b = np.where(sizes_a > sizes_b, 0, gap) + rest - rest // 2
    documents, starts, ends = [], [], []
    for texts, off in ((pairs.a, off_a), (pairs.b, off_b)):
        front = rng.binomial(off, 0.5)
        origin = sentences.edges[sentences.bounds[texts[0]]]
        documents.append(texts[0])
        starts.append(texts[1] - origin + front)
        ends.append(texts[2] - origin - (off - front))
    lost = {_ALONE: alone, _CUT: int(excess.sum())}
    return Layout(
        documents=np.stack(documents, axis=1).reshape(-1),
        starts=np.stack(starts, axis=1).reshape(-1),
        ends=np.stack(ends, axis=1).reshape(-1),
        offsets=np.arange(len(pairs.labels) + 1) * 2,
        labels=pairs.labels,
        lost={reason: tokens for reason, tokens in lost.items() if tokens},
    ).shuffled(rng)
