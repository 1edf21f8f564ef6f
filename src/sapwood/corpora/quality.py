"""Is a document prose? Rules of Gopher, C4 and FineWeb, set by language.

- Gopher: Rae et al. (2021), "Scaling Language Models", table A1 and appendix A.1.
- C4: Raffel et al. (2020), "Exploring the Limits of Transfer Learning", section 2.2; the rule on
  the ends of lines is left out, as in FineWeb, where it cost more than it gave.
- FineWeb: Penedo et al. (2024), "The FineWeb Datasets", section 3.6.

"web" pages meet all of them. "light" is for books, encyclopedias and tables, whose authors meant
them to be read: there only what holds no language is dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sapwood.corpora.draft import Draft, Drop, counted
from sapwood.corpora.repetition import repeated
from sapwood.corpora.sentences import sentence_starts
from sapwood.corpora.words import words_of

# Gopher, A.1.
FEWEST_WORDS, MOST_WORDS = 50, 100_000
SHORTEST_MEAN, LONGEST_MEAN = 3, 10  # letters of a word
SIGNS_A_WORD, BULLETS, ELLIPSES, WITH_LETTERS, STOP_WORDS = 0.1, 0.9, 0.3, 0.8, 2
# FineWeb, 3.6: shares of lines that end a sentence, that are short.
ENDED, SHORT_LINES, SHORT = 0.12, 0.67, 30
# C4, 2.2, in the values of its code: sentences of a page, words of a line, letters of a word.
SENTENCES, WORDS_A_LINE, LONGEST_WORD = 3, 3, 1000
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
          "use cookies",
          "使用条款", "隐私政策", "隐私权政策", "隱私權政策", "使用條款")  # fmt: skip
LIGHT_CHARACTERS, LIGHT_LETTERS = 16, 0.5  # a couplet of Chinese verse has 10 to 14 and its signs
BULLET = re.compile(r"^\s*[•‣▶◀◦■□▪▫–*·●-]")
ELLIPSIS = ("...", "…")
ENDS = ".!?\"'”’…。！？；」』）)"
CITATION = re.compile(r"\[(?:\d*|edit|citation needed|编辑|編輯|来源请求)\]")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the rules need of a language: `a_word` characters make about one word.

    `stop_words` may be empty, and `spaced` False where words are not set apart: the rules that need
    them are then left out.
    """

    spaced: bool = True
    stop_words: frozenset[str] = frozenset()
    a_word: float = 5.0
    short: int = SHORT


def _stop(words: str) -> frozenset[str]:
    return frozenset(words.split())


# English as in Gopher. Others: the most frequent function words of their grammars, so that prose
# has two of them with near certainty; Chinese ones in both scripts and in the classical language.
SETTINGS = {
    "en": Setting(stop_words=_stop("the be to of and that have with")),
    "zh": Setting(
        spaced=False, a_word=1.5, short=12,
        stop_words=_stop("的 了 是 在 和 不 有 我 他 这 這 也 就 而 之 其 以 为 為 于 於 "
                         "与 與 所 者 一 人"),
    ),
    "ja": Setting(spaced=False, a_word=2.0, short=15),
    "th": Setting(spaced=False, a_word=4.0),
    "de": Setting(stop_words=_stop("der die das und ist in zu den mit nicht von ein")),
    "fr": Setting(stop_words=_stop("le la les de des et est un une à que dans pour")),
    "es": Setting(stop_words=_stop("el la los de y que en un una es por con")),
    "it": Setting(stop_words=_stop("il la di e che in un una è per non con")),
    "pt": Setting(stop_words=_stop("o a os de e que em um uma é para não")),
    "nl": Setting(stop_words=_stop("de het een en van in is dat op te niet met")),
    "ru": Setting(stop_words=_stop("и в не на что по как это из он для но")),
}  # fmt: skip
OTHER = Setting()


