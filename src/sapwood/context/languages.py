"""Demonstrations in one language, queries in another.

Tanwar et al. (2023, "Multilingual LLMs are Better Cross-lingual In-context Learners with
Alignment", X-InSTA, arXiv 2305.05940) choose demonstrations by multilingual embeddings and add a
sentence that says what the label words mean in the other language (the task aligner). Embeddings
of multilingual nets first tell languages apart; what texts mean shows once the mean of each
language is taken away (Libovický, Rosa & Fraser 2020, arXiv 2004.05160).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.context.template import Template, default_template
from sapwood.errors import ConfigError
from sapwood.interfaces import Floats
from sapwood.registry import did_you_mean
from sapwood.tasks.languages import language

NAMES = {"en": "English", "zh": "Chinese"}
_CHINESE_NAMES = {"en": "英文", "zh": "中文"}
# English and Chinese names of one label. Topics as the categories of THUCNews (Sun et al. 2016,
# THUCTC) and TNEWS (Xu et al. 2020, CLUE, arXiv 2004.05986) are called in Chinese; reviews as
# Chinese shops call good and bad ones.
PAIRS = (
    ("positive", "好评"), ("negative", "差评"), ("neutral", "中性"), ("mixed", "褒贬不一"),
    ("pos", "好评"), ("neg", "差评"), ("good", "好"), ("bad", "差"), ("yes", "是"), ("no", "否"),
    ("true", "真"), ("false", "假"), ("spam", "垃圾邮件"), ("ham", "正常邮件"),
    ("happy", "快乐"), ("sad", "悲伤"), ("angry", "愤怒"), ("fear", "恐惧"), ("surprise", "惊讶"),
    ("sports", "体育"), ("sport", "体育"), ("business", "商业"), ("world", "国际"),
    ("sci/tech", "科技"), ("tech", "科技"), ("technology", "科技"), ("science", "科学"),
    ("entertainment", "娱乐"), ("politics", "时政"), ("finance", "财经"), ("education", "教育"),
    ("edu", "教育"), ("game", "游戏"), ("games", "游戏"), ("realty", "房产"), ("house", "房产"),
    ("society", "社会"), ("stocks", "股票"), ("stock", "股票"), ("car", "汽车"),
    ("culture", "文化"), ("military", "军事"), ("travel", "旅游"), ("agriculture", "农业"),
    ("story", "故事"), ("fashion", "时尚"), ("health", "健康"), ("lottery", "彩票"),
    ("home", "家居"), ("horoscope", "星座"), ("food", "美食"), ("weather", "天气"),
)  # fmt: skip


def words_in(
    labels: Sequence[str], code: str, given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the words of each label in the language `code` ("en" or "zh"), without spaces around.

    `given`: label -> words of the user, which come before the table. A label that is written in
    that language already is its own words.

    Raises ConfigError: E-CONFIG-092 a language without a table, 093 labels without words.

    >>> words_in(["positive", "差评"], "zh"), words_in(["差评"], "en")
    ({'positive': '好评', '差评': '差评'}, {'差评': 'negative'})
    """
    _known(code)
    given = given or {}
    found = {label: given.get(label) or _translated(label, code) for label in labels}
    missing = [label for label, words in found.items() if not words]
    if missing:
        example = ", ".join(f'"{label}": "..."' for label in missing[:3])
        raise ConfigError(
            "E-CONFIG-093",
            f"No {NAMES[code]} words are known for {len(missing)} label(s).",
            details=[repr(label) for label in missing],
            fix=f"name them: --words '{{{example}}}'",
        )
    return {label: str(words).strip() for label, words in found.items()}


