"""From texts to any number of labels each, through an encoder and a readout of its features."""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.evaluation.bases import Bases
from sapwood.interfaces import Answer
from sapwood.readouts.labels import Sigmoid


class Labeller:
    """Answers with the labels of each text; `limit`: the most tokens of one, None for all."""

    def __init__(
        self, bases: Bases, name: str, readout: Sigmoid, *, limit: int | None = None
    ) -> None:
        self.bases, self.name, self.readout, self.limit = bases, name, readout, limit
        self.tokens = 0

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """Return the labels of each text."""
        rows = self.bases.tokens(self.name, texts, limit=self.limit)
        self.tokens += sum(map(len, rows))
        features = self.bases.encoder(self.name).features(rows, self.readout.head.pooling)
        return self.readout.answers(features)
