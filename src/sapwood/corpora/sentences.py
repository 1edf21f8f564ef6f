"""Where sentences begin: by rules, in languages with Latin signs and in Chinese and Japanese.

A line end is an end too, so that verse, headings and list items stay apart.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Abbreviations that stand before a name: a capital letter after them begins no sentence.
BEFORE_NAMES = _listed(
    "mr mrs ms mx dr prof rev hon st mme mlle messrs gen col capt lt sgt maj cmdr adm gov sen rep"
    " pres fr pvt supt insp vs cf ca viz al e.g i.e dept univ bros approx"
)
# Those that stand before a number, and are words or ends of sentences elsewhere.
BEFORE_NUMBERS = _listed(
    "no nos vol vols p pp fig figs sec secs ch chap art eq eqs jan feb mar apr jun jul aug sep sept"
    " oct nov dec"
)
# Those that end a sentence as often as not: what follows decides.
OPEN = _listed("etc a.m p.m u.s u.k u.n ph.d b.a m.a b.c a.d inc ltd co corp jr sr")
CLOSERS = "\"'”’»)\\]}」』）】》"
STOP = re.compile(
    rf"[。！？｡!?]+[{CLOSERS}]*|…+[{CLOSERS}]*|\.+[{CLOSERS}]*(?=\s|$)|；(?=\s*\n)|\n+"
)
WIDE = "。！？｡"
QUOTING = re.compile(r"\s*(?:[a-zà-ÿ]|,|;|:|—|–|-)")  # "Stop!" she said: the sentence goes on
LAST_WORD = re.compile(r"((?:[^\W\d_]\.)+[^\W\d_]|[^\W_]+)$")
ROMAN = re.compile(r"[IVXLC]+\b(?!')")
OPENERS = " \t\u3000"


def sentence_starts(text: str) -> NDArray[np.int64]:
    """Return the offsets at which sentences begin, (sentences,), the first 0; none for no text.

    >>> sentence_starts("Mr. Darcy came. He left! 春眠不觉晓。处处闻啼鸟。").tolist()
    [0, 16, 25, 31]
    """
    starts = [0] if text.strip() else []
    for stop in STOP.finditer(text):
        end = stop.end()
        if not _ends(text, stop.start(), end):
            continue
        while end < len(text) and (text[end] in OPENERS or text[end] == "\n"):
            end += 1
        if end < len(text) and end > starts[-1]:
            starts.append(end)
    return np.asarray(starts, dtype=np.int64)


def _ends(text: str, start: int, end: int) -> bool:
    """Tell whether the sign at `start` ends a sentence; `end` is after it and its quotes."""
    sign = text[start]
    if sign in WIDE:
        return not QUOTING.match(text, end) or text[end - 1] in WIDE
    if sign in "\n；":
        return True
    after = text[end : end + 40]
    if not after.strip():
        return True
    if sign == "…" and text[start - 1 : start] >= "\u3000":  # …… inside Chinese mostly goes on
        return text[end - 1] != "…"
    if not after[0].isspace():
        return False
    after = after.lstrip(" \t")
    if QUOTING.match(after):
        return False
    if sign != ".":
        return True
    return _full_stop(text, start, end, after)


def _full_stop(text: str, start: int, end: int, after: str) -> bool:
    """Tell whether a full stop ends a sentence, by the word before it and what follows."""
    found = LAST_WORD.search(text, max(0, start - 20), start)
    word = found[1].lower() if found else ""
    if text[start : start + 2] == "..":  # an ellipsis ends one where a capital follows
        return not after[:1].islower()
    if word in OPEN:
        return end - start > 1 or (after[0].isupper() and word not in ("u.s", "u.k", "inc", "co"))
    if word in BEFORE_NAMES:
        return False
    if word in BEFORE_NUMBERS:
        return not (after[0].isdigit() or ROMAN.match(after))
    if len(word) == 1 and word.isalpha() and word != "i":
        return False  # an initial: J. Smith
    return not (word.isdigit() and len(word) <= 2 and _numbers_a_list(text, found))


def _numbers_a_list(text: str, found: re.Match[str] | None) -> bool:
    """Tell whether a number stands at the beginning of its line, as "1." of a list does."""
    return found is not None and (found.start() == 0 or text[found.start() - 1] == "\n")
