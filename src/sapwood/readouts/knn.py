"""The nearest training rows vote: in feature space, or among next-token distributions.

kNN prompting (Xu et al. 2023, ICLR, arXiv 2303.13824): every training row ("anchor") is shown to
the model under the same context and its next-token distribution kept; a query is answered by the
anchors i with the smallest KL(p_i || p_query). It needs no gradient and uses all rows, not only
those that fit into the context. With cosine distance the same vote works on any features.

Measured on SST-2 (SmolLM2-135M, 256 anchors, 200 queries, 0 and 8 demonstrations, 2 seeds), mean
accuracy: kl over the label words 68.0 %, over the whole vocabulary 75.9 % (85 times the storage of
hidden states), cosine of hidden states 75.0 %, a probe on the same states 80.3 %. So `kl` is for
bases that give scores and no states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats
from sapwood.metrics import label_indices
from sapwood.readouts.bias import log_softmax

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Index = NDArray[np.int64]

DISTANCES = ("cosine", "kl")
NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64)
# Temperatures are in units of the median distance to the nearest other row.
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PSEUDO_VOTES = (0.03, 0.1, 0.3, 1.0)  # of the class shares, against 1 for the nearest row
CELLS = 4_000_000  # distances held at once: 16 MB, whatever the number of rows


@dataclass(frozen=True, kw_only=True)
class NearestNeighbours:
    """Fitted votes.

    A neighbour at distance d has exp(-(d - nearest) / temperature) votes; `smoothing` votes are
    shared out as the classes are in training. `anchors`: (rows, width), float32: unit vectors for
    cosine, log-probabilities for kl; `gold`: (rows,), class numbers; `centre`: (width,), what is
    taken off a feature before its direction is measured (0 for kl).
    """

    labels: tuple[str, ...]
    distance: str
    k: int
    temperature: float
    smoothing: float
    anchors: Float32
    gold: Index
    centre: Float32

    @classmethod
    def fit(
        cls,
        inputs: Floats,
        gold: Sequence[str | None],
        *,
        labels: Sequence[str],
        seed: int = 0,
        distance: str = "cosine",
    ) -> Self:
        """Keep the rows; choose k, temperature and smoothing by leave-one-out log loss on them.

        `inputs`: (rows, width): features for "cosine", logits or log-probabilities of the next
        token for "kl" (all of the vocabulary or the label words only; 4 bytes x rows x width are
        kept). `seed` is not used: nothing is drawn.

        Raises ConfigError (E-CONFIG-063) on another distance; DataError: an unknown label
        (E-DATA-060), no rows or unequal lengths (E-DATA-064), not a finite number (E-DATA-065).
        """
        if distance not in DISTANCES:
            raise ConfigError(
                "E-CONFIG-063",
                f"Unknown distance '{distance}'.",
                fix=f"use one of: {', '.join(DISTANCES)}",
            )
        index = label_indices(gold, labels)
        features = np.asarray(inputs)
        _check(features, index)
        centre = np.zeros(features.shape[1], np.float32)
        if distance == "cosine":
            centre = features.mean(0, dtype=np.float64).astype(np.float32)
        anchors = _prepared(features, distance, centre)
        k, temperature, smoothing = _choose(anchors, index, distance, len(labels))
        return cls(
            labels=tuple(labels),
            distance=distance,
            k=k,
            temperature=temperature,
            smoothing=smoothing,
            anchors=anchors,
            gold=index,
            centre=centre,
        )

    @property
    def reads(self) -> str:
        """Return "features" for cosine, "scores" (those of the label words) for kl."""
        return "scores" if self.distance == "kl" else "features"

    def probabilities(self, inputs: Floats) -> Float64:
        """Return class probabilities of rows like those it was fitted on, shape (rows, classes).

        Raises DataError (E-DATA-066) when the width differs.
        """
        features = np.asarray(inputs)
        if features.ndim != 2 or features.shape[1] != self.anchors.shape[1]:
            raise DataError(
                "E-DATA-066",
                f"These neighbours have width {self.anchors.shape[1]}, got shape {features.shape}.",
                fix="compute the features with the model and context it was fitted with",
            )
        queries = _prepared(features, self.distance, self.centre)
        shares = _shares(self.gold, len(self.labels))
        out = np.empty((len(queries), len(self.labels)))
        for rows, near, far in _nearest(queries, self.anchors, self.distance, self.k):
            votes = _votes(far, self.temperature)  # (block, k)
            tally = np.tile(self.smoothing * shares, (len(votes), 1))
            np.add.at(tally, (np.arange(len(votes))[:, None], self.gold[near]), votes)
            out[rows] = tally / tally.sum(1, keepdims=True)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        settings = {
            "labels": list(self.labels),
            "distance": self.distance,
            "k": self.k,
            "temperature": self.temperature,
            "smoothing": self.smoothing,
            "gold": self.gold.tolist(),
        }
        return settings, {"anchors": self.anchors, "centre": self.centre}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        return cls(
            labels=tuple(settings["labels"]),
            distance=str(settings["distance"]),
            k=int(settings["k"]),
            temperature=float(settings["temperature"]),
            smoothing=float(settings["smoothing"]),
            anchors=np.asarray(arrays["anchors"], np.float32),
            gold=np.asarray(settings["gold"], np.int64),
            centre=np.asarray(arrays["centre"], np.float32),
        )


def _check(features: Floats, gold: Index) -> None:
    if features.ndim != 2 or len(features) == 0 or len(features) != len(gold):
        raise DataError(
            "E-DATA-064",
            "A readout needs at least 1 row and a label a row; got features of shape "
            f"{features.shape} and {len(gold)} labels.",
        )
    if not np.isfinite(features).all():
        raise DataError(
            "E-DATA-065",
            "A feature of a training row is not a finite number.",
            fix="compute the features in float32; float16 overflows in some models",
        )


def _prepared(features: Floats, distance: str, centre: Float32) -> Float32:
    """Return unit vectors around `centre` (a zero vector stays zero), or log-probabilities."""
    if distance == "kl":
        return log_softmax(features).astype(np.float32)
    moved = features.astype(np.float64) - centre
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    unit = np.divide(moved, length, out=np.zeros_like(moved), where=length > 0)
    return np.asarray(unit, np.float32)


def _shares(gold: Index, classes: int) -> Float64:
    """Return the class shares with half a row added to each, shape (classes,)."""
    counts = np.bincount(gold, minlength=classes) + 0.5
    return np.asarray(counts / counts.sum(), np.float64)


Found = tuple[slice, Index, Float32]


def _nearest(
    queries: Float32, anchors: Float32, distance: str, k: int, *, leave_self_out: bool = False
) -> Iterator[Found]:
    """Yield (slice of the queries, anchor numbers (block, k), distances (block, k)), nearest first.

    With `leave_self_out` query i is anchor i and does not find itself. Anchors at the same distance
    come in the order of their rows.
    """
    block = max(1, CELLS // max(len(anchors), queries.shape[1]))
    shown, offset = anchors, np.zeros(len(anchors), np.float32)
    if distance == "kl":
        shown = np.exp(anchors)  # KL(p_i || q) = sum p_i log p_i - sum p_i log q
        offset = (shown * anchors).sum(1)
    for start in range(0, len(queries), block):
        some = queries[start : start + block]
        away = -(some @ shown.T) + (offset if distance == "kl" else np.float32(1))
        own = np.arange(len(some))
        if leave_self_out:
            away[own, start + own] = np.inf
        part = np.sort(np.argpartition(away, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(np.take_along_axis(away, part, 1), axis=1, kind="stable")
        near = np.take_along_axis(part, order, 1)
        yield slice(start, start + len(some)), near, np.take_along_axis(away, near, 1)


def _votes(distances: Floats, temperature: float) -> Float64:
    """Return votes (rows, k) from distances (rows, k), nearest first: 1 for the nearest."""
    beyond = distances.astype(np.float64) - distances[:, :1]
    return np.asarray(np.exp(-beyond / temperature), np.float64)


def _choose(anchors: Float32, gold: Index, distance: str, classes: int) -> tuple[int, float, float]:
    """Return (k, temperature, smoothing) of the lowest leave-one-out log loss."""
    rows = len(anchors)
    if rows == 1:
        return 1, 1.0, 1.0
    most = min(NEIGHBOURS[-1], rows - 1)
    found = list(_nearest(anchors, anchors, distance, most, leave_self_out=True))
    near = np.concatenate([numbers for _, numbers, _ in found])
    far = np.concatenate([away for _, _, away in found])
    unit = max(float(np.median(far[:, 0])), 1e-6)
    agrees = gold[near] == gold[:, None]  # (rows, most)
    share = _shares(gold, classes)[gold]
    best, choice = np.inf, (1, unit, 1.0)
    for temperature in TEMPERATURES:
        votes = _votes(far, temperature * unit)
        cast, won = np.cumsum(votes, 1), np.cumsum(votes * agrees, 1)
        for k, smoothing in product((k for k in NEIGHBOURS if k <= most), PSEUDO_VOTES):
            p = (won[:, k - 1] + smoothing * share) / (cast[:, k - 1] + smoothing)
            loss = float(-np.log(p).mean())
            if loss < best:
                best, choice = loss, (k, temperature * unit, smoothing)
    return choice
