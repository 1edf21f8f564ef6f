"""The least a candidate must beat: answer with how common each label is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Floats
from sapwood.metrics import label_indices


@dataclass(frozen=True, kw_only=True)
class Majority:
    """Class shares of the training rows, whatever the input. `shares`: (classes,), sum 1."""

    labels: tuple[str, ...]
    shares: NDArray[np.float64]

    @classmethod
    def fit(
        cls, inputs: Sized, gold: Sequence[str | None], *, labels: Sequence[str], seed: int = 0
    ) -> Self:
        """Count the labels; half a row is added to each, so that no label is impossible.

        `inputs` and `seed` are there because every readout is fitted the same way. Raises
        DataError (E-DATA-060) on a label outside `labels`.

        >>> Majority.fit(["x", "y", "z"], ["a", "a", "b"], labels=["a", "b"]).shares
        array([0.625, 0.375])
        """
        counts = np.bincount(label_indices(gold, labels), minlength=len(labels)) + 0.5
        return cls(labels=tuple(labels), shares=counts / counts.sum())

    @property
    def reads(self) -> str:
        """Return "texts": how many there are is all that counts."""
        return "texts"

    def probabilities(self, inputs: Sized) -> NDArray[np.float64]:
        """Return the same shares for every input, shape (rows, classes)."""
        return np.tile(self.shares, (len(inputs), 1))

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        return {"labels": list(self.labels)}, {"shares": self.shares}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        shares = np.asarray(arrays["shares"], np.float64)
        return cls(labels=tuple(settings["labels"]), shares=shares)
