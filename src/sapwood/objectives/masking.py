"""Which tokens are hidden, and what stands in their place: tokens, whole words, spans.

Whole words: BERT's own later variant; spans: SpanBERT (Joshi et al. 2020, arXiv 1907.10529);
a new draw every epoch: RoBERTa (Liu et al. 2019, arXiv 1907.11692).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Floats, Integers
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import rounded

UNITS = ("token", "word", "span")
# SpanBERT, section 3.1: geometric lengths with p = 0.2, at most 10 words, 3.8 in the mean.
_SPAN_P, _SPAN_LONGEST = 0.2, 10


def wrong_unit(unit: str) -> list[str]:
    """Return what is wrong with a setting `unit`, in words."""
    return [] if unit in UNITS else [f"unit must be one of {', '.join(UNITS)}, not '{unit}'"]


def count_of(rate: float, tokens: int, rng: np.random.Generator) -> int:
    """Return how many of `tokens` are hidden: `rate` in the mean, at least one where there is one.

    Fairseq's rounding: the fraction decides by chance, so that short rows have the right rate.
    """
    return min(max(rounded(rate * tokens, rng), 1), tokens)


def chosen_tokens(candidates: Integers, count: int, rng: np.random.Generator) -> Integers:
    """Return `count` of the positions `candidates`, drawn without replacement, ascending."""
    if not count:
        return candidates[:0]
    order = rng.random(len(candidates)).argpartition(count - 1)[:count]
    picked: Integers = candidates[order]
    picked.sort()
    return picked


def words_of(starts: NDArray[np.bool_], candidates: Integers) -> tuple[Integers, Integers]:
    """Return (first, end) positions of the words that candidates make up, ascending.

    A word ends before the next token that begins one, and before a token that is no candidate.
    """
    if not len(candidates):
        return candidates, candidates
    opens = starts[candidates]
    opens[0] = True
    opens[1:] |= candidates[1:] - candidates[:-1] != 1
    at = np.flatnonzero(opens)
    last = np.append(at[1:], len(candidates)) - 1
    return candidates[at], candidates[last] + 1


def chosen_words(
    starts: NDArray[np.bool_], candidates: Integers, count: int, rng: np.random.Generator
) -> Integers:
    """Return positions of whole words, at most `count`, ascending; as BERT draws them.

    Words come in random order, and one that is too long for what is left is skipped. When all are
    too long, the first drawn is taken whole.
    """
    first, end = words_of(starts, candidates)
    order = rng.permutation(len(first)).tolist()
    words = filling(order, (end - first).tolist(), count) or order[:1]
    return within(first[words], end[words])


def filling(order: list[int], sizes: list[int], count: int) -> list[int]:
    """Return words of `order` as they come, without those that pass what is left of `count`."""
    taken = []
    for word in order:
        if sizes[word] <= count:
            taken.append(word)
            count -= sizes[word]
            if not count:
                break
    return taken


def chosen_spans(
    starts: NDArray[np.bool_], candidates: Integers, count: int, rng: np.random.Generator
) -> tuple[Integers, Integers]:
    """Return (positions, number of the span of each), spans of whole words as SpanBERT draws them.

    At most `count` positions, ascending; a span ends early before a word that is hidden already, at
    the end of its piece, and before a word that is too long for what is left.
    """
    first, end = words_of(starts, candidates)
    heads, tails = first.tolist(), end.tolist()
    owner = np.full(len(heads), -1)
    longest = span_lengths(len(heads), rng).tolist()
    left = count
    for number, anchor in enumerate(rng.permutation(len(heads)).tolist()):
        if not left:
            break
        for word in range(anchor, min(anchor + longest[number], len(heads))):
            size = tails[word] - heads[word]
            apart = word > anchor and tails[word - 1] != heads[word]
            if owner[word] >= 0 or apart or size > left:
                break
            owner[word] = number
            left -= size
    words = np.flatnonzero(owner >= 0)
    if not len(words) and len(heads):
        words = np.array([int(rng.integers(len(heads)))])
    sizes = end[words] - first[words]
    return within(first[words], end[words]), np.repeat(owner[words], sizes)


@cache
def _span_steps() -> Floats:
    lengths = np.arange(1, _SPAN_LONGEST + 1)
    shares = _SPAN_P * (1 - _SPAN_P) ** (lengths - 1)
    steps: Floats = np.cumsum(shares / shares.sum())[:-1]
    return steps


def span_lengths(count: int, rng: np.random.Generator) -> Integers:
    """Return `count` lengths of spans in words, geometric, 1 to 10, 3.8 in the mean."""
    return np.searchsorted(_span_steps(), rng.random(count), side="right") + 1


def within(first: Integers, end: Integers) -> Integers:
    """Return the positions in the ranges from `first` to `end` (excluded), ascending."""
    if not len(first):
        return np.zeros(0, dtype=np.int64)
    sizes = end - first
    shift = np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
    inside: Integers = np.sort(shift + np.arange(len(shift)))
    return inside


def hide(
    ids: Integers,
    chosen: Integers,
    shares: tuple[float, float],
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    groups: Integers | None = None,
) -> Integers:
    """Return `ids` with the chosen ones masked, replaced or kept.

    `shares`: of the mask token and of random tokens, which are uniform over the ids that are not
    special; the rest keep their token. One draw a token, or one a group (`groups`: (chosen,)).
    """
    mask, random = shares
    if groups is None:
        draws = rng.random(len(chosen))
    else:
        known, inverse = np.unique(groups, return_inverse=True)
        draws = rng.random(len(known))[inverse]
    hidden = ids.copy()
    hidden[chosen[draws < mask]] = -1 if vocabulary.mask is None else vocabulary.mask
    swapped = chosen[(draws >= mask) & (draws < mask + random)]
    if len(swapped):
        ordinary = vocabulary.ordinary
        hidden[swapped] = ordinary[rng.integers(len(ordinary), size=len(swapped))]
    return hidden
