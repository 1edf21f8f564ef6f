"""Inputs that show what a model says whatever it reads: a bias is fitted on its answers to them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from sapwood.errors import DataError
from sapwood.readouts.tfidf import unspaced

DOMAIN_INPUTS = 20  # as many as Fei et al. average over
# In writing without spaces a pair of characters is about a word; what else there is stays whole.
_UNSPACED = r"\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_PAIRS = re.compile(rf"[{_UNSPACED}]{{1,2}}|[^\s{_UNSPACED}]+")


def content_free_inputs() -> tuple[str, ...]:
    """Return the three inputs without content of Zhao et al. 2021 (arXiv 2102.09690).

    The channel scores the empty one alike for every label, which draws its mean answer to even:
    leave it out there.
    """
    return ("N/A", "", "[MASK]")


def domain_inputs(
    texts: Sequence[str], count: int = DOMAIN_INPUTS, words: int | None = None, seed: int = 0
) -> tuple[str, ...]:
    """Return `count` inputs of random words of `texts` (Fei et al. 2023, arXiv 2305.19148).

    A word is drawn as often as it occurs; each input has `words` of them, or as many as the texts
    have on average. Spaces stand between words, except in writing that has none, where pairs of
    characters are drawn. The same `seed` gives the same inputs.

    Raises DataError (E-DATA-068) when the texts hold no word.

    >>> domain_inputs(["a fine film", "dull"], count=2, words=3, seed=1)
    ('fine film dull', 'dull a a')
    """
    together = unspaced(texts[:2000])
    cut = [_PAIRS.findall(text) if together else text.split() for text in texts]
    pool = [word for text in cut for word in text]
    if not pool:
        raise DataError(
            "E-DATA-068",
            f"The {len(texts)} text(s) given hold no word to draw for calibration.",
            fix="use another bias, such as content-free",
        )
    length = words or max(1, round(len(pool) / len(texts)))
    drawn = np.random.default_rng(seed).integers(0, len(pool), (count, length))
    return tuple(("" if together else " ").join(pool[n] for n in row) for row in drawn)
