"""Verbalizer: label words scored by the model, corrected by a frozen bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sapwood.interfaces import Floats
from sapwood.readouts.bias import Bias


@dataclass(frozen=True, kw_only=True)
class Verbalizer:
    """Read probabilities from label scores, log p(words of the label | prompt).

    `normalise`: how the scores are made, "vocabulary" or "trie" (see `Decoder.label_scores`);
    `bias` was fitted before and never looks at the rows it corrects.
    """

    labels: tuple[str, ...]
    bias: Bias
    normalise: str = "vocabulary"

    def probabilities(self, inputs: Floats) -> Floats:
        """Return (rows, labels) from label scores (rows, labels)."""
        result: Floats = np.exp(self.bias.apply(inputs))
        return result

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays)."""
        settings = {
            "labels": list(self.labels),
            "normalise": self.normalise,
            "bias": self.bias.source,
            "slope": float(self.bias.slope),
        }
        return settings, {"shift": np.asarray(self.bias.shift)}

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, Floats]) -> Verbalizer:
        """Rebuild from what `state` returned."""
        shift = np.asarray(arrays["shift"], dtype=np.float64)
        bias = Bias(source=settings["bias"], shift=shift, slope=float(settings["slope"]))
        return cls(
            labels=tuple(settings["labels"]), bias=bias, normalise=str(settings["normalise"])
        )
