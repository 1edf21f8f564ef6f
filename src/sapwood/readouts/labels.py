"""Any number of labels a text: one yes or no for each, above a threshold chosen on other rows.

`Sigmoid` reads one vector a text from an encoder (binary cross-entropy over a linear head, with or
without a method below it); `LabelGrams` reads the text itself: TF-IDF of n-grams under one logistic
regression a label (one-vs-rest), the cheap baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Answer, Floats
from sapwood.readouts.head import Head, telling
from sapwood.readouts.logistic import Each, fit_each
from sapwood.readouts.probe import STRENGTHS, standardisation
from sapwood.readouts.tfidf import STRENGTHS as GRAM_STRENGTHS
from sapwood.readouts.tfidf import Grams, grams_of, learn_grams
from sapwood.readouts.thresholds import MIDDLE, labelled

Float64 = NDArray[np.float64]
Wanted = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """A linear `head` over features and a threshold a label, `thresholds`: (labels,)."""

    head: Head
    thresholds: Floats

    @classmethod
    def fit(
        cls,
        inputs: Floats,
        wanted: Wanted,
        *,
        labels: Sequence[str],
        seed: int = 0,
        pooling: str = "mean",
    ) -> Self:
        """Return the linear probe of features (rows, width) for labels wanted (rows, labels).

        Its thresholds are 0.5. Raises what `logistic.fit_each` raises.
        """  # fmt: skip
        features = telling(np.asarray(inputs, np.float64))
        mean, scale = (part.astype(np.float64) for part in standardisation(features))
        each = fit_each((features - mean) * scale, wanted, strengths=STRENGTHS, seed=seed)
        weight = each.coefficients * scale
        head = Head(
            labels=tuple(labels),
            weight=weight.astype(np.float32),
            bias=(each.intercepts - weight @ mean).astype(np.float32),
            pooling=pooling,
        )
        return cls(head=head, thresholds=np.full(len(labels), MIDDLE))

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels, in the order of the columns."""
        return self.head.labels

    @property
    def reads(self) -> str:
        """Return "features": of an encoder."""
        return "features"

    def describe(self) -> str:
        """Return its thresholds in words for the report."""
        return spelt(self.thresholds)

    def each(self, inputs: Floats) -> Float64:
        """Return the probability of every label by itself, (rows, labels)."""
        return sigmoid(self.head.logits(inputs))

    def answers(self, inputs: Floats) -> list[Answer]:
        """Return the labels of each row of features whose probability reaches the threshold."""
        return labelled(self.labels, self.each(inputs) >= self.thresholds)

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        settings, arrays = self.head.state()
        return settings, {**arrays, "thresholds": np.asarray(self.thresholds, np.float64)}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        head = Head.from_state(settings, arrays)
        return cls(head=head, thresholds=np.asarray(arrays["thresholds"], np.float64))


@dataclass(frozen=True, kw_only=True)
class LabelGrams:
    """TF-IDF of n-grams (see `tfidf`), one regression a label, `thresholds`: (labels,)."""

    names: tuple[str, ...]
    blocks: tuple[Grams, ...]
    regressions: Each
    thresholds: Floats

    @classmethod
    def fit(
        cls, inputs: Sequence[str], wanted: Wanted, *, labels: Sequence[str], seed: int = 0
    ) -> Self:
        """Learn from texts and the labels wanted, (rows, labels). Its thresholds are 0.5."""
        blocks = tuple(learn_grams(inputs, len(labels)))
        features = grams_of(blocks, inputs)
        each = fit_each(features, wanted, strengths=GRAM_STRENGTHS, seed=seed)
        return cls(
            names=tuple(labels), blocks=blocks, regressions=each,
            thresholds=np.full(len(labels), MIDDLE),
        )  # fmt: skip

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels, in the order of the columns."""
        return self.names

    @property
    def reads(self) -> str:
        """Return "answers": it gives them itself, no base is needed."""
        return "answers"

    def describe(self) -> str:
        """Return its thresholds in words for the report."""
        return spelt(self.thresholds)

    def each(self, texts: Sequence[str]) -> Float64:
        """Return the probability of every label by itself, (texts, labels)."""
        if not len(texts):
            return np.empty((0, len(self.names)))
        return sigmoid(self.regressions.logits(grams_of(self.blocks, texts)))

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """Return the labels of each text whose probability reaches the threshold."""
        return labelled(self.names, self.each(texts) >= self.thresholds)

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save; the n-grams are in the settings."""
        arrays: dict[str, Floats] = {
            "coefficients": self.regressions.coefficients,
            "intercepts": self.regressions.intercepts,
            "thresholds": np.asarray(self.thresholds, np.float64),
        }
        blocks = []
        for number, block in enumerate(self.blocks):
            settings, idf = block.state()
            blocks.append(settings)
            arrays[f"idf.{number}"] = idf
        strength = self.regressions.strength
        return {"labels": list(self.names), "blocks": blocks, "strength": strength}, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        each = Each(
            coefficients=np.asarray(arrays["coefficients"], np.float32),
            intercepts=np.asarray(arrays["intercepts"], np.float32),
            strength=float(settings["strength"]),
        )
        blocks = tuple(
            Grams.from_state(block, arrays[f"idf.{number}"])
            for number, block in enumerate(settings["blocks"])
        )
        return cls(
            names=tuple(settings["labels"]), blocks=blocks, regressions=each,
            thresholds=np.asarray(arrays["thresholds"], np.float64),
        )  # fmt: skip


def with_thresholds(readout: Sigmoid | LabelGrams, thresholds: Floats) -> Sigmoid | LabelGrams:
    """Return the readout with other thresholds, (labels,)."""
    return replace(readout, thresholds=np.asarray(thresholds, np.float64))


def sigmoid(logits: Floats) -> Float64:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64))))


def spelt(thresholds: Floats) -> str:
    """Return thresholds in words.

    >>> spelt(np.array([0.4, 0.4])), spelt(np.array([0.31, 0.6]))
    ('threshold 0.40', 'thresholds 0.31 to 0.60')
    """
    low, high = float(np.min(thresholds)), float(np.max(thresholds))
    return f"threshold {low:.2f}" if low == high else f"thresholds {low:.2f} to {high:.2f}"
