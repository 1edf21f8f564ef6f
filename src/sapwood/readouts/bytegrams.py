"""The cheap floor of writing: a model of byte sequences counted on the answers of training rows.

Each order is interpolated with the one below by how many kinds of byte have followed (Witten and
Bell 1991, IEEE Trans. Information Theory 37:1085), down to one chance in 256. It reads no prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Answer, Example, Floats

ORDER = 6  # bytes: two Chinese characters, or most of an English word
MOST_BYTES = 1 << 20  # of training answers; a second of counting or two


@dataclass(frozen=True, kw_only=True, eq=False)
class Bytegrams:
    """`learnt`: the bytes of training answers one after another, each ended by a zero byte."""

    learnt: NDArray[np.uint8]

    @classmethod
    def fit(cls, examples: Sequence[Example]) -> Self:
        """Return the model of the answers of training rows."""
        joined = b"".join((example.label or "").encode() + b"\0" for example in examples)
        return cls(learnt=np.frombuffer(joined[:MOST_BYTES], np.uint8))

    @property
    def labels(self) -> tuple[str, ...]:
        """Return none: answers are free text."""
        return ()

    @property
    def reads(self) -> str:
        """Return "answers": it scores them itself."""
        return "answers"

    def scored(self, rows: Sequence[Example]) -> list[Answer]:
        """Return how probable the wanted answers are; the end of an answer counts too."""
        return [self._scored((row.label or "").encode()) for row in rows]

    def written(self, rows: Sequence[Example]) -> list[Answer]:
        """Return the most probable bytes one after another, as words: a floor, no more."""
        return [Answer(words=self._likely()) for _ in rows]

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        return {"order": ORDER}, {"learnt": self.learnt}  # type: ignore[dict-item]

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        del settings
        return cls(learnt=np.asarray(arrays["learnt"], np.uint8))

    @cached_property
    def _followers(self) -> dict[bytes, dict[int, int]]:
        """Return by the bytes before, up to ORDER - 1, how often each byte followed."""
        counts: dict[bytes, dict[int, int]] = {}
        begun = b"\0" * (ORDER - 1)
        for answer in bytes(self.learnt).split(b"\0"):
            padded = begun + answer + b"\0"
            for at in range(ORDER - 1, len(padded)):
                for size in range(ORDER):
                    own = counts.setdefault(padded[at - size : at], {})
                    own[padded[at]] = own.get(padded[at], 0) + 1
        return counts

    def _probability(self, before: bytes, byte: int) -> float:
        found = 1.0 / 256
        for size in range(len(before) + 1):
            own = self._followers.get(before[len(before) - size :])
            if own is None:
                break
            total, kinds = sum(own.values()), len(own)
            found = (own.get(byte, 0) + kinds * found) / (total + kinds)
        return found

    def _scored(self, answer: bytes) -> Answer:
        padded = b"\0" * (ORDER - 1) + answer + b"\0"
        nats = -sum(
            log(self._probability(padded[at - ORDER + 1 : at], padded[at]))
            for at in range(ORDER - 1, len(padded))
        )
        return Answer(nats=nats, bytes=len(answer))

    def _likely(self) -> str:
        made = b"\0" * (ORDER - 1)
        for _ in range(64):
            own = self._followers.get(made[1 - ORDER :], {0: 1})
            byte = max(own, key=lambda key: (own[key], -key))
            if not byte:
                break
            made += bytes([byte])
        return made.strip(b"\0").decode("utf-8", "ignore")
