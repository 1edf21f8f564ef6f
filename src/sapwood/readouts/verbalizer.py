"""Verbalizer: label words scored by the model, corrected by a frozen bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Floats
from sapwood.readouts.bias import Bias
from sapwood.registry import did_you_mean

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """What a label's score is, before the bias.

    `channel`: log p(text | context, label words) (Min et al. 2022, arXiv 2108.04106) instead of
    log p(label words | context, text). `length`: what the latter is divided by, see
    `label_lengths`; a channel score is of the same text for every label and is divided by nothing.
    """

    name: str
    channel: bool = False
    length: str = "none"


SCORERS = {
    "direct": Scorer(name="direct"),
    "direct-tokens": Scorer(name="direct-tokens", length="tokens"),
    "direct-bytes": Scorer(name="direct-bytes", length="bytes"),
    "channel": Scorer(name="channel", channel=True),
}


def find_scorer(name: str) -> Scorer:
    """Return the scorer `name`; raises ConfigError (E-CONFIG-001) when there is none."""
    if name not in SCORERS:
        raise ConfigError(
            "E-CONFIG-001",
            f"Unknown scorer '{name}'.{did_you_mean(name, SCORERS)}",
            fix=f"use one of: {', '.join(SCORERS)}",
        )
    return SCORERS[name]


def label_lengths(words: Sequence[str], token_ids: Sequence[Sequence[int]], kind: str) -> Float64:
    """Return what each label's score is divided by, (labels,), at least 1.

    `words`: of each label; `token_ids`: of `Prompter.labels`. `kind`: "none" divides by 1;
    "tokens" gives the mean log-probability of a token; "bytes" counts the UTF-8 bytes of the words
    without the space before them, so that the result does not depend on the tokenizer (the
    `acc_norm` of the evaluation harness counts characters: the same for English).

    Dividing keeps long label words from losing for their length; it also rewards those whose later
    tokens are easy to guess, so it is no default.

    Raises ConfigError (E-CONFIG-066) on another kind.

    >>> label_lengths([" good", " very bad"], [[7], [8, 9]], "bytes")
    array([4., 8.])
    """
    if kind == "none":
        return np.ones(len(words))
    if kind == "tokens":
        return np.array([float(max(1, len(ids))) for ids in token_ids])
    if kind == "bytes":
        return np.array([float(max(1, len(word.strip().encode()))) for word in words])
    raise ConfigError(
        "E-CONFIG-066",
        f"Unknown length '{kind}'.{did_you_mean(kind, ('none', 'tokens', 'bytes'))}",
        fix="use one of: none, tokens, bytes",
    )


@dataclass(frozen=True, kw_only=True)
class Verbalizer:
    """Read probabilities from label scores (texts, labels).

    `scorer` (a key of SCORERS) and `normalise` say how the scores are made, the latter "vocabulary"
    or "trie" (see `Decoder.label_scores`); `length` what they are divided by, the numbers in
    `divisor`: (labels,), empty for ones. `bias` was fitted before, on scores divided in the same
    way (`divided`), and never looks at the rows it corrects.
    """

    labels: tuple[str, ...]
    bias: Bias
    normalise: str = "vocabulary"
    scorer: str = "direct"
    length: str = "none"
    divisor: Floats = field(default_factory=lambda: np.ones(0))

    @property
    def reads(self) -> str:
        """Return "scores": of the kind that `scorer` names."""
        return "scores"

    def divided(self, inputs: Floats) -> Float64:
        """Return label scores (rows, labels) over the divisor: what the bias is fitted on."""
        return divided(inputs, self.divisor)

    def probabilities(self, inputs: Floats) -> Float64:
        """Return (rows, labels) from label scores (rows, labels)."""
        return np.asarray(np.exp(self.bias.apply(self.divided(inputs))), np.float64)

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        settings = {
            "labels": list(self.labels),
            "normalise": self.normalise,
            "scorer": self.scorer,
            "length": self.length,
            "bias": self.bias.source,
            "slope": float(self.bias.slope),
        }
        arrays: dict[str, Floats] = {"shift": np.asarray(self.bias.shift)}
        if len(self.divisor):
            arrays["divisor"] = self.divisor
        return settings, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave; what older versions did not save has its default."""
        shift = np.asarray(arrays["shift"], dtype=np.float64)
        return cls(
            labels=tuple(settings["labels"]),
            bias=Bias(source=settings["bias"], shift=shift, slope=float(settings["slope"])),
            normalise=str(settings["normalise"]),
            scorer=find_scorer(settings.get("scorer", "direct")).name,
            length=str(settings.get("length", "none")),
            divisor=np.asarray(arrays.get("divisor", np.ones(0)), np.float64),
        )


def divided(scores: Floats, divisor: Floats) -> Float64:
    """Return label scores (rows, labels) over `divisor` (labels,); an empty one changes nothing.

    Raises DataError (E-DATA-063) when there is not one divisor a label.
    """
    found = np.asarray(scores, np.float64)
    if not len(divisor):
        return found
    if found.ndim != 2 or found.shape[1] != len(divisor):
        raise DataError(
            "E-DATA-063",
            f"Scores of {len(divisor)} labels have shape (rows, {len(divisor)}), "
            f"got {found.shape}.",
        )
    return np.asarray(found / divisor, np.float64)
