"""Multinomial logistic regression with its strength chosen by cross-validation on the rows given.

What `tfidf`, `probe` and `labels` share; `fit_each` has one yes or no a label instead. The solver
is scikit-learn's; what is added here is the choice of the strength in few fits, an exact change of
basis where there are more features than rows, and classes that have few training rows or none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import DataError
from sapwood.interfaces import Floats

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]

FOLDS = 5
# What scikit-learn says where more than half of the rows have a class of their own: perhaps these
# are no classes. Here they are: labels, numbered; a label with one row is an ordinary thing.
_FEW_ROWS = "The number of unique classes is greater than 50% of the number of samples"
# Multiply-adds an iteration above which fewer of the folds are scored, at last only one: strengths
# are compared on the same rows, so the best one shows on a few hundred of them.
FOLD_WORK = 1e8
CHOICE_ROWS = 3000  # rows the strength is chosen on; the best one hardly moves beyond
# Labels that the shared strength of many yes-or-no regressions is chosen on, the most even ones.
CHOICE_LABELS = 8
SPAN_ROWS = 4000  # the change of basis holds a square of this size: 128 MB


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A fitted regression over `classes` classes, of which `seen` had training rows.

    `coefficients`: (seen, features), `intercepts`: (seen,), both float32; `seen`: (seen,), class
    numbers, ascending; `rows` it was fitted on; `strength` is scikit-learn's C.
    """

    coefficients: NDArray[np.float32]
    intercepts: NDArray[np.float32]
    seen: Index
    classes: int
    rows: int
    strength: float

    def probabilities(self, features: Any) -> Float64:
        """Return (rows, classes) for `features` (rows, features), dense or scipy sparse.

        Classes never seen share the mass of half a row each, as in the majority readout.
        """
        logits = np.asarray(features @ self.coefficients.T, np.float64) + self.intercepts
        exped = np.exp(logits - logits.max(1, keepdims=True))
        unseen = self.classes - len(self.seen)
        each = 0.5 / (self.rows + 0.5 * self.classes)
        out = np.full((len(exped), self.classes), each)
        out[:, self.seen] = exped * ((1 - unseen * each) / exped.sum(1, keepdims=True))
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        settings = {
            "classes": self.classes,
            "rows": self.rows,
            "strength": self.strength,
            "seen": self.seen.tolist(),
        }
        return settings, {"coefficients": self.coefficients, "intercepts": self.intercepts}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        return cls(
            coefficients=np.asarray(arrays["coefficients"], np.float32),
            intercepts=np.asarray(arrays["intercepts"], np.float32),
            seen=np.asarray(settings["seen"], np.int64),
            classes=int(settings["classes"]),
            rows=int(settings["rows"]),
            strength=float(settings["strength"]),
        )


def fit_logistic(
    features: Any, gold: Index, classes: int, *, strengths: Sequence[float], seed: int = 0
) -> Logistic:
    """Fit on all rows with the strength of `strengths` (ascending) that cross-validates best.

    `features`: (rows, features), dense or scipy sparse, best scaled alike; `gold`: (rows,), class
    numbers. Every other strength is tried first, then the neighbours of the best one. With one
    class, or with no class of two rows, there is nothing to compare and the middle one is taken.

    Raises DataError: no rows (E-DATA-064), or a feature that is not a finite number (E-DATA-065).
    """
    from threadpoolctl import threadpool_limits

    _check(features, gold)
    seen, place = np.unique(gold, return_inverse=True)
    # Thousands of small products: more threads than one wait for each other (50 times slower beside
    # a busy core, never faster at these sizes).
    with threadpool_limits(1):
        weights, intercepts, strength = _solved(features, place, len(seen), list(strengths), seed)
    return Logistic(
        coefficients=np.ascontiguousarray(weights, np.float32),
        intercepts=intercepts.astype(np.float32),
        seen=seen.astype(np.int64),
        classes=classes,
        rows=len(gold),
        strength=strength,
    )


@dataclass(frozen=True, kw_only=True)
class Each:
    """Fitted yes-or-no regressions, one a label, of one strength (scikit-learn's C).

    `coefficients`: (labels, features), `intercepts`: (labels,), both float32.
    """

    coefficients: NDArray[np.float32]
    intercepts: NDArray[np.float32]
    strength: float

    def logits(self, features: Any) -> Float64:
        """Return (rows, labels) for `features` (rows, features), dense or scipy sparse."""
        return np.asarray(features @ self.coefficients.T, np.float64) + self.intercepts