def quality(draft: Draft) -> Draft | Drop:
    """Return the draft, without lines that are no content, or the rule that it breaks."""
    text = draft.text
    if draft.rules == "none":
        return draft
    solid = [char for char in text if not char.isspace()]
    letters = sum(map(str.isalpha, solid))
    if len(solid) < LIGHT_CHARACTERS:
        return Drop(reason="too short", detail=f"{len(solid)} characters")
    if letters < LIGHT_LETTERS * len(solid):
        return Drop(reason="few letters", detail=f"{letters / len(solid):.2f}")
    if draft.rules == "light":
        return draft
    setting = SETTINGS.get(draft.language, OTHER)
    text, left_out = content_lines(text, setting)
    found = _gopher(text, draft.language, setting) or _lines(text, setting)
    found = found or repeated(text, words_of(text, draft.language), setting.spaced)
    return found or counted(draft, text, {"lines": left_out})


def content_lines(text: str, setting: Setting) -> tuple[str, int]:
    """Return text without lines about scripts and cookies, or of a monstrous word; how many."""
    kept, left_out = [], 0
    for line in text.split("\n"):
        low = line.lower()
        if (
            "javascript" in low
            or any(policy in low for policy in POLICY)
            or (setting.spaced and any(len(word) > LONGEST_WORD for word in line.split()))
        ):
            left_out += 1
        else:
            kept.append(CITATION.sub("", line).rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip(), left_out


def _gopher(text: str, language: str, setting: Setting) -> Drop | None:
    words = words_of(text, language)
    count = len(words) if setting.spaced or language == "zh" else len(text) / setting.a_word
    if count < FEWEST_WORDS:
        return Drop(reason="fewer than 50 words", detail=f"{count:.0f}")
    if count > MOST_WORDS:
        return Drop(reason="more than 100,000 words", detail=f"{count:.0f}")
    if setting.spaced:
        mean = sum(map(len, words)) / len(words)
        if not SHORTEST_MEAN <= mean <= LONGEST_MEAN:
            return Drop(reason="length of words", detail=f"mean {mean:.1f}")
        tokens = text.split()
        lettered = sum(any(map(str.isalpha, token)) for token in tokens) / len(tokens)
        if lettered < WITH_LETTERS:
            return Drop(reason="words without letters", detail=f"{1 - lettered:.2f}")
    for sign, number in (("#", text.count("#")), ("…", text.count("…") + text.count("..."))):
        if number > SIGNS_A_WORD * count:
            return Drop(reason="many signs", detail=sign)
    lines = [line for line in text.split("\n") if line.strip()]
    if sum(BULLET.match(line) is not None for line in lines) > BULLETS * len(lines):
        return Drop(reason="mostly bullet points")
    if sum(line.rstrip().endswith(ELLIPSIS) for line in lines) > ELLIPSES * len(lines):
        return Drop(reason="many lines end in an ellipsis")
    if setting.stop_words:
        low = {word.lower() for word in words}
        if language == "zh":
            low |= {char for char in text if char in setting.stop_words}
        if len(low & setting.stop_words) < STOP_WORDS:
            return Drop(reason="no function words")
    return None


def _lines(text: str, setting: Setting) -> Drop | None:
    """Return the rule of C4 or FineWeb that the lines of a page break, or None."""
    low = text.lower()
    if "lorem ipsum" in low:
        return Drop(reason="lorem ipsum")
    if "{" in text:
        return Drop(reason="curly bracket")
    lines = [line for line in text.split("\n") if line.strip()]
    ended = sum(line.rstrip()[-1] in ENDS for line in lines) / len(lines)
    if ended < ENDED:
        return Drop(reason="few lines end a sentence", detail=f"{ended:.2f}")
    short = sum(len(line) <= setting.short for line in lines) / len(lines)
    if short > SHORT_LINES:
        return Drop(reason="mostly short lines", detail=f"{short:.2f}")
    enough = [line for line in lines if len(line.split()) >= WORDS_A_LINE or not setting.spaced]
    if sum(len(sentence_starts(line)) for line in enough) < SENTENCES:
        return Drop(reason="fewer than 3 sentences")
    return None
