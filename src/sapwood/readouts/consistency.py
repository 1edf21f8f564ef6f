"""Self-consistency: sample answers, keep what most of them end in (Wang et al. 2023, 2203.11171).

Several completions are sampled for each prompt, an answer is extracted from each, and the most
frequent wins; its share of the votes is the confidence. Ties go to the answer whose completions
are more probable together. Completions without an answer vote for nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sapwood.errors import ConfigError
from sapwood.interfaces import Floats

Extract = Callable[[str], str | None]

_NUMBER = re.compile(r"[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One completion: its text and its log-probability under the model, in nats."""

    text: str
    log_probability: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Vote:
    """The winning answer (None: no completion had one), its share of all completions in [0, 1],
    and how many voted for each answer, most votes first.
    """

    answer: str | None
    share: float
    counts: Mapping[str, int] = field(default_factory=dict)


def vote(completions: Sequence[Sampled], extract: Extract) -> Vote:
    """Return the majority's answer among `completions` (at least one).

    >>> three = [Sampled(text="so 4"), Sampled(text="it is 5"), Sampled(text="4.")]
    >>> vote(three, last_number).answer
    '4'
    """
    counts: dict[str, int] = {}
    weights: dict[str, float] = {}
    for one in completions:
        answer = extract(one.text)
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
            weights[answer] = np.logaddexp(weights.get(answer, -math.inf), one.log_probability)
    if not counts:
        return Vote(answer=None, share=0.0)
    ranked = sorted(counts, key=lambda answer: (counts[answer], weights[answer]), reverse=True)
    return Vote(
        answer=ranked[0],
        share=counts[ranked[0]] / len(completions),
        counts={answer: counts[answer] for answer in ranked},
    )


def last_number(text: str) -> str | None:
    """Return the last number of `text` in plain writing, or None.

    >>> last_number("That is $1,250.00 in all.")
    '1250'
    """
    found = _NUMBER.findall(text)
    if not found:
        return None
    plain = found[-1].replace(",", "").replace("−", "-").lstrip("+")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    digits = digits.lstrip("0") or "0"
    digits = "0" + digits if digits.startswith(".") else digits
    return digits if digits == "0" else sign + digits


def by_pattern(pattern: str) -> Extract:
    """Return an extractor of the last match of `pattern`: its first group, or all of it.

    Raises ConfigError (E-CONFIG-071) for a pattern that is no regular expression.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            "E-CONFIG-071", f"The answer's pattern {pattern!r} is wrong: {error}."
        ) from None

    def extract(text: str) -> str | None:
        every = list(wanted.finditer(text))
        if not every:
            return None
        return every[-1].group(1 if wanted.groups else 0) or None

    return extract


def by_words(words: Mapping[str, str]) -> Extract:
    """Return an extractor of the label whose words come first in a text, whatever their case.

    `words`: label -> its words. Where two begin at the same place the longer one counts; letters
    of an alphabet must not run on ("bad" is not in "badly"), which Chinese words may.
    """
    plain = {words[label].strip().lower(): label for label in words}
    parts = [
        (r"(?<!\w)" if w[:1].isascii() else "") + re.escape(w) + (r"(?!\w)" if w.isascii() else "")
        for w in sorted(plain, key=len, reverse=True)
    ]
    wanted = re.compile("|".join(parts))

    def extract(text: str) -> str | None:
        found = wanted.search(text.lower())
        return plain[found.group(0)] if found else None

    return extract


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Self-consistency over labels, as class probabilities.

    `words`: label -> the words that stand for it in a completion.
    """

    labels: tuple[str, ...]
    words: Mapping[str, str]

    def probabilities(self, inputs: Sequence[Sequence[Sampled]]) -> Floats:
        """Return shares of the votes, (rows, labels); rows without a vote are uniform.

        The winner of a tie leads by a hair, so that the largest share is the vote's answer.
        """
        extract, place = by_words(self.words), {label: n for n, label in enumerate(self.labels)}
        shares = np.zeros((len(inputs), len(self.labels)))
        for row, completions in enumerate(inputs):
            found = vote(completions, extract)
            for answer, count in found.counts.items():
                shares[row, place[answer]] = count
            if found.answer is None:
                shares[row] = 1.0
            else:
                shares[row, place[found.answer]] += 1e-6
        return np.asarray(shares / shares.sum(1, keepdims=True))