def fit_each(
    features: Any, wanted: NDArray[np.bool_], *, strengths: Sequence[float], seed: int = 0
) -> Each:
    """Fit a regression for each label by itself, all with the strength that cross-validates best.

    `features`: (rows, features) as in `fit_logistic`; `wanted`: (rows, labels), whether a row has
    the label. A label that no row has, or every row, gets the share of half a row of the other
    kind. Raises DataError as `fit_logistic` does.
    """
    from threadpoolctl import threadpool_limits

    _check(features, wanted)
    rows, labels = wanted.shape
    shares = wanted.mean(0)
    weights, intercepts = np.zeros((labels, features.shape[1])), np.zeros(labels)
    able = np.flatnonzero((shares > 0) & (shares < 1))
    with threadpool_limits(1):
        basis = _span(features) if len(able) else None
        inner = features if basis is None else basis
        few = able[np.argsort(np.abs(shares[able] - 0.5), kind="stable")[:CHOICE_LABELS]]
        strength = _shared_strength(inner.astype(np.float32), wanted[:, few], strengths, seed)
        found = np.zeros((labels, inner.shape[1]))
        for label in able:
            both, ends = _weights(_fitted(strength, inner, wanted[:, label].astype(np.int64)))
            found[label], intercepts[label] = both[1] - both[0], ends[1] - ends[0]
        weights = found if basis is None else (features.T @ np.linalg.solve(basis.T, found.T)).T
    for label in np.setdiff1d(np.arange(labels), able):
        intercepts[label] = (1 if shares[label] else -1) * np.log(2 * rows + 1)
    return Each(
        coefficients=np.ascontiguousarray(weights, np.float32),
        intercepts=intercepts.astype(np.float32),
        strength=strength,
    )


def _shared_strength(
    features: Any, wanted: NDArray[np.bool_], strengths: Sequence[float], seed: int
) -> float:
    """Return the strength of the lowest held-out log loss summed over labels."""
    rng = np.random.default_rng(seed)
    if len(wanted) > CHOICE_ROWS:
        some = np.sort(rng.permutation(len(wanted))[:CHOICE_ROWS])
        features, wanted = features[some], wanted[some]
    parts = [part for gold in wanted.T.astype(np.int64) for part in _held_out(features, gold, rng)]
    return _lowest(strengths, lambda strength: sum(_loss(strength, *p) for p in parts), bool(parts))


def _solved(
    features: Any, place: Index, seen: int, strengths: list[float], seed: int
) -> tuple[Float64, Float64, float]:
    """Return (weights, intercepts, the strength chosen)."""
    if seen == 1:
        return np.zeros((1, features.shape[1])), np.zeros(1), 1.0
    basis = _span(features)
    inner = features if basis is None else basis
    # Which strength is best shows in float32 too, in half the time.
    strength = _best_strength(inner.astype(np.float32), place, strengths, seed)
    weights, intercepts = _weights(_fitted(strength, inner, place))
    if basis is not None:
        weights = (features.T @ np.linalg.solve(basis.T, weights.T)).T
    return weights, intercepts, strength


def _check(features: Any, gold: NDArray[Any]) -> None:
    rows = int(features.shape[0])
    if rows == 0 or rows != len(gold):
        raise DataError(
            "E-DATA-064",
            f"A readout needs at least 1 row and a label a row; got {rows} rows and "
            f"{len(gold)} labels.",
        )
    values = features if isinstance(features, np.ndarray) else features.data
    if not np.isfinite(values).all():
        raise DataError(
            "E-DATA-065",
            "A feature of a training row is not a finite number.",
            fix="compute the features in float32; float16 overflows in some models",
        )


def _stored(features: Any) -> int:
    """Return how many numbers are stored: all, or the non-zero ones of a sparse matrix."""
    return int(features.size if isinstance(features, np.ndarray) else features.nnz)


