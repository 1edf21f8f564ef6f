"""Where words and sentences begin, English and Chinese."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.corpora.sentences import sentence_starts
from sapwood.corpora.words import word_starts, words_of


def split(text: str, starts) -> list[str]:
    bounds = [*starts.tolist(), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's the cat's mat.", ["It's", " the", " cat's", " mat", "."]),
        ("one-two  (three)", ["one", "-", "two", "  (", "three", ")"]),
        ("我来到北京清华大学。", ["我", "来到", "北京", "清华大学", "。"]),
        ("用 Python3 写代码", ["用", " Python3", " 写", "代码"]),
        ("a\n\nb", ["a", "\n\n", "b"]),
        ("日本語のテスト", ["日本語", "のテスト"]),
        ("", []),
        ("   ", ["   "]),
    ],
)
def test_words(text, words):
    assert split(text, word_starts(text)) == words


def test_japanese_is_not_cut_by_a_chinese_dictionary():
    assert split("大学生が", word_starts("大学生が", "ja")) == ["大学生", "が"]


@given(st.text())
def test_words_cover_the_text_from_its_start(text):
    starts = word_starts(text)
    assert "".join(split(text, starts)) == text
    if text:
        assert starts[0] == 0
        assert np.all(np.diff(starts) > 0)


def test_words_of_prose():
    assert words_of("Well-known facts aren't new, 2024.", "en") == [
        "Well-known",
        "facts",
        "aren't",
        "new",
        "2024",
    ]
    assert words_of("他在读书，abc！", "zh") == ["他", "在", "读书", "abc"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Darcy came. He left.", ["Mr. Darcy came. ", "He left."]),
        (
            "He met J. R. Smith, Ph.D. and others. Then?",
            ["He met J. R. Smith, Ph.D. and others. ", "Then?"],
        ),
        ('"Stop!" she said. "Why?" "No."', ['"Stop!" she said. ', '"Why?" ', '"No."']),
        (
            "It costs 3.5 dollars. Is it No. 5? See p. 12 and fig. 3.",
            ["It costs 3.5 dollars. ", "Is it No. 5? ", "See p. 12 and fig. 3."],
        ),
        (
            "He said no. She sat. It was the 2nd of Dec. 1815.",
            ["He said no. ", "She sat. ", "It was the 2nd of Dec. 1815."],
        ),
        (
            "They came at 5 p.m. Everyone left, etc. and so on.",
            ["They came at 5 p.m. ", "Everyone left, etc. and so on."],
        ),
        (
            "The U.S. Senate met, e.g. on Monday. Wait... what? Well... Then",
            ["The U.S. Senate met, e.g. on Monday. ", "Wait... what? ", "Well... ", "Then"],
        ),
        ("I did it, and so did I. Then we went.", ["I did it, and so did I. ", "Then we went."]),
        ("1. First item.\n2. Second item.", ["1. First item.\n", "2. Second item."]),
        (
            "春眠不觉晓，处处闻啼鸟。夜来风雨声！花落知多少？",
            ["春眠不觉晓，处处闻啼鸟。", "夜来风雨声！", "花落知多少？"],
        ),
        (
            "他说：“你好。”然后走了。“真的？！”她问。",
            ["他说：“你好。”", "然后走了。", "“真的？！”", "她问。"],
        ),
        ("床前明月光\n疑是地上霜\n\n举头望明月", ["床前明月光\n", "疑是地上霜\n\n", "举头望明月"]),
        ("他想……可是没有说。", ["他想……可是没有说。"]),
        ("Heading\n\nText of it", ["Heading\n\n", "Text of it"]),
        ("one", ["one"]),
        ("", []),
        (" \n", []),
    ],
)
def test_sentences(text, sentences):
    assert split(text, sentence_starts(text)) == sentences


@given(st.text(alphabet="ab A.B!?。！”\"'\n… 1"))
def test_sentences_cover_the_text(text):
    starts = sentence_starts(text)
    if text.strip():
        assert starts[0] == 0 and np.all(np.diff(starts) > 0)
        assert "".join(split(text, starts)) == text
        assert all(part.strip() for part in split(text, starts)[1:])
    else:
        assert len(starts) == 0
