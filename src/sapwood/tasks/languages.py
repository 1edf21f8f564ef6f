"""Which languages the texts are in: by script first, then by a small model that travels along.

Chinese, Japanese and Korean are told by their characters, which is exact on two-word queries
where statistical identifiers waver; other scripts go to `py3langid` (Lui and Baldwin, 2012,
"langid.py: An Off-the-shelf Language Identification Tool"), whose model is inside its package.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from sapwood.tasks.duplicates import HAN, content_hash

SAMPLE = 1000  # texts; the share of a language is then known to within 3 points
SHORTEST = 20  # letters; on shorter Latin texts the identifier is a guess
SMALL = 0.02  # shares below this are mostly slips of the identifier and are pooled as "other"
KANA = re.compile(r"[\u3040-\u30ff]")
HANGUL = re.compile(r"[\uac00-\ud7af]")


def languages(texts: Sequence[str]) -> dict[str, float]:
    """Return language code -> share of texts, most frequent first, summing to 1.

    At most 1,000 texts are looked at, chosen by content; {} where all are too short to tell.
    """
    chosen = texts
    if len(texts) > SAMPLE:
        chosen = sorted(texts, key=content_hash)[:SAMPLE]
    counts = Counter(code for text in chosen if (code := language(text)) is not None)
    total = sum(counts.values())
    shares: dict[str, float] = {}
    for code, count in counts.most_common():
        name = code if count >= SMALL * total else "other"
        shares[name] = shares.get(name, 0.0) + count / total
    return {code: round(share, 4) for code, share in shares.items()}


def language(text: str) -> str | None:
    """Return the language code of one text, or None where it is too short to tell."""
    letters = sum(char.isalpha() for char in text)
    if HANGUL.search(text):
        return "ko"
    han = len(HAN.findall(text))
    kana = len(KANA.findall(text))
    if kana * 5 > han + kana:
        return "ja"
    if han * 4 >= letters > 0:  # a Chinese character says as much as several Latin letters
        return "zh"
    if letters < SHORTEST:
        return None
    from py3langid import classify  # type: ignore[import-untyped,unused-ignore]

    code = str(classify(text)[0])
    return {"pcm": "en", "wuu": "zh", "yue": "zh", "lzh": "zh"}.get(code, code)
