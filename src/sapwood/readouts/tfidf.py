"""TF-IDF of word and character n-grams under logistic regression: the baseline worth beating.

Weights: sublinear term frequency times inverse document frequency, unit length (Salton & Buckley
1988), for words and characters apart, side by side. Which n-grams was measured on the first 1,000
training rows of SST-2, AG News and ChnSentiCorp and chosen on their development rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Floats
from sapwood.metrics import label_indices
from sapwood.readouts.logistic import Logistic, fit_logistic

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
WORD = r"(?u)\b\w+\b|[!?]"  # one-letter words and the marks that carry feeling count
# Weights (classes x n-grams) kept at most: 80 MB in float32. The rarest n-grams go first.
MOST_WEIGHTS = 20_000_000
# Characters of training text above which character n-grams cost minutes; words alone then do.
MOST_CHARACTERS = 20_000_000
MANY_ROWS = 5_000  # from here on an n-gram of one row is noise more than help


@dataclass(frozen=True, kw_only=True)
class Grams:
    """One block of n-grams: what is cut (`analyzer`: word, char, char_wb) and how long (`low` to
    `high`), which ones (`terms`), and their inverse document frequencies (`idf`: (terms,)).
    """

    analyzer: str
    low: int
    high: int
    terms: tuple[str, ...]
    idf: NDArray[np.float64]

    @cached_property
    def vectorizer(self) -> Any:
        """scikit-learn's vectorizer with these terms and frequencies, built on first use."""
        made = _vectorizer(self.analyzer, self.low, self.high, vocabulary=list(self.terms))
        made.idf_ = self.idf
        return made

    def state(self) -> tuple[dict[str, Any], NDArray[np.float64]]:
        """Return (settings, idf): all there is to save."""
        span = {"analyzer": self.analyzer, "low": self.low, "high": self.high}
        return {**span, "terms": list(self.terms)}, self.idf

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], idf: Floats) -> Self:
        """Rebuild exactly what `state` gave."""
        terms = tuple(settings["terms"])
        return cls(**{**settings, "terms": terms}, idf=np.asarray(idf, np.float64))


@dataclass(frozen=True, kw_only=True)
class TfIdf:
    """A fitted baseline: blocks of n-grams and the regression over them, side by side."""

    labels: tuple[str, ...]
    blocks: tuple[Grams, ...]
    logistic: Logistic

    @classmethod
    def fit(
        cls,
        inputs: Sequence[str],
        gold: Sequence[str | None],
        *,
        labels: Sequence[str],
        seed: int = 0,
    ) -> Self:
        """Learn from texts and their labels; the regression's strength is cross-validated on them.

        About 2 s for 1,000 short texts on one core. Text without spaces between words (Chinese,
        Japanese, Thai) is cut into 1 to 3 characters; other text into 1 to 2 words and 3 to 5
        characters within words. `seed` draws the folds.

        Raises DataError: an unknown label (E-DATA-060), no rows or unequal lengths (E-DATA-064).
        """
        index = label_indices(gold, labels)
        blocks = tuple(learn_grams(inputs, len(set(gold))))
        logistic = fit_logistic(
            grams_of(blocks, inputs), index, len(labels), strengths=STRENGTHS, seed=seed
        )
        return cls(labels=tuple(labels), blocks=blocks, logistic=logistic)

    @property
    def reads(self) -> str:
        """Return "texts": no base is needed."""
        return "texts"

    def probabilities(self, inputs: Sequence[str]) -> NDArray[np.float64]:
        """Return class probabilities of texts, shape (rows, classes)."""
        if not len(inputs):
            return np.empty((0, len(self.labels)))
        return self.logistic.probabilities(grams_of(self.blocks, inputs))

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save; the n-grams are in the settings."""
        logistic, arrays = self.logistic.state()
        blocks = []
        for number, block in enumerate(self.blocks):
            content, arrays[f"idf.{number}"] = block.state()
            blocks.append(content)
        return {"labels": list(self.labels), "blocks": blocks, "logistic": logistic}, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        blocks = tuple(
            Grams.from_state(block, arrays[f"idf.{number}"])
            for number, block in enumerate(settings["blocks"])
        )
        logistic = Logistic.from_state(settings["logistic"], arrays)
        return cls(labels=tuple(settings["labels"]), blocks=blocks, logistic=logistic)


def unspaced(texts: Iterable[str]) -> bool:
    """Return whether most letters belong to scripts written without spaces between words.

    >>> unspaced(["味道不错, OK"]), unspaced(["not bad"])
    (True, False)
    """
    counts: Counter[bool] = Counter()
    for text in texts:
        counts.update(_is_unspaced(letter) for letter in text if letter.isalpha())
    return counts[True] > counts[False]


def _is_unspaced(letter: str) -> bool:
    """Thai to Myanmar, Khmer, kana, Han with its extensions."""
    return (
        "\u0e00" <= letter <= "\u109f"
        or "\u1780" <= letter <= "\u17ff"
        or "\u3040" <= letter <= "\u30ff"
        or "\u3400" <= letter <= "\u9fff"
        or "\uf900" <= letter <= "\ufaff"
        or "\U00020000" <= letter <= "\U0003ffff"
    )


def _vectorizer(analyzer: str, low: int, high: int, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer=analyzer,
        ngram_range=(low, high),
        sublinear_tf=True,
        token_pattern=WORD if analyzer == "word" else None,
        **options,
    )


def _plan(texts: Sequence[str]) -> list[tuple[str, int, int, int]]:
    """Return (analyzer, low, high, least rows an n-gram is in) for each block."""
    large = sum(map(len, texts)) > MOST_CHARACTERS
    common = 2 if len(texts) >= MANY_ROWS else 1
    if unspaced(texts[:2000]):
        return [("char", 1, 2 if large else 3, 2 if len(texts) > 100 else 1)]
    words = ("word", 1, 2, common)
    return [words] if large else [words, ("char_wb", 3, 5, common)]


def learn_grams(texts: Sequence[str], classes: int) -> Iterable[Grams]:
    """Yield the blocks with the terms and frequencies found in `texts`, those that have any."""
    plan = _plan(texts)
    most = max(1000, MOST_WEIGHTS // max(classes, 1) // len(plan))
    for analyzer, low, high, least in plan:
        found = _vectorizer(analyzer, low, high, min_df=least, max_features=most)
        try:
            found.fit(texts)
        except ValueError:  # not one word, or none frequent enough: the block has nothing to say
            continue
        terms = tuple(str(term) for term in found.get_feature_names_out())
        yield Grams(
            analyzer=analyzer, low=low, high=high, terms=terms, idf=np.array(found.idf_, np.float64)
        )


def grams_of(blocks: Sequence[Grams], texts: Sequence[str]) -> Any:
    """Return the sparse features (rows, terms of all blocks); one empty column if no block."""
    from scipy import sparse

    if not blocks:
        return sparse.csr_matrix((len(texts), 1))
    return sparse.hstack([block.vectorizer.transform(texts) for block in blocks], format="csr")
