"""Label words in two languages, the aligner, and embeddings without their language."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.languages import (
    PAIRS,
    LanguageMeans,
    aligner,
    cross_template,
    languages_of,
    words_in,
)
from sapwood.context.prompter import Context, Prompter
from sapwood.errors import ConfigError
from sapwood.interfaces import Example

LABELS = ("negative", "positive")
TOPICS = ("Business", "Sci/Tech", "Sports", "World")


def test_words_of_labels():
    assert words_in(TOPICS, "zh") == dict(
        zip(TOPICS, ("商业", "科技", "体育", "国际"), strict=True)
    )
    assert words_in(TOPICS, "en")["Sci/Tech"] == "Sci/Tech"
    assert words_in(["体育", "好评"], "en") == {"体育": "sports", "好评": "positive"}
    assert words_in(["card_arrival"], "en") == {"card_arrival": "card arrival"}
    given_words = {"positive": " 很好 ", "odd": "怪"}
    assert words_in(["positive", "odd"], "zh", given_words) == {"positive": "很好", "odd": "怪"}


def test_what_has_no_words():
    with pytest.raises(ConfigError) as caught:
        words_in(["positive", "atm_support", "7"], "zh")
    assert caught.value.details == ("'atm_support'", "'7'")
    assert caught.value.fix == """name them: --words '{"atm_support": "...", "7": "..."}'"""
    with pytest.raises(ConfigError, match="no words for the language 'fr'"):
        words_in(["positive"], "fr")
    with pytest.raises(ConfigError, match="no words for the language 'zz'"):
        cross_template(LABELS, frame="zz")


def test_the_table_holds_both_scripts_once():
    names = [english for english, _ in PAIRS]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and name == name.lower() for name in names)
    assert all(not chinese.isascii() for _, chinese in PAIRS)


def test_templates_of_two_languages():
    both = cross_template(LABELS, frame="en", words="zh", align=True)
    assert both.before == "Review: "
    assert both.words == {"negative": " 差评", "positive": " 好评"}
    assert both.instruction == (
        "Classify the sentiment of each review as 差评 or 好评. "
        "In Chinese, negative is 差评 and positive is 好评."
    )
    turned = cross_template(["好评", "差评"], frame="zh", align=True)
    assert turned.words == {"好评": "好评", "差评": "差评"}
    assert (
        turned.instruction
        == "判断每条评论的情感（好评、差评）。在英文中，好评是 positive，差评是 negative。"
    )
    own = cross_template(LABELS, frame="en", words="zh", given={"positive": "赞", "negative": "踩"})
    assert own.words["positive"] == " 赞"
    assert cross_template(TOPICS, frame="zh").before == "文本："
    with pytest.raises(ConfigError, match="Two labels have the same words"):
        cross_template(["sport", "sports"], frame="zh")


def test_the_aligner_lists_many_labels():
    english, chinese = words_in(TOPICS, "en"), words_in(TOPICS, "zh")
    assert aligner(english, chinese, frame="en") == (
        "In Chinese, Business is 商业, Sci/Tech is 科技, Sports is 体育 and World is 国际."
    )
    with pytest.raises(ConfigError):
        aligner(english, chinese, frame="de")


def test_the_words_are_what_the_prompter_scores(tiny_tokenizer):
    template = cross_template(LABELS, frame="en", words="zh")
    shown = (Example(text="fine film", label="positive"),)
    prompter = Prompter(tiny_tokenizer, Context(template=template, demonstrations=shown, shots=1))
    assert prompter.head.endswith("Review: fine film\nSentiment: 好评")
    decoded = [tiny_tokenizer.decode(ids).strip() for ids in prompter.labels(LABELS)]
    assert [words for words in decoded if words] == ["差评", "好评"]


def naive_centred(vectors, codes, fitted, fitted_codes):
    """Return each vector less the mean of the fitted vectors of its language."""
    out = []
    for vector, code in zip(vectors, codes, strict=True):
        same = [v for v, c in zip(fitted, fitted_codes, strict=True) if c == code]
        out.append(np.asarray(vector) - sum(np.asarray(v) for v in same) / len(same))
    return np.array(out)


@settings(max_examples=50, deadline=None)
@given(
    codes=st.lists(st.sampled_from(["en", "zh", "ja"]), min_size=1, max_size=12),
    seed=st.integers(0, 99),
)
def test_means_are_those_of_each_language(codes, seed):
    vectors = np.random.default_rng(seed).normal(size=(len(codes), 5)).astype(np.float32)
    means = LanguageMeans.fit(vectors, codes)
    found = means.centred(vectors, codes)
    assert found == pytest.approx(naive_centred(vectors, codes, vectors, codes), abs=1e-5)
    again = LanguageMeans.from_state(*means.state())
    assert (again.centred(vectors, codes) == found).all()
    assert np.isfinite(means.centred(vectors[:1], ["ko"])).all()


def test_centring_finds_the_same_meaning_in_another_language():
    rng = np.random.default_rng(0)
    meanings = rng.normal(size=(40, 16))
    english = meanings + 20 * rng.normal(size=16) + 0.1 * rng.normal(size=(40, 16))
    chinese = meanings + 20 * rng.normal(size=16) + 0.1 * rng.normal(size=(40, 16))
    codes = ["en"] * 40 + ["zh"] * 40

    def nearest(queries, pool):
        queries, pool = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, pool))
        return (queries @ pool.T).argmax(1)

    raw = (nearest(chinese, english) == np.arange(40)).mean()
    means = LanguageMeans.fit(np.vstack([english, chinese]), codes)
    centred = nearest(means.centred(chinese, codes[40:]), means.centred(english, codes[:40]))
    assert raw < 0.5
    assert (centred == np.arange(40)).mean() == 1.0


def test_languages_of_texts():
    texts = ["这家酒店很好", "The hotel was good, and so was the breakfast.", "ok", "非常差劲"]
    assert languages_of(texts) == ["zh", "en", "zh", "zh"]
    assert languages_of(["ok", "7"]) == ["en", "en"]
