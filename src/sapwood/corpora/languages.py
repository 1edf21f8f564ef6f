"""Which language a document is in: by script, then by a small model that travels along.

`py3langid` (Lui and Baldwin, 2012, "langid.py: An Off-the-shelf Language Identification Tool")
looks at three places of the text. Chinese, Japanese and Korean are told by their characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sapwood.corpora.draft import Draft, Drop, Step

# Characters of each place looked at. 300 letters decide as well as a page does.
PLACE, PLACES = 400, 3
SURE = 0.65  # as FineWeb (Penedo et al., 2024, section 3.3); below, pages are mixed or no prose
FEWEST = 10  # letters; a poem of two lines in Chinese has as many
HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
KANA = re.compile(r"[\u3040-\u30ff]")
HANGUL = re.compile(r"[\uac00-\ud7af]")
SAME = {"pcm": "en", "wuu": "zh", "yue": "zh", "lzh": "zh"}


def language_step(wanted: Sequence[str]) -> Step:
    """Return the step that names a draft's language and drops all but those `wanted` (if any)."""

    def step(draft: Draft) -> Draft | Drop:
        code, probability = language_of(draft.text)
        if wanted and code not in wanted:
            return Drop(reason="another language", detail=code)
        if wanted and probability < SURE:
            return Drop(reason="language not clear", detail=f"{code} {probability:.2f}")
        return replace(draft, language=code)

    return step


def language_of(text: str) -> tuple[str, float]:
    """Return (code, probability); ("und", 0) where there are too few letters to tell."""
    sample = _sample(text)
    letters = sum(map(str.isalpha, sample))
    if letters < FEWEST:
        return "und", 0.0
    han, kana, hangul = (len(p.findall(sample)) for p in (HAN, KANA, HANGUL))
    if hangul * 3 > letters:
        return "ko", 1.0
    if kana * 8 > han + kana and (han + kana) * 2 > letters:
        return "ja", 1.0
    if han * 4 > letters:  # a Chinese character says as much as several Latin letters
        return "zh", 1.0
    code, probability = _identifier().classify(sample)
    return SAME.get(str(code), str(code)), float(probability)


def _sample(text: str) -> str:
    """Return the text, or its beginning, middle and end where it is long."""
    if len(text) <= PLACE * PLACES:
        return text
    step = (len(text) - PLACE) // (PLACES - 1)
    return " ".join(text[at : at + PLACE] for at in range(0, len(text) - PLACE + 1, step))


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import (  # type: ignore[import-untyped,unused-ignore]
        MODEL_FILE,
        LanguageIdentifier,
    )

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