def _span(features: Any) -> Float64 | None:
    """Return (rows, rows) features with the same inner products, or None where that saves nothing.

    The best weights lie in the span of the rows (the representer theorem), so with fewer rows than
    features the problem is solved there: the same answer 4 to 10 times sooner.
    """
    rows, width = features.shape
    if width <= rows or rows > SPAN_ROWS:
        return None
    gram = features @ features.T
    gram = np.asarray(gram if isinstance(gram, np.ndarray) else gram.toarray(), np.float64)
    # Repeated rows make it singular; a millionth of the scale is far below any strength.
    gram[np.diag_indices(rows)] += 1e-6 * max(float(np.trace(gram)) / rows, 1e-12)
    return np.linalg.cholesky(gram)


def _fitted(strength: float, features: Any, gold: Index) -> Any:
    """Return scikit-learn's model, fitted; neither stopping at the limit of iterations nor many
    classes in few rows is news.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message=_FEW_ROWS, category=UserWarning)
        return LogisticRegression(C=strength, max_iter=300, tol=1e-4).fit(features, gold)


def _weights(model: Any) -> tuple[Float64, Float64]:
    """Return (weights (classes, features), intercepts (classes,)) of a fitted scikit-learn model.

    Two classes have one row of weights there; half of it each way is the same softmax.
    """
    weights, intercepts = model.coef_, model.intercept_
    if len(weights) == 1:
        weights = np.concatenate([-weights, weights]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    return weights, intercepts


def stratified_folds(gold: Index, folds: int, rng: np.random.Generator) -> Index:
    """Return a fold number a row, each class spread evenly over the folds, shape (rows,).

    The classes are taken as they first appear among the shuffled rows, so that the folds do not
    depend on how the classes are numbered.
    """
    shuffled = rng.permutation(len(gold))
    _, first, place = np.unique(gold[shuffled], return_index=True, return_inverse=True)
    order = shuffled[np.argsort(first[place], kind="stable")]
    fold = np.empty(len(gold), np.int64)
    fold[order] = np.arange(len(gold)) % folds
    return fold


def _best_strength(features: Any, gold: Index, strengths: list[float], seed: int) -> float:
    """Return the strength of the lowest held-out log loss."""
    rng = np.random.default_rng(seed)
    if len(gold) > CHOICE_ROWS:
        some = np.sort(rng.permutation(len(gold))[:CHOICE_ROWS])
        features, gold = features[some], gold[some]
        basis = _span(features)
        features = features if basis is None else basis.astype(np.float32)
    held_out = list(_held_out(features, gold, rng))
    return _lowest(strengths, lambda s: sum(_loss(s, *p) for p in held_out), bool(held_out))


def _lowest(strengths: Sequence[float], loss: Callable[[float], float], judged: bool) -> float:
    """Return the strength of the lowest loss: every other is tried, then those beside the best."""
    if not judged or len(strengths) == 1:
        return strengths[len(strengths) // 2]
    losses: dict[int, float] = {}

    def try_each(places: Sequence[int]) -> int:
        for place in places:
            if 0 <= place < len(strengths) and place not in losses:
                losses[place] = loss(strengths[place])
        return min(losses, key=lambda place: losses[place])

    best = try_each(range(0, len(strengths), 2))
    return strengths[try_each([best - 1, best + 1])]


Part = tuple[Any, Index, Any, Index]


def _held_out(features: Any, gold: Index, rng: np.random.Generator) -> Iterator[Part]:
    """Yield (features, gold) to fit and (features, gold) to score, for up to FOLDS folds."""
    classes = int(gold.max()) + 1
    work = 2 * classes * (_stored(features) + 5 * features.shape[1])
    scored = int(np.clip(FOLD_WORK / work, 1, FOLDS))
    fold = stratified_folds(gold, FOLDS, rng)
    for number in range(scored):
        fit = fold != number
        # A class with no row left to learn from says nothing about the strength.
        known = ~fit & np.isin(gold, gold[fit])
        if known.any() and len(np.unique(gold[fit])) > 1:
            yield features[fit], gold[fit], features[known], gold[known]


def _loss(strength: float, features: Any, gold: Index, held: Any, held_gold: Index) -> float:
    """Return the summed log loss on held-out rows of a fit with this strength."""
    model = _fitted(strength, features, gold)
    chosen = model.predict_proba(held)[
        np.arange(len(held_gold)), np.searchsorted(model.classes_, held_gold)
    ]
    return float(-np.log(np.maximum(chosen, 1e-12)).sum())
