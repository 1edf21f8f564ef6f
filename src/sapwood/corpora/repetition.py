"""Does a document repeat itself? Gopher's table A1 (Rae et al., 2021), and FineWeb's stricter line.

Words are given by the caller, so that Chinese is counted by its words and without spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from sapwood.corpora.draft import Drop

LINES, PARAGRAPHS = 0.30, 0.30  # of lines, of paragraphs
LINE_CHARACTERS = 0.10  # of characters: FineWeb, section 3.6; Gopher has 0.20
PARAGRAPH_CHARACTERS = 0.20
TOP = ((2, 0.20), (3, 0.18), (4, 0.16))  # the most frequent n-gram
REPEATED = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))  # all of them


def repeated(text: str, words: Sequence[str], spaced: bool) -> Drop | None:
    """Return why a text repeats itself too much, or None."""
    for name, parts, share, characters in (
        ("lines", [x for x in text.split("\n") if x.strip()], LINES, LINE_CHARACTERS),
        ("paragraphs", re.split(r"\n{2,}", text), PARAGRAPHS, PARAGRAPH_CHARACTERS),
    ):
        again, letters = _again(parts)
        if again > share * len(parts) or letters > characters * len(text):
            return Drop(reason=f"repeated {name}", detail=f"{again} of {len(parts)}")
    gap = 1 if spaced else 0
    whole = sum(map(len, words)) + gap * max(0, len(words) - 1)
    for n, share in TOP:
        if len(words) >= n and (found := _top(words, n, gap)) > share * whole:
            return Drop(reason=f"one {n}-gram repeated", detail=f"{found / whole:.2f}")
    for n, share in REPEATED:
        if len(words) >= n and (found := _covered(words, n, gap)) > share * whole:
            return Drop(reason="repeated n-grams", detail=f"{n}: {found / whole:.2f}")
    return None


def _again(parts: Sequence[str]) -> tuple[int, int]:
    """Return (parts seen before, their characters)."""
    seen: set[str] = set()
    again = letters = 0
    for part in parts:
        if part in seen:
            again += 1
            letters += len(part)
        seen.add(part)
    return again, letters


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _top(words: Sequence[str], n: int, gap: int) -> int:
    """Return the characters of the most frequent n-gram, all its places together; 0 if unique."""
    gram, count = Counter(_grams(words, n)).most_common(1)[0]
    return count * (sum(map(len, gram)) + gap * (n - 1)) if count > 1 else 0


def _covered(words: Sequence[str], n: int, gap: int) -> int:
    """Return the characters in n-grams seen before, those that overlap counted once."""
    seen: set[tuple[str, ...]] = set()
    total, free = 0, 0
    for at, gram in enumerate(_grams(words, n)):
        if gram not in seen:
            seen.add(gram)
        elif at >= free:
            total += sum(map(len, gram)) + gap * (n - 1)
            free = at + n
    return total
