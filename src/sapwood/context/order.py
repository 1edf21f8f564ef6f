"""In which order to show demonstrations: two rules that need no model, four judged by one.

given          as the selector left them
similar-last   the most similar to the queries last, where it weighs most (Liu et al. 2022)
likelihood     the order under which development rows' labels are most likely
global-entropy the order whose answers are spread most evenly over the labels, and
local-entropy  the order that is least sure of each answer: GlobalE and LocalE (Lu et al. 2022,
               arXiv 2104.08786), both against orders that push everything to one label
mdl            the order under which the answers take the fewest bits (Wu et al. 2023,
               arXiv 2212.10375)

Judged rules compare `permutations`, which come sorted, so that neighbours begin alike and a cache
of encoded beginnings serves them. The best order for one model is not the best for another (Lu et
al.).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from itertools import permutations as every_permutation
from math import factorial, isqrt
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sapwood.context.select import Choice
from sapwood.context.similarity import bm25_scores, cosines, tokens, unit
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats, Integers

ORDERS = {
    "given": "sapwood.context.order:Given",
    "similar-last": "sapwood.context.order:SimilarLast",
    "likelihood": "sapwood.context.order:Likelihood",
    "global-entropy": "sapwood.context.order:GlobalEntropy",
    "local-entropy": "sapwood.context.order:LocalEntropy",
    "mdl": "sapwood.context.order:DescriptionLength",
}

MOST = 24  # permutations tried: all of four demonstrations, as in Lu et al.

Float64 = NDArray[np.float64]


class Arranging(Protocol):
    """A rule that orders demonstrations by their texts; a frozen dataclass without state."""

    judged: ClassVar[bool]  # False: `arrange` is all it needs

    def arrange(
        self,
        shown: Sequence[str],
        queries: Sequence[str],
        *,
        embeddings: Floats | None = None,
        query_embeddings: Floats | None = None,
    ) -> Choice:
        """Return the places of the demonstrations' texts `shown` in showing order.

        `queries`: the one query of a context of its own, or development queries for a context that
        all share. `embeddings`: (shown, width), `query_embeddings`: (queries, width).
        """
        ...


class Judging(Protocol):
    """A rule that compares orders by what a model said under each; a frozen dataclass."""

    judged: ClassVar[bool]  # True: score `permutations` and take the best of `values`
    needs_gold: ClassVar[bool]

    def values(self, scores: Floats, gold: Integers | None = None) -> Float64:
        """Return how good each order is, (orders,), higher being better.

        `scores`: (orders, rows, labels) of log-probabilities, each row finite at its best and
        normalised or not; `gold`: (rows,), label numbers. Raises DataError (E-DATA-110) on other
        shapes, on numbers that are none, or where gold is needed and missing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Given:
    """The order the selector chose."""

    judged: ClassVar[bool] = False

    def arrange(
        self,
        shown: Sequence[str],
        queries: Sequence[str],
        *,
        embeddings: Floats | None = None,
        query_embeddings: Floats | None = None,
    ) -> Choice:
        """Return 0, 1, 2, ...: nothing is moved."""
        return tuple(range(len(shown)))


