"""Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999; Heafield et al. 2013).

    p(w | h) = (a(hw) - D(a(hw))) / sum_v a(hv) + gamma(h) p(w | h without its first word)
    gamma(h) = (D_1 N_1(h) + D_2 N_2(h) + D_3 N_3+(h)) / sum_v a(hv)

a(g) is how often g occurs, for n-grams of the highest order and those that begin with <s>; for all
others the number of different words that stand before g. N_c(h): how many words follow h with
adjusted count c. The lowest order is interpolated with the uniform distribution over all words but
<s>, so that <unk>, which was never seen, has its gamma / words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Integers
from sapwood.models.counting import Keys, Level, Symbols

# Heafield's lmplz takes these where counts of counts are no use: tiny or artificial texts.
FALLBACK = (0.5, 1.0, 1.5)
CHUNK = 1 << 22  # n-grams smoothed at once
Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Discounts:
    """What is taken from adjusted counts 1, 2 and 3 or more; `fallback`: by rule, not estimated."""

    amounts: tuple[float, float, float]
    fallback: bool = False

    def of(self, counts: Integers) -> Doubles:
        """Return the discount of each adjusted count."""
        return np.array([0.0, *self.amounts])[np.minimum(counts, 3)]


@dataclass(frozen=True, kw_only=True)
class Order:
    """The n-grams of one order as they are used: natural logarithms, float32.

    `keys`: (n,) as in counting.Level, empty for single words, which are their own places; `logs`:
    (n,) log p(last word | words before); `backoffs`: (n,) log gamma after these words, 0 where
    nothing ever followed, empty for the highest order.
    """

    keys: Keys
    logs: NDArray[np.float32]
    backoffs: NDArray[np.float32]


def discounts(adjusted: Integers) -> Discounts:
    """Return the discounts of one order from its adjusted counts (Chen and Goodman, equation 26).

    The fallback where one of them is not above 0 and at most its count, or where no n-gram has
    count 1, 2 or 3.
    """
    few = np.bincount(adjusted[adjusted <= 4], minlength=5)[1:5].astype(np.float64)
    if not few[:3].all():
        return Discounts(amounts=FALLBACK, fallback=True)
    y = few[0] / (few[0] + 2 * few[1])
    amounts = [float(c - (c + 1) * y * few[c] / few[c - 1]) for c in (1, 2, 3)]
    if any(not 0 < amount <= c for c, amount in enumerate(amounts, 1)):
        return Discounts(amounts=FALLBACK, fallback=True)
    return Discounts(amounts=(amounts[0], amounts[1], amounts[2]))


def smoothed(
    single: Integers, levels: Sequence[Level], symbols: Symbols, *, closed: bool
) -> Iterator[tuple[Order, Discounts]]:
    """Yield each order, from single words up, with its discounts.

    `single`: (words,) how often each word occurs; `closed`: every word of the vocabulary has a
    share of the uniform distribution; else only words that occur and <unk>, which then stands for
    all others (as lmplz does), and words that do not occur have probability 0.
    """
    begins = np.arange(symbols.size) == symbols.bos
    adjusted = _adjusted(single, begins, levels[0] if levels else None)
    adjusted[symbols.bos] = 0
    found = discounts(adjusted)
    shares = _of_words(adjusted, found, symbols, closed=closed)
    logs = _logs(shares)
    for number, level in enumerate(levels):
        above = levels[number + 1] if number + 1 < len(levels) else None
        begins = _over_prefixes(begins, level.keys, symbols.size)
        counts = _adjusted(level.counts, begins, above)
        now = discounts(counts)
        backoffs = np.zeros(len(logs), np.float32)
        shares = _of_level(level, counts, now, (shares, backoffs), symbols.size)
        keys = levels[number - 1].keys if number else np.zeros(0, np.uint64)
        yield Order(keys=np.array(keys), logs=logs, backoffs=backoffs), found
        logs, found = _logs(shares), now
    keys = levels[-1].keys if levels else np.zeros(0, np.uint64)
    yield Order(keys=np.array(keys), logs=logs, backoffs=np.zeros(0, np.float32)), found


def _logs(shares: Doubles) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.log(shares).astype(np.float32)


def _adjusted(
    counts: Integers, begins: NDArray[np.bool_], above: Level | None
) -> NDArray[np.int64]:
    """Return adjusted counts (n,): occurrences at a text's begin and in the highest order."""
    if above is None:
        return np.array(counts, dtype=np.int64)
    found = np.zeros(len(counts), np.int64)
    for start in range(0, len(above.suffixes), CHUNK):
        part = above.suffixes[start : start + CHUNK]
        low = int(part.min())
        own = np.bincount(part - low)
        found[low : low + len(own)] += own
    found[begins] = counts[begins]
    return found


def _over_prefixes(values: NDArray[np.bool_], keys: Keys, words: int) -> NDArray[np.bool_]:
    """Return for each n-gram the value of its first words, in chunks."""
    found = np.empty(len(keys), bool)
    for start in range(0, len(keys), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = values[(keys[part] // np.uint64(words)).astype(np.int64)]
    return found


def _of_words(
    adjusted: NDArray[np.int64], found: Discounts, symbols: Symbols, *, closed: bool
) -> Doubles:
    """Return the probability of each word, (words,)."""
    held = np.ones(symbols.size, bool) if closed else adjusted > 0
    held[symbols.unk], held[symbols.bos] = True, False
    total = float(adjusted.sum())
    taken = found.of(adjusted)
    gamma = float(taken[adjusted > 0].sum()) / total
    return np.where(held, (adjusted - taken) / total + gamma / held.sum(), 0.0)


def _of_level(
    level: Level,
    counts: NDArray[np.int64],
    found: Discounts,
    below: tuple[Doubles, NDArray[np.float32]],
    words: int,
) -> Doubles:
    """Return the probability of each n-gram, (n,), and fill in the backoffs of the order below.

    `below`: (probabilities, backoffs) of the order below.
    """
    shares = np.empty(len(level.keys))
    for start, end in _whole_contexts(level.keys, words):
        prefixes = (level.keys[start:end] // np.uint64(words)).astype(np.int64)
        first = int(prefixes[0])
        own, near = counts[start:end], prefixes - first
        taken = found.of(own)
        totals = np.bincount(near, weights=own)
        lost = np.bincount(near, weights=taken)
        with np.errstate(divide="ignore", invalid="ignore"):
            gammas = lost / totals
            logs = np.where(totals > 0, np.log(gammas), 0.0)
        below[1][first : first + len(logs)] = logs
        lower = below[0][np.asarray(level.suffixes[start:end])]
        shares[start:end] = (own - taken) / totals[near] + gammas[near] * lower
    return shares


def _whole_contexts(keys: Keys, words: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of chunks of n-grams that never part what shares its first words."""
    start, size = 0, np.uint64(words)
    while start < len(keys):
        end = min(start + CHUNK, len(keys))
        if end < len(keys):
            after = (keys[end - 1] // size + np.uint64(1)) * size
            end += int(np.searchsorted(keys[end:], after))
        yield start, end
        start = end
