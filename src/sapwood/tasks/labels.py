"""Labels that were probably meant to be another one."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from difflib import SequenceMatcher

RARE = 20  # a label this many times rarer than its neighbour may be a slip of the pen
CLOSE = 0.85  # difflib ratio; "postive" to "positive" scores 0.93, "happy" to "unhappy" 0.83
SHORTEST = 4  # characters; below this, one letter makes another word ("cat", "car")


def near_misses(counts: Mapping[str, int]) -> dict[str, str]:
    """Return wrong label -> probable label: variants of case and space, and rare misspellings.

    A variant ("Positive", "very-good") always gives way to the more frequent form; a misspelling
    only where it is 20 times rarer than the label it resembles. Labels that differ in a digit or
    by a prefix ("irrelevant") are never taken for each other.

    >>> near_misses({"positive": 40, "Positive": 3, "postive": 2, "negative": 41})
    {'Positive': 'positive', 'postive': 'positive'}
    """
    ranked = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    forms: dict[str, str] = {}
    misses: dict[str, str] = {}
    for label in ranked:
        settled = forms.setdefault(_form(label), label)
        if settled != label:
            misses[label] = settled
    kept = [label for label in ranked if label not in misses]
    for position, label in enumerate(kept):
        for other in kept[:position]:
            rare = other not in misses and counts[label] * RARE <= counts[other]
            if rare and _resembles(_form(label), _form(other)):
                misses[label] = other
                break
    return misses


def nearest_label(label: str, known: Counter[str]) -> str | None:
    """Return the known label that `label` misspells or varies, or None."""
    for other, _ in known.most_common():
        if _form(label) == _form(other) or _resembles(_form(label), _form(other)):
            return other
    return None


def _form(label: str) -> str:
    """Return a label without case and with one space for joints; "A-", "-1" and "C#" stay."""
    plain = unicodedata.normalize("NFKC", label).casefold().strip()
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", plain)


def _resembles(one: str, other: str) -> bool:
    """Tell whether two forms differ by a slip: word for word equal or nearly so."""
    if re.findall(r"\d+", one) != re.findall(r"\d+", other):
        return False
    left, right = re.split(r"[\s_./#:|-]+", one), re.split(r"[\s_./#:|-]+", other)
    if len(left) != len(right):  # "flight" and "flight no" are two things
        return False
    return all(a == b or _slip(a, b) for a, b in zip(left, right, strict=True))


def _slip(one: str, other: str) -> bool:
    if min(len(one), len(other)) < SHORTEST or one.endswith(other) or other.endswith(one):
        return False
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= CLOSE