@dataclass(frozen=True, kw_only=True)
class SimilarLast:
    """From the least to the most similar to the queries, on average over them."""

    judged: ClassVar[bool] = False

    def arrange(
        self,
        shown: Sequence[str],
        queries: Sequence[str],
        *,
        embeddings: Floats | None = None,
        query_embeddings: Floats | None = None,
    ) -> Choice:
        """Rank by mean cosine, or by mean BM25 without embeddings; ties stay as they are."""
        if embeddings is None or query_embeddings is None:
            rows = bm25_scores([tokens(text) for text in shown], queries)
        else:
            rows = cosines(unit(query_embeddings), unit(embeddings))
        total = np.zeros(len(shown))
        for row in rows:
            total += row
        return tuple(int(i) for i in np.argsort(np.round(total, 9), kind="stable"))


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Mean log-probability of the right label: what is wanted, where labels can be spared."""

    judged: ClassVar[bool] = True
    needs_gold: ClassVar[bool] = True

    def values(self, scores: Floats, gold: Integers | None = None) -> Float64:
        """Return nats a row, at most 0; see Judging."""
        log_p, right = _checked(scores, gold, needs_gold=True)
        chosen: Float64 = np.take_along_axis(log_p, right[None, :, None], axis=2)[..., 0]
        return np.asarray(chosen.mean(1), np.float64)


@dataclass(frozen=True, kw_only=True)
class GlobalEntropy:
    """Entropy of how often each label is the answer (GlobalE, Lu et al. 2022).

    The paper probes with texts that the model itself wrote; any unlabelled rows do. Even answers
    are good as far as the labels of these rows are equally common.
    """

    judged: ClassVar[bool] = True
    needs_gold: ClassVar[bool] = False

    def values(self, scores: Floats, gold: Integers | None = None) -> Float64:
        """Return nats, from 0 to log(labels); a tie within a row is its first label's."""
        log_p, _ = _checked(scores, gold)
        answers = np.eye(log_p.shape[2])[log_p.argmax(2)]  # (orders, rows, labels)
        return _entropy(answers.mean(1))


@dataclass(frozen=True, kw_only=True)
class LocalEntropy:
    """Mean entropy of the single answers (LocalE, Lu et al. 2022)."""

    judged: ClassVar[bool] = True
    needs_gold: ClassVar[bool] = False

    def values(self, scores: Floats, gold: Integers | None = None) -> Float64:
        """Return nats a row, from 0 to log(labels); see Judging."""
        log_p, _ = _checked(scores, gold)
        return np.asarray(_entropy(np.exp(log_p)).mean(1), np.float64)


@dataclass(frozen=True, kw_only=True)
class DescriptionLength:
    """Bits that the labels are expected to take, fewest first (Wu et al. 2023).

    The paper looks for the context c under which a text x's label has the shortest code,
    -log2 p(y | x, c). Since y is unknown, it takes the expectation over the model's own answer,
    which is the entropy of p(. | x, c), and the model's length is the same for all c. There each
    text finds its own context; a context that all share is judged by the mean over rows. Read so,
    it is LocalEntropy with the opposite sign: the two papers disagree about what confidence means,
    and development rows with labels (Likelihood) settle it.
    """

    judged: ClassVar[bool] = True
    needs_gold: ClassVar[bool] = False

    def values(self, scores: Floats, gold: Integers | None = None) -> Float64:
        """Return minus the bits a row, at most 0; see Judging."""
        log_p, _ = _checked(scores, gold)
        return np.asarray(-_entropy(np.exp(log_p)).mean(1) / np.log(2), np.float64)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How much the order matters: a rule's values over the permutations tried, and the best."""

    rule: str
    orders: int
    low: float
    mean: float
    high: float
    best: Choice

    def describe(self) -> str:
        """Return one line for a report.

        >>> Spread(rule="mdl", orders=24, low=-0.9, mean=-0.7, high=-0.5, best=(1, 0)).describe()
        'mdl of 24 orders: -0.900 to -0.500, mean -0.700'
        """
        return (
            f"{self.rule} of {self.orders} orders: {self.low:.3f} to {self.high:.3f}, "
            f"mean {self.mean:.3f}"
        )


