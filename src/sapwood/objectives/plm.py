"""Permutation language modelling: predict tokens in a random order (Yang et al. 2019, XLNet).

Paper: arXiv 1906.08237, section 2.3, figure 4 and appendix A. The content stream holds the real
tokens, so a target sees what the targets before it in the order are, and not that they are masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Floats, Integers
from sapwood.objectives.masking import count_of, filling, within, words_of
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import (
    Arrays,
    Frame,
    Measure,
    Objective,
    Passage,
    Window,
)

# XLNet: a span of 1 to 5 words, n with a chance of 1/n, inside a context of six times its length.
_LONGEST, _CONTEXT = 5, 6
_OUTSIDE = 2  # the segment of XLNet's last token


@dataclass(frozen=True, kw_only=True)
class Plm(Objective):
    """Spans of whole words are targets; what else there is can be seen by all of them.

    `rate`: the share of tokens that are targets (XLNet: one in six); `reuse`: the share of an
    example that is memory, 0 or e.g. 0.5: it has targets of its own and sees nothing of the rest,
    and the rest sees all of it, so that its states can be kept for what follows.
    """

    name: ClassVar[str] = "plm"
    net: ClassVar[str] = "permuted"
    joins: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("separator", "first")
    rate: float = 1 / 6
    reuse: float = 0.0

    def __post_init__(self) -> None:
        problems = self.shares(rate=self.rate, reuse=self.reuse)
        if not self.rate:
            problems.append("rate must be above 0, or nothing is learnt")
        if self.reuse == 1:
            problems.append("reuse must be below 1, or nothing follows the memory")
        self.refuse(problems)

    def frame(self, vocabulary: Vocabulary) -> Frame:
        """Return XLNet's frame: piece [SEP] [CLS], and A [SEP] B [SEP] [CLS] for a pair."""
        first, separator = vocabulary.first, vocabulary.separator
        assert first is not None
        assert separator is not None
        return Frame(opening=(), between=(separator,), closing=(separator, first), outside=True)

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`."""
        return Measure(capacity=length, overhead=self.frame(vocabulary).overhead(pair=False))

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return n real tokens and what k targets may see of them.

        input_ids, token_type_ids, documents (n,); perm_mask (n, n) bool, True at [i, j] where i
        must not see j; target_mapping (k, n) bool, one True a row; labels (k,). Documents of an
        example do not see each other.
        """
        passage = self.frame(vocabulary).around(window)
        size = len(passage.ids)
        functional = vocabulary.special[passage.ids]
        split = int(self.reuse * size)
        ranks = np.concatenate([rng.permutation(split), rng.permutation(size - split)])
        targets = np.zeros(size, dtype=np.bool_)
        for low, high in ((0, split), (split, size)):
            candidates = low + np.flatnonzero(~functional[low:high])
            if len(candidates):
                count = count_of(self.rate, len(candidates), rng)
                targets[chosen_in_context(passage.starts, candidates, count, rng)] = True
        blocked = np.ones((size, size), dtype=np.bool_)
        edges = np.searchsorted(passage.documents, np.arange(passage.documents[-1] + 2))
        for low, high in pairwise(edges.tolist()):
            inside = slice(low, high)
            own = permutation_mask(ranks[inside], targets[inside], functional[inside])
            memory = max(split - low, 0)
            own[:memory, memory:] = True
            own[memory:, :memory] = False
            blocked[inside, inside] = own
        chosen = np.flatnonzero(targets)
        mapping = np.zeros((len(chosen), size), dtype=np.bool_)
        mapping[np.arange(len(chosen)), chosen] = True
        return passage.arrays(
            token_type_ids=_types(passage),
            perm_mask=blocked,
            target_mapping=mapping,
            labels=passage.ids[chosen],
        )

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`: nothing is hidden in the tokens."""
        return example["input_ids"]


def permutation_mask(
    ranks: Integers, targets: NDArray[np.bool_], functional: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return (n, n) bool, True at [i, j] where position i must not see position j.

    `ranks`: (n,) the place of each position in the order; `targets`: (n,) what is predicted;
    `functional`: (n,) special tokens, which take part in the order and see themselves. All other
    positions come before every target and are seen by all. The query stream of a target does not
    see its own position; its content stream does, which the net adds.
    """
    ordered = targets | functional
    place = np.where(ordered, ranks, -1).astype(np.int32)  # half the bytes to compare
    own = np.where(targets, place, place + 1)
    return (own[:, None] <= place[None, :]) & ordered[None, :]


def chosen_in_context(
    starts: NDArray[np.bool_], candidates: Integers, count: int, rng: np.random.Generator
) -> Integers:
    """Return at most `count` positions of whole words, ascending: spans, each in a context.

    From left to right: a span of n words, 1 to 5, with 6 n words of context around it, shared out
    between left and right by chance; then single words at random until the count is reached.
    """
    first, end = words_of(starts, candidates)
    sizes = (end - first).tolist()
    most = len(sizes) // (_CONTEXT + 1) + 1
    spans = np.searchsorted(_span_steps(), rng.random(most), side="right") + 1
    before = (rng.random(most) * _CONTEXT * spans).astype(np.int64)
    taken: list[int] = []
    every, at, left = range(len(sizes)), 0, count
    for words, skipped in zip(spans.tolist(), before.tolist(), strict=True):
        chosen = filling([*every[at + skipped :][:words]], sizes, left)
        left -= sum(sizes[word] for word in chosen)
        taken += chosen
        at += words * (_CONTEXT + 1)
    if left:
        free = np.ones(len(sizes), dtype=np.bool_)
        free[taken] = False
        order = rng.permutation(np.flatnonzero(free)).tolist()
        taken += filling(order, sizes, left) or (order[:1] if not taken else [])
    return within(first[taken], end[taken])


@cache
def _span_steps() -> Floats:
    odds = 1 / np.arange(1, _LONGEST + 1)
    steps: Floats = np.cumsum(odds / odds.sum())[:-1]
    return steps


def _types(passage: Passage) -> Integers:
    """Return segments (n,): XLNet's last token is a segment of its own, also without a pair."""
    if passage.types is not None:
        return passage.types
    types = np.zeros_like(passage.documents)
    types[:-1][passage.documents[1:] != passage.documents[:-1]] = _OUTSIDE
    types[-1] = _OUTSIDE
    return types
