"""Words: of prose with spaces, and of Chinese, which has none.

Chinese is cut by `rjieba` (the jieba dictionary and its hidden Markov model in Rust), chosen
because it is kept, has wheels for every platform without dependencies, and cuts 8 million
characters a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sapwood.corpora.draft import missing_package
from sapwood.corpora.languages import HAN, KANA

# A word with the spaces before it (what byte-level tokenizers join to it), a sign, a line end.
# Chinese runs are cut further, below. An apostrophe inside a word belongs to it.
_HAN = r"\u3400-\u9fff\uf900-\ufaff"
_LETTERS = rf"(?:(?![{_HAN}])\w)+"
UNIT = re.compile(
    rf"[^\S\n]*[{_HAN}]+|[^\S\n]*{_LETTERS}(?:['’]{_LETTERS})*"
    r"|\s*\n\s*|[^\S\n]*[^\w\s]|\s+"
)
RUN = re.compile(rf"[{_HAN}]+")
BREAK = "\x1f"  # ASCII's unit separator; normalised text has no control characters
WORD = re.compile(r"\w+(?:['’-]\w+)*")


def words_of(text: str, language: str) -> list[str]:
    """Return the words of a text, without signs and spaces; Chinese ones by the dictionary.

    >>> words_of("The cat's mat.", "en"), words_of("我来到北京。", "zh")
    (['The', "cat's", 'mat'], ['我', '来到', '北京'])
    """
    if language == "zh":
        return [word for word in _cut(text) if word[0].isalnum()]
    return WORD.findall(text)


def word_starts(text: str, language: str = "") -> NDArray[np.int64]:
    """Return the offsets at which words begin, with the spaces before them: (words,), from 0.

    Signs are words of their own. Chinese is cut by the dictionary unless the text is Japanese.

    >>> word_starts("It's 北京大学。").tolist()
    [0, 4, 9]
    """
    cuts = HAN.search(text) is not None and language != "ja" and not KANA.search(text[:2000])
    starts: list[int] = []
    for match in UNIT.finditer(text):
        start, end = match.span()
        starts.append(start)
        if cuts and end - start > 1 and HAN.match(text[end - 1]):
            lead = start
            while text[lead].isspace():
                lead += 1
            for word in _cut(text[lead:end])[:-1]:
                lead += len(word)
                starts.append(lead)
    return np.asarray(starts, dtype=np.int64)


def broken(text: str) -> str:
    """Return a text with BREAK between Chinese words, for what counts words of any script.

    Without it a clause is one word of its own, and a trainer holds all of them.

    >>> broken("我来到北京 now").split(BREAK)
    ['', '我', '来到', '北京', ' now']
    """
    if HAN.search(text) is None:
        return text
    return RUN.sub(lambda run: f"{BREAK}{BREAK.join(_cut(run[0]))}{BREAK}", text)


def _cut(text: str) -> list[str]:
    try:
        import rjieba
    except ImportError:
        raise missing_package("rjieba", "Chinese text") from None
    found: list[str] = rjieba.cut(text)
    return found


def is_han(text: str) -> bool:
    """Tell whether a third or more of the letters of a text's beginning are Chinese characters."""
    head = text[:2000]
    return len(HAN.findall(head)) * 3 >= sum(map(str.isalpha, head)) > 0


def units(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield (unit, start, end): words in lower case, Chinese and Japanese by the character."""
    for match in LOW_UNIT.finditer(text):
        yield match[0].lower(), match.start(), match.end()


LOW_UNIT = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|(?:(?![\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])[^\W_])+"
)
