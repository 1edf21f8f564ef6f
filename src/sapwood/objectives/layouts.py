"""Which pieces of which documents make up the examples of an epoch, planned at once in numpy.

Short documents and ends of long ones are packed by best fit, largest first, so that few documents
are cut: Ding et al. 2024 (arXiv 2404.10830).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Integers
from sapwood.objectives.windows import Measure


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The examples of an epoch: example e is made of the pieces offsets[e] to offsets[e + 1] - 1.

    `documents`, `starts`, `ends`: (pieces,) which tokens of which document; `offsets`:
    (examples + 1,); `labels`: (examples,) of pairs, else None; `lost`: tokens that no example
    holds, by reason.
    """

    documents: Integers
    starts: Integers
    ends: Integers
    offsets: Integers
    labels: Integers | None = None
    lost: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def shuffled(self, rng: np.random.Generator) -> Layout:
        """Return the same examples in random order."""
        order = rng.permutation(len(self))
        sizes = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        pieces = np.repeat(self.offsets[:-1][order] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return Layout(
            documents=self.documents[pieces],
            starts=self.starts[pieces],
            ends=self.ends[pieces],
            offsets=offsets,
            labels=None if self.labels is None else self.labels[order],
            lost=self.lost,
        )


def packed(lengths: Integers, measure: Measure, rng: np.random.Generator, *, move: bool) -> Layout:
    """Return examples filled with pieces of documents of `lengths` tokens, nothing left out.

    Long documents are cut into pieces as long as an example, the first of random length when
    `move`; all that is shorter shares examples.
    """
    streams = np.where(lengths > 0, lengths + measure.tail, 0)
    long = streams > measure.room
    first = np.zeros_like(streams)
    if move:
        first[long] = rng.integers(1, measure.room, size=int(long.sum()), endpoint=True)
    documents, starts, ends = _cut(streams, first, measure.room, even=False)
    order = rng.permutation(len(documents))
    documents, starts, ends = documents[order], starts[order], ends[order]
    places = best_fit(ends - starts + measure.overhead, measure.capacity)
    # Best fit numbers examples from the fullest; pieces inside one come in random order.
    group = np.argsort(places, kind="stable")
    sizes = np.bincount(places)
    return Layout(
        documents=documents[group],
        starts=starts[group],
        ends=ends[group],
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
    ).shuffled(rng)


def single(
    lengths: Integers, measure: Measure, rng: np.random.Generator, *, move: bool, least: int
) -> Layout:
    """Return examples of one piece of one document each; long documents are cut evenly.

    When `move`, the first piece of a long document has a random length, from half an example;
    documents of fewer than `least` tokens are left out and counted.
    """
    short = (lengths > 0) & (lengths < least)
    streams = np.where((lengths > 0) & ~short, lengths + measure.tail, 0)
    first = np.zeros_like(streams)
    if move:
        long = streams > measure.room
        half = np.minimum(measure.room // 2, streams[long] // 2)
        most = np.minimum(measure.room, streams[long] - half)
        first[long] = rng.integers(half, most, endpoint=True)
    documents, starts, ends = _cut(streams, first, measure.room, even=True)
    lost = {f"documents of fewer than {least} tokens": int(lengths[short].sum())}
    return Layout(
        documents=documents,
        starts=starts,
        ends=ends,
        offsets=np.arange(len(documents) + 1),
        lost={reason: tokens for reason, tokens in lost.items() if tokens},
    ).shuffled(rng)


def _cut(
    streams: Integers, first: Integers, room: int, *, even: bool
) -> tuple[Integers, Integers, Integers]:
    """Return (document, start, end) of pieces of at most `room`: the first given, then the rest."""
    rest = streams - first
    counts = -(-rest // room)
    documents = np.repeat(np.arange(len(streams)), counts)
    number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    if even:
        starts = rest[documents] * number // counts[documents]
        ends = rest[documents] * (number + 1) // counts[documents]
    else:
        starts = number * room
        ends = np.minimum(starts + room, rest[documents])
    begun = np.flatnonzero(first)
    return (
        np.concatenate([documents, begun]),
        np.concatenate([starts + first[documents], np.zeros_like(begun)]),
        np.concatenate([ends + first[documents], first[begun]]),
    )


def best_fit(sizes: Integers, capacity: int) -> Integers:
    """Return the number of the bin of each item, (items,): best fit, largest first.

    `sizes`: (items,) from 1 to `capacity`. Equal sizes are placed together, so that the work grows
    with the number of different sizes and hardly with that of the items.
    """
    order = np.argsort(-sizes, kind="stable")
    ordered = sizes[order]
    edges = np.flatnonzero(np.diff(ordered, prepend=-1, append=-1))
    bins = np.empty(len(sizes), dtype=np.int64)
    open_bins: dict[int, list[NDArray[np.int64]]] = {}
    free: list[int] = []  # the keys of open_bins, ascending
    made = 0

    def keep(left: int, numbers: NDArray[np.int64]) -> None:
        if left and len(numbers):
            if left not in open_bins:
                insort(free, left)
                open_bins[left] = []
            open_bins[left].append(numbers)

    for low, high in pairwise(edges.tolist()):
        size, at = int(ordered[low]), low
        while at < high:
            place = bisect_left(free, size)
            left = free[place] if place < len(free) else capacity
            each = left // size
            wanted = -(-(high - at) // each)
            if place < len(free):
                there = open_bins.pop(free.pop(place))
                numbers = there[0] if len(there) == 1 else np.concatenate(there)
            else:
                numbers = np.arange(made, made + wanted)
                made += wanted
            used, spare = numbers[:wanted], numbers[wanted:]
            keep(left, spare)
            count = min(high - at, len(used) * each)
            bins[order[at : at + count]] = np.repeat(used, each)[:count]
            whole = count // each
            keep(left - each * size, used[:whole])
            keep(left - (count - whole * each) * size, used[whole:])
            at += count
    return bins
