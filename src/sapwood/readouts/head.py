"""A linear head over an encoder's states: one answer a text (`Head`) or a token (`TokenHead`).

What BERT is tuned with (Devlin et al. 2019, arXiv 1810.04805), pooled by the mean over tokens where
nothing else is said. A head that starts as the linear probe of the untouched base and only then
trains together with a method does not bend good features towards a random head (LP-FT, Kumar et
al. 2022, arXiv 2202.10054); `Head.fit` is that start. Training is in `training.heads`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats
from sapwood.readouts.probe import Probe, standardisation

Float64 = NDArray[np.float64]
# As BERT starts its own; at zero a method below would get no gradient in the first step.
DEVIATION = 0.02
# A column that varies so much less than the middle one gets no weight from the probe: it would be
# as many times larger than the others, and what trains below would be swamped by its gradient
# (MiniLM has a column of 1e-31, which the probe gives weights of 1e30).
NEGLIGIBLE = 1e-3


@dataclass(frozen=True, kw_only=True)
class TokenHead:
    """A linear map from states to labels, for each token by itself.

    `weight`: (labels, width), `bias`: (labels,), both float32; `dropout` in [0, 1) on the states,
    in training only.
    """

    labels: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                "E-CONFIG-032", f"The head's dropout must be in [0, 1), got {self.dropout}."
            )

    @classmethod
    def random(cls, labels: Sequence[str], width: int, *, seed: int = 0, **settings: Any) -> Self:
        """Return an untrained head: small random weights of `seed`, no bias."""
        drawn = np.random.default_rng(seed).normal(0.0, DEVIATION, (len(labels), width))
        return cls(
            labels=tuple(labels),
            weight=drawn.astype(np.float32),
            bias=np.zeros(len(labels), np.float32),
            **settings,
        )

    def logits(self, states: Floats) -> Float64:
        """Return (rows, labels) of states (rows, width).

        Raises DataError (E-DATA-066) when the width is not the one it was made for.
        """
        given = np.asarray(states)
        if given.ndim != 2 or given.shape[1] != self.weight.shape[1]:
            raise DataError(
                "E-DATA-066",
                f"This head reads states of width {self.weight.shape[1]}, got shape {given.shape}.",
                fix="compute them with the base and pooling that the head was trained with",
            )
        return given.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias

    def probabilities(self, inputs: Floats) -> Float64:
        """Return the distribution over labels of each row of states, (rows, labels)."""
        logits = self.logits(inputs)
        exped: Float64 = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
        exped /= exped.sum(1, keepdims=True)
        return exped

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        settings = {"labels": list(self.labels), "dropout": self.dropout}
        return settings, {"weight": self.weight, "bias": self.bias}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        return cls(
            **{**settings, "labels": tuple(settings["labels"])},
            weight=np.asarray(arrays["weight"], np.float32),
            bias=np.asarray(arrays["bias"], np.float32),
        )


@dataclass(frozen=True, kw_only=True)
class Head(TokenHead):
    """A linear map from one vector a text to labels; `pooling`: how the vector is made of states.

    See `models.encoder.pooled`.
    """

    pooling: str = "mean"

    @classmethod
    def fit(
        cls,
        inputs: Floats,
        gold: Sequence[str | None],
        *,
        labels: Sequence[str],
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """Return the linear probe of `inputs` (rows, width) as a head; see `Probe.fit`.

        A label without rows starts at the logit that gives it, on these rows, about the mass the
        probe gives it. Raises what `Probe.fit` raises.
        """
        inputs = telling(np.asarray(inputs, np.float64))
        probe = Probe.fit(inputs, gold, labels=labels, seed=seed)
        scale, logistic = probe.scale.astype(np.float64), probe.logistic
        weight = np.zeros((len(labels), len(scale)))
        weight[logistic.seen] = logistic.coefficients * scale
        bias = np.zeros(len(labels))
        bias[logistic.seen] = logistic.intercepts - weight[logistic.seen] @ probe.mean
        unseen = np.setdiff1d(np.arange(len(labels)), logistic.seen)
        if len(unseen):
            known = inputs @ weight[logistic.seen].T + bias[logistic.seen]
            each = float(probe.probabilities(inputs)[0, unseen[0]])
            rest = np.log(each / (1 - len(unseen) * each))
            bias[unseen] = np.logaddexp.reduce(known, axis=1).mean() + rest
        return cls(
            labels=tuple(labels),
            weight=weight.astype(np.float32),
            bias=bias.astype(np.float32),
            **settings,
        )

    @property
    def reads(self) -> str:
        """Return "features": of an encoder."""
        return "features"

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        settings, arrays = super().state()
        return {**settings, "pooling": self.pooling}, arrays


def telling(features: Float64) -> Float64:
    """Return features with columns that hardly vary, next to the others, set to zero."""
    scale = standardisation(features)[1]
    if not scale.any():
        return features
    kept: Float64 = np.where(scale * NEGLIGIBLE > np.median(scale[scale > 0]), 0.0, features)
    return kept
