"""Span corruption: write the spans that sentinels stand for (Raffel et al. 2020, T5).

Paper: arXiv 1910.10683, section 3.1.4 and figure 2. The arithmetic is that of T5's own code:
rounding half to even, text that begins uncorrupted, no sentinel after the last span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Integers
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import (
    NO_TARGET,
    Arrays,
    Measure,
    Objective,
    Window,
)

FORMS = ("pair", "joined")


@dataclass(frozen=True, kw_only=True)
class Span(Objective):
    """A sentinel takes the place of each hidden span; the target names sentinels and their spans.

    `density`: share of tokens hidden; `mean`: tokens of a span; `closing`: one more sentinel after
    the last span, as in the paper's figure. `form`: "pair", input and target of an encoder-decoder,
    each ending in eos; "joined", one row of a decoder that sees the input both ways.
    """

    name: ClassVar[str] = "span"
    net: ClassVar[str] = "encoder-decoder"
    layout: ClassVar[str] = "single"
    needs: ClassVar[tuple[str, ...]] = ("eos", "sentinels")
    density: float = 0.15
    mean: float = 3.0
    closing: bool = False
    form: str = "pair"

    def __post_init__(self) -> None:
        problems = [] if 0 < self.density < 1 else ["density must be between 0 and 1"]
        if self.mean < 1:
            problems.append(f"mean must be 1 token or more, not {self.mean}")
        self.refuse(problems + wrong_form(self.form))

    @property
    def trains(self) -> str:
        """Return "prefix" for the joined form."""
        return "prefix" if self.form == "joined" else self.net

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: as many tokens as leave an input (joined: a row) of `length`.

        Fewer where the vocabulary has not enough sentinels for so many.
        """
        available = len(vocabulary.sentinels) - self.closing

        def fits(tokens: int) -> bool:
            inputs, targets = lengths(tokens, self.density, self.mean)
            spans = span_counts(tokens, self.density, self.mean)[1]
            whole = inputs - 1 + targets + self.closing if self.form == "joined" else inputs
            return whole <= length and spans <= available

        tokens = longest(fits)
        # T5 asks that a target be no longer than its input where half of the text is hidden.
        if self.density == 0.5 and self.form == "pair":
            inputs, targets = lengths(tokens, self.density, self.mean)
            tokens -= targets > inputs
        return Measure(capacity=tokens, overhead=0)

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return input_ids and documents, (n,), and the decoder's labels (m,).

        Joined: input_ids, labels (in place) and documents, (n,), and prefix ().
        """
        ids = np.asarray(window.pieces[0].ids, dtype=np.int64)
        noise = noise_mask(len(ids), self.density, self.mean, rng)
        shown, hidden = corrupted(ids, noise, vocabulary, closing=self.closing)
        return formed(shown, hidden, vocabulary, self.form)

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`: spans back in the place of their sentinels."""
        shown, hidden = parted(example)
        sentinels = set(vocabulary.sentinels)
        spans: dict[int, list[int]] = {}
        for token in hidden.tolist():
            if token in sentinels:
                spans[token] = []
            elif spans and token != vocabulary.eos:
                spans[next(reversed(spans))].append(token)
        text: list[int] = []
        for token in shown.tolist():
            text += spans.get(token, [token])
        return np.array(text, dtype=np.int64)


def wrong_form(form: str) -> list[str]:
    """Return what is wrong with a setting `form`, in words."""
    return [] if form in FORMS else [f"form must be one of {', '.join(FORMS)}, not '{form}'"]


def span_counts(tokens: int, density: float, mean: float) -> tuple[int, int]:
    """Return (hidden tokens, spans) of a text of `tokens`, at least 2."""
    hidden = min(max(round(tokens * density), 1), tokens - 1)
    return hidden, min(max(round(hidden / mean), 1), hidden, tokens - hidden)


def lengths(tokens: int, density: float, mean: float) -> tuple[int, int]:
    """Return the lengths of input and target of a text of `tokens`, both with eos.

    >>> lengths(568, 0.15, 3.0)
    (512, 114)
    """
    hidden, spans = span_counts(tokens, density, mean)
    return tokens - hidden + spans + 1, hidden + spans + 1


def longest(fits: Callable[[int], bool]) -> int:
    """Return the largest number of tokens, from 2, up to which everything fits; 0 for none."""
    tokens = 1
    while fits(tokens + 1):
        tokens += 1
    return tokens if tokens > 1 else 0


def _parts(total: int, count: int, rng: np.random.Generator) -> Integers:
    """Return `count` lengths of 1 or more that add up to `total`, each way equally likely."""
    cuts = np.empty(count + 1, dtype=np.int64)
    cuts[0], cuts[-1] = 0, total
    cuts[1:-1] = rng.choice(total - 1, size=count - 1, replace=False) + 1
    cuts.sort()
    lengths: Integers = cuts[1:] - cuts[:-1]
    return lengths


def noise_mask(
    tokens: int, density: float, mean: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return (tokens,) bool, True where hidden: runs that alternate, the first one shown.

    A text of one token is hidden whole.
    """
    if tokens < 2:
        return np.ones(tokens, dtype=np.bool_)
    hidden, spans = span_counts(tokens, density, mean)
    runs = np.empty(2 * spans, dtype=np.int64)
    runs[0::2] = _parts(tokens - hidden, spans, rng)
    runs[1::2] = _parts(hidden, spans, rng)
    return np.repeat(np.arange(2 * spans) % 2 == 1, runs)


def corrupted(
    ids: Integers, noise: NDArray[np.bool_], vocabulary: Vocabulary, *, closing: bool = False
) -> tuple[Integers, Integers]:
    """Return (input, target) of a text, without eos; each run of `noise` is one sentinel.

    `closing`: the target ends with one more sentinel.
    """
    begins = noise & ~np.concatenate([[False], noise[:-1]])
    number = np.cumsum(begins) - 1
    sentinels = np.array(vocabulary.sentinels, dtype=np.int64)
    marked = np.where(begins, sentinels[np.maximum(number, 0)], ids)
    shown = marked[~noise | begins]
    spans = int(begins.sum())
    at = np.flatnonzero(noise)
    hidden = np.insert(ids[at], np.flatnonzero(begins[at]), sentinels[:spans])
    return shown, np.append(hidden, sentinels[spans]) if closing else hidden


def formed(shown: Integers, hidden: Integers, vocabulary: Vocabulary, form: str) -> Arrays:
    """Return an input and a target as an example of one of the FORMS."""
    assert vocabulary.eos is not None
    target = np.append(hidden, vocabulary.eos)
    if form == "pair":
        given = np.append(shown, vocabulary.eos)
        return {"input_ids": given, "labels": target, "documents": np.zeros_like(given)}
    ids = np.concatenate([shown, target])
    labels = ids.copy()
    labels[: len(shown)] = NO_TARGET
    return {
        "input_ids": ids,
        "labels": labels,
        "documents": np.zeros_like(ids),
        "prefix": np.array(len(shown)),
    }


def parted(example: Arrays) -> tuple[Integers, Integers]:
    """Return the input and the target that `formed` put into an example."""
    if "prefix" not in example:
        return example["input_ids"], example["labels"]
    prefix = int(example["prefix"])
    return example["input_ids"][:prefix], example["input_ids"][prefix:]
