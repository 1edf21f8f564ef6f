"""Reading the candidates of a report: who is recommended, which is the baseline, what differs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sapwood.pages.words import is_number

Report = Mapping[str, Any]
Row = Mapping[str, Any]

# What learns from the training answers alone, by the letters of its name, the best first: TF-IDF of
# labels, a dictionary of spans, character n-grams of written answers, the most frequent label.
BASELINES = ("tfidf", "dictionary", "ngram", "majority")

# The letters of the methods' own papers; a candidate's name is shown with them.
_LETTERS = {
    "tf-idf": "TF-IDF",
    "lora": "LoRA",
    "dora": "DoRA",
    "ia3": "IA3",
    "bitfit": "BitFit",
    "knn": "kNN",
    "svm": "SVM",
}


def shown(name: object) -> str:
    """Return a candidate's name as a reader knows it; only the case of letters changes.

    >>> shown("lora-r8"), shown("tf-idf"), shown("few-shot-16")
    ('LoRA-r8', 'TF-IDF', 'few-shot-16')
    """
    words = "|".join(_LETTERS)
    return re.sub(
        rf"(?<![A-Za-z0-9])({words})(?![A-Za-z])", lambda m: _LETTERS[m.group(1)], str(name)
    )


def find(report: Report, name: object) -> Row | None:
    """Return the candidate called `name`, or None."""
    return next((c for c in report.get("candidates") or [] if c.get("name") == name), None)


def score(candidate: Row | None, split: str) -> Row | None:
    """Return a candidate's score on `split` if it has a value."""
    found = (candidate or {}).get(split)
    return found if isinstance(found, Mapping) and is_number(found.get("value")) else None


def best_split(report: Report) -> str:
    """Return ``test`` if any candidate has a test score, else ``dev``."""
    tested = any(score(c, "test") for c in report.get("candidates") or [])
    return "test" if tested else "dev"


def ranked(report: Report) -> list[Row]:
    """Return the candidates best first: by test score, else dev score; without any score last."""

    def rank(candidate: Row) -> tuple[int, float]:
        for place, split in enumerate(("test", "dev")):
            found = score(candidate, split)
            if found:
                return place, -float(found["value"])
        return 2, 0.0

    return sorted(report.get("candidates") or [], key=rank)


def baseline(report: Report) -> Row | None:
    """Return the best cheap baseline with a score, the first of BASELINES there is, else None."""
    for stem in BASELINES:
        for candidate in report.get("candidates") or []:
            scored = score(candidate, "test") or score(candidate, "dev")
            if scored and _plain(candidate).startswith(stem):
                return candidate  # type: ignore[no-any-return]
    return None


def is_baseline(candidate: Row) -> bool:
    """Tell whether a candidate is a cheap baseline (see BASELINES)."""
    return _plain(candidate).startswith(BASELINES)


def _plain(candidate: Row) -> str:
    return re.sub(r"[^a-z]", "", str(candidate.get("name")).lower())


def kind(candidate: Row) -> str:
    """Return ``baseline``, ``prompt``, ``tune``, ``both`` or ``readout``, from the parts.

    A base that is asked without demonstrations is prompted, too.
    """
    if is_baseline(candidate):
        return "baseline"
    parts = candidate.get("parts") or {}
    trained = bool(parts.get("method") or parts.get("prefix"))
    if parts.get("context"):
        return "both" if trained else "prompt"
    asked = "prompt" if str(candidate.get("name", "")).startswith("zero-shot") else "readout"
    return "tune" if trained else asked


def comparison(report: Report, name: object, against: object, split: str) -> Row | None:
    """Return the paired comparison of `name` against `against` on `split`, turned if need be."""
    for row in comparisons(report):
        if row.get("split", "test") != split:
            continue
        pair = (row.get("candidate"), row.get("against"))
        if pair == (name, against):
            return row
        if pair == (against, name):
            return turned(row)
    return None


def comparisons(report: Report) -> Iterable[Row]:
    """Yield the comparisons that hold three finite numbers."""
    for row in report.get("comparisons") or []:
        if all(is_number(row.get(key)) for key in ("difference", "low", "high")):
            yield row


def turned(row: Row) -> Row:
    """Return a comparison seen from the other side."""
    return {
        **row,
        "candidate": row["against"],
        "against": row["candidate"],
        "difference": -row["difference"],
        "low": -row["high"],
        "high": -row["low"],
    }


def unfinished(report: Report, status: str) -> list[str]:
    """Return the shown names of the candidates with `status`, in the order tried."""
    found = [c for c in report.get("candidates") or [] if c.get("status") == status]
    return [shown(c.get("name")) for c in found]