def permutations(k: int, count: int = MOST, seed: int = 0, *, stem: int = 0) -> list[Choice]:
    """Return up to `count` distinct permutations of 0 to k - 1, drawn evenly and sorted.

    All of them where there are no more. Sorted, those that begin alike stand together. Of many
    demonstrations hardly two drawn at random begin alike: `stem` then makes bunches, about as many
    as each has members, that keep their first `stem` places and differ in the rest. Each is as
    likely as before, and fewer tokens are encoded; the orders are less unlike each other.

    Raises ConfigError (E-CONFIG-113): `k` below 0, `count` not from 1 to 24, or `stem` not from 0
    to `k`.

    >>> permutations(2), permutations(1), len(permutations(9, 24, seed=1))
    ([(0, 1), (1, 0)], [(0,)], 24)
    """
    if k < 0 or not 1 <= count <= MOST or not 0 <= stem <= k:
        raise ConfigError(
            "E-CONFIG-113",
            f"Cannot draw {count} orders of {k} demonstrations that keep {stem} of them.",
            fix=f"ask for 1 to {MOST} orders of at least 0, keeping from none to all",
        )
    if k < 10 and factorial(k) <= count:
        return list(every_permutation(range(k)))
    rng = np.random.default_rng(seed)
    room = factorial(min(k - stem, 10))  # orders of one bunch, or more than anyone asks for
    bunch = min(room, max(1, count // isqrt(count))) if stem else 1
    found: set[Choice] = set()
    while len(found) < count:
        root = rng.permutation(k)
        fresh: set[Choice] = set()
        while len(fresh) < min(bunch, count - len(found)):
            rest = rng.permutation(root[stem:]) if stem else root
            fresh.add(tuple(int(i) for i in (*root[: stem or 0], *rest)))
        found |= fresh
    return sorted(found)


def shared_tokens(orders: Sequence[Choice], lengths: Sequence[int]) -> tuple[int, int]:
    """Return (tokens saved, tokens of all) when each order reuses what it begins with as the last.

    `lengths`: tokens of each demonstration with its separator. The instruction, which all share, is
    not counted. Sorted orders save the most: every beginning is encoded once.

    >>> shared_tokens([(0, 1, 2), (0, 2, 1), (1, 0, 2)], [10, 20, 30])
    (10, 180)
    """
    saved = 0
    for before, now in pairwise(orders):
        for one, other in zip(before, now, strict=True):
            if one != other:
                break
            saved += lengths[one]
    return saved, sum(lengths[place] for order in orders for place in order)


def spread(rule: str, orders: Sequence[Choice], values: Floats) -> Spread:
    """Return the summary of a rule's `values`, (orders,); the first of equals is the best."""
    exact = np.asarray(values, np.float64)
    best = int(np.argmax(np.round(exact, 9)))
    return Spread(
        rule=rule,
        orders=len(orders),
        low=float(exact.min()),
        mean=float(exact.mean()),
        high=float(exact.max()),
        best=orders[best],
    )


def _checked(
    scores: Floats, gold: Integers | None, *, needs_gold: bool = False
) -> tuple[Float64, NDArray[np.int64]]:
    """Return log-probabilities that sum to 1 over the labels, and the gold labels or none."""
    array = np.asarray(scores, np.float64)
    wrong: Any = array.ndim != 3 or array.size == 0 or np.isnan(array).any()
    if wrong or not np.isfinite(array.max(2)).all():
        raise DataError(
            "E-DATA-110",
            "Orders are judged on scores of shape (orders, rows, labels), each row with a finite "
            f"best score; got shape {array.shape}.",
            fix="look for a prompt that the model scored as not-a-number (an overflow, often)",
        )
    right = np.empty(0, np.int64) if gold is None else np.asarray(gold, np.int64)
    rows, labels = array.shape[1:]
    fits = right.shape == (rows,) and bool(((right >= 0) & (right < labels)).all())
    if not fits and (needs_gold or gold is not None):
        raise DataError(
            "E-DATA-110",
            f"Judging orders by their labels needs {rows} label numbers from 0 to {labels - 1}.",
            fix="use global-entropy, which needs no labels" if needs_gold else "",
        )
    shifted = array - array.max(2, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(2, keepdims=True)), right


def _entropy(shares: Float64) -> Float64:
    """Return the entropy over the last axis in nats; a share of 0 adds nothing."""
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.asarray(-(shares * logs).sum(-1), np.float64)
