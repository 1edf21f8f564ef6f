"""The text baseline: against scikit-learn, and where texts are odd."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from sapwood.errors import DataError
from sapwood.readouts import tfidf
from sapwood.readouts.tfidf import TfIdf

TEXTS = ["A good film!", "a BAD film", "so so", "good good", "bad, bad?", "a plain film"] * 3
GOLD = ["good", "bad", "bad", "good", "bad", "bad"] * 3


def test_features_equal_scikit_learn_fitted_on_the_same_texts():
    readout = TfIdf.fit(TEXTS, GOLD, labels=("bad", "good"))
    word = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=tfidf.WORD)
    chars = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    expected = sparse.hstack([v.fit(TEXTS).transform(["good, new film"]) for v in (word, chars)])
    found = tfidf.grams_of(readout.blocks, ["good, new film"])
    assert abs(found - expected.tocsr()).max() < 1e-15


def test_one_letter_words_and_marks_count():
    readout = TfIdf.fit(TEXTS, GOLD, labels=("bad", "good"))
    assert {"a", "!", "?", "good film"} <= set(readout.blocks[0].terms)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("这家酒店很好，下次再来 OK", True),
        ("とても良い", True),
        ("อร่อยมาก", True),
        ("좋은 영화", False),
        ("the word 好 alone", False),
        ("123 !?", False),
        ("", False),
    ],
)
def test_scripts_without_spaces_are_told_apart(text, expected):
    assert tfidf.unspaced([text]) is expected


def test_chinese_is_cut_into_characters():
    texts = ["房间很大很干净", "服务态度很差", "干净舒服", "房间太差"]
    gold = ["good", "bad", "good", "bad"]
    readout = TfIdf.fit(texts, gold, labels=("bad", "good"))
    assert [block.analyzer for block in readout.blocks] == ["char"]
    assert {"差", "干净", "很干净"} <= set(readout.blocks[0].terms)
    assert readout.probabilities(["太差", "很干净"]).argmax(1).tolist() == [0, 1]


def test_large_corpora_use_words_alone(monkeypatch):
    monkeypatch.setattr(tfidf, "MOST_CHARACTERS", 50)
    assert [b.analyzer for b in TfIdf.fit(TEXTS, GOLD, labels=("bad", "good")).blocks] == ["word"]


def test_the_number_of_weights_is_bounded(monkeypatch):
    monkeypatch.setattr(tfidf, "MOST_WEIGHTS", 4000)
    texts = [f"word{i} thing{i * 7}" for i in range(400)]
    readout = TfIdf.fit(texts, ["a", "b"] * 200, labels=("a", "b"))
    assert readout.logistic.coefficients.shape == (2, 2000)


def test_texts_without_a_word_or_character_fall_back_to_class_shares():
    readout = TfIdf.fit(["", " ", ""], ["a", "a", "b"], labels=("a", "b"))
    assert readout.blocks == ()
    probabilities = readout.probabilities(["", "new words"])
    assert np.allclose(probabilities[0], probabilities[1])
    assert probabilities[0, 0] == pytest.approx(2 / 3, abs=0.02)


def test_no_rows_is_an_error():
    with pytest.raises(DataError, match="at least 1 row"):
        TfIdf.fit([], [], labels=("a",))