def cross_template(
    labels: Sequence[str],
    *,
    frame: str,
    words: str | None = None,
    given: Mapping[str, str] | None = None,
    align: bool = False,
) -> Template:
    """Return a template for contexts of two languages.

    `frame`: the language of the instruction and of what stands around texts, that of the
    demonstrations as a rule; `words`: the language of the label words, by default the same;
    `align` adds the task aligner to the instruction. `given`: label -> words in the language
    `words`. Raises ConfigError as `words_in` does, and E-CONFIG-030 for two labels with the same
    words.
    """
    _known(frame)
    code = words or frame
    chosen = words_in(labels, code, given)
    sample = "中文" if frame == "zh" else "English"
    names = words_in(labels, "en", given if code == "en" else None) if align else {}
    plain = default_template([_english(label) for label in labels], [sample], instruction="")
    noun, kind = plain.before.strip(" :："), plain.between.strip("\n :：")
    listed = list(chosen.values()) if len(labels) <= 20 else []
    if frame == "zh":
        told = f"（{'、'.join(listed)}）" if listed else ""
        spoken = f"判断每条{noun}的{kind}{told}。"
    else:
        told = f" as {' or '.join(listed)}" if listed else ""
        spoken = f"Classify the {kind.lower()} of each {noun.lower()}{told}."
    if align:
        other = words_in(labels, "zh", given if code == "zh" else None)
        spoken += ("" if frame == "zh" else " ") + aligner(names, other, frame=frame)
    space = "" if frame == "zh" else " "
    shown = {label: space + chosen[label] for label in labels}
    return replace(plain, instruction=spoken, words=shown)


def aligner(english: Mapping[str, str], chinese: Mapping[str, str], *, frame: str) -> str:
    """Return X-InSTA's task aligner in the language `frame`; the mappings give each label's words.

    >>> aligner({"p": "positive", "n": "negative"}, {"p": "好评", "n": "差评"}, frame="en")
    'In Chinese, positive is 好评 and negative is 差评.'
    """
    _known(frame)
    if frame == "zh":
        said = "，".join(f"{chinese[label]}是 {words}" for label, words in english.items())
        return f"在{_CHINESE_NAMES['en']}中，{said}。"
    pairs = [f"{words} is {chinese[label]}" for label, words in english.items()]
    listed = " and ".join(pairs) if len(pairs) < 3 else f"{', '.join(pairs[:-1])} and {pairs[-1]}"
    return f"In {NAMES['zh']}, {listed}."


@dataclass(frozen=True, kw_only=True)
class LanguageMeans:
    """The mean embedding of each language, taken away so that cosines compare meanings.

    `codes`: the languages; `means`: (languages, width).
    """

    codes: tuple[str, ...]
    means: NDArray[np.float64]

    @classmethod
    def fit(cls, embeddings: Floats, codes: Sequence[str]) -> Self:
        """Return the means of `embeddings` (texts, width), whose languages are `codes`.

        Needs a few dozen unlabelled texts of each language, those of the queries included; with
        one text of a language nothing of it would be left.
        """
        known = tuple(sorted(set(codes)))
        exact, own = np.asarray(embeddings, np.float64), np.asarray(codes)
        return cls(codes=known, means=np.stack([exact[own == code].mean(0) for code in known]))

    def centred(self, embeddings: Floats, codes: Sequence[str]) -> NDArray[np.float64]:
        """Return `embeddings` (texts, width) less the mean of each text's language `codes`.

        A language that was not fitted loses the mean of all languages.
        """
        place = {code: number for number, code in enumerate(self.codes)}
        rows = np.vstack([self.means, self.means.mean(0)])
        return np.asarray(
            np.asarray(embeddings, np.float64) - rows[[place.get(code, -1) for code in codes]],
            np.float64,
        )

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        return {"codes": list(self.codes)}, {"means": self.means}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        return cls(codes=tuple(settings["codes"]), means=np.asarray(arrays["means"], np.float64))


def languages_of(texts: Sequence[str]) -> list[str]:
    """Return the language code of each text; those too short to tell get the most frequent one."""
    found = [language(text) for text in texts]
    counts = Counter(code for code in found if code is not None)
    usual = counts.most_common(1)[0][0] if counts else "en"
    return [code or usual for code in found]


def _known(code: str) -> None:
    if code not in NAMES:
        raise ConfigError(
            "E-CONFIG-092",
            f"There are no words for the language '{code}'.{did_you_mean(code, NAMES)}",
            fix=f"use one of: {', '.join(NAMES)}; or write a template of your own",
        )


def _translated(label: str, code: str) -> str:
    """Return the words of a label in a language, "" where the table has none."""
    chinese = language(label) == "zh"
    name = label.strip()
    if chinese == (code == "zh"):
        return " ".join(name.replace("_", " ").split())
    if code == "zh":
        return dict(PAIRS).get(name.lower().replace("_", " "), "")
    return next((english for english, own in PAIRS if own == name), "")


def _english(label: str) -> str:
    """Return a label's English name where there is one, which tells sentiment from topics."""
    return _translated(label, "en") or label
