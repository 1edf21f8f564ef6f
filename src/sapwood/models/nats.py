"""What nats a token say of texts, the same for every family: sums, and bits a byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sapwood.interfaces import Answer, Floats


def answers_of(nats: Sequence[Floats], texts: Sequence[str]) -> list[Answer]:
    """Return nats, bytes of UTF-8 and tokens of each text, for the scores of tally.py."""
    return [
        Answer(nats=float(own.sum()), bytes=len(text.encode()), tokens=len(own))
        for text, own in zip(texts, nats, strict=True)
    ]


def bits_a_byte(nats: Sequence[Floats], texts: Sequence[str]) -> float:
    """Return the nats of all texts, ends included, over ln 2 and their bytes of UTF-8.

    >>> round(bits_a_byte([np.array([1.0, 0.5])], ["ab"]), 4)
    1.082
    """
    found = answers_of(nats, texts)
    return sum(one.nats for one in found) / sum(one.bytes for one in found) / float(np.log(2))
