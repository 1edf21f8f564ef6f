"""Perplexity of wanted texts: a token of the base, and a word or, in Chinese, a character.

A token is the base's own, so that figures of two bases differ by their vocabularies too; words and
characters are the data's, and bits a byte is the measure that compares anything with anything.
What ends an answer is part of its likelihood and counts as a token, not as a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from sapwood.interfaces import Answer, Example
from sapwood.tally import perplexity

_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_MANY = 0.2  # of a text's characters: words between spaces say little about it
_SAMPLE = 50  # texts that tell the language


def perplexities(gold: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the perplexity a token where tokens were counted, and a word or character, by name.

    With 95 % intervals over rows. Empty where no answer was scored.
    """
    rows = [(one.label or "", answer) for one, answer in zip(gold, answers, strict=True)]
    rows = [(text, answer) for text, answer in rows if answer.bytes]
    if not rows:
        return {}
    unit, counts = units([text for text, _ in rows])
    nats = np.array([answer.nats for _, answer in rows])
    found: dict[str, Any] = {}
    for name, sizes in (
        ("token", [answer.tokens for _, answer in rows]),
        (unit, counts),
    ):
        if all(sizes):
            score = perplexity(f"perplexity_a_{name}", nats, np.array(sizes, float)).interval()
            found[score.metric] = {"value": score.value, "low": score.low, "high": score.high}
    return found


def units(texts: Sequence[str]) -> tuple[str, list[int]]:
    """Return what texts are counted by, "word" or "character", and how many each has.

    >>> units(["a cat sat", "so"]), units(["床前明月光"])
    (('word', [3, 1]), ('character', [5]))
    """
    sample = "".join(texts[:_SAMPLE])
    if len(_CJK.findall(sample)) > _MANY * len(sample):
        return "character", [len("".join(text.split())) for text in texts]
    return "word", [len(text.split()) for text in texts]
