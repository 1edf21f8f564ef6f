"""Several labels a text: fitted on features and on texts, saved, rebuilt; as scikit-learn's."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from sapwood.errors import DataError
from sapwood.readouts.labels import LabelGrams, Sigmoid, sigmoid, with_thresholds
from sapwood.readouts.logistic import fit_each

LABELS = ("cast", "plot", "sound")


def features_of(rows, seed=0):
    """Return (features, wanted): each label moves a direction of its own."""
    rng = np.random.default_rng(seed)
    wanted = rng.random((rows, 3)) < [0.5, 0.3, 0.2]
    return rng.normal(size=(rows, 10)) + 2.5 * wanted @ np.eye(3, 10), wanted


def texts_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    wanted = rng.random((rows, 3)) < [0.5, 0.3, 0.2]
    said = [
        " ".join(rng.permutation(["a", "film", "seen", *(w for w, t in zip(
            ("actors", "story", "music"), row, strict=True) if t)]))
        for row in wanted
    ]  # fmt: skip
    return said, wanted


def through_json(readout):
    settings, arrays = readout.state()
    return type(readout).from_state(json.loads(json.dumps(settings)), arrays)


@pytest.mark.parametrize("wide", [False, True])
def test_the_regressions_are_those_of_one_against_the_rest(wide):
    features, wanted = features_of(60 if wide else 200)
    if wide:  # more features than rows: solved in the span of the rows
        features = np.hstack([features, np.random.default_rng(9).normal(size=(60, 90))])
    ours = fit_each(features, wanted, strengths=(0.1,))
    theirs = OneVsRestClassifier(LogisticRegression(C=0.1, max_iter=300)).fit(features, wanted)
    np.testing.assert_allclose(
        sigmoid(ours.logits(features)), theirs.predict_proba(features), atol=2e-3
    )


def test_one_strength_is_chosen_for_all():
    features, wanted = features_of(150)
    found = fit_each(features, wanted, strengths=(1e-6, 1e-3, 0.1, 1.0, 1e6))
    assert found.strength in (1e-3, 0.1, 1.0)


def test_labels_of_no_row_and_of_every_row_keep_their_share():
    features, wanted = features_of(50)
    wanted[:, 1], wanted[:, 2] = False, True
    each = sigmoid(fit_each(features, wanted, strengths=(1.0,)).logits(features))
    np.testing.assert_allclose(each[:, 1], 0.5 / 51, rtol=1e-5)
    np.testing.assert_allclose(each[:, 2], 50.5 / 51, rtol=1e-5)


def test_the_probe_finds_the_labels_of_other_rows():
    known, wanted = features_of(300)
    made = Sigmoid.fit(known, wanted, labels=LABELS)
    asked, gold = features_of(300, seed=1)
    right = [{f.label for f in a.frames} == {x for x, y in zip(LABELS, row, strict=True) if y}
             for a, row in zip(made.answers(asked), gold, strict=True)]  # fmt: skip
    assert np.mean(right) > 0.65  # every label right: chance alone has about 0.35


def test_texts_with_their_own_words_are_told_apart():
    known, wanted = texts_of(200)
    made = LabelGrams.fit(known, wanted, labels=LABELS)
    asked, gold = texts_of(100, seed=1)
    assert ((made.each(asked) >= made.thresholds) == gold).mean() > 0.98
    assert made.each([]).shape == (0, 3)


def test_thresholds_decide_and_are_saved():
    known, wanted = features_of(100)
    made = with_thresholds(Sigmoid.fit(known, wanted, labels=LABELS), np.array([0.0, 1.1, 0.5]))
    answers = through_json(made).answers(known)
    assert all(a.frames[0].label == "cast" for a in answers)
    assert not any(f.label == "plot" for a in answers for f in a.frames)


def test_rebuilt_readouts_give_the_same():
    known, wanted = features_of(100)
    made = Sigmoid.fit(known, wanted, labels=LABELS, pooling="first")
    again = through_json(made)
    assert (again.each(known) == made.each(known)).all() and again.head.pooling == "first"
    texts, wanted = texts_of(100)
    grams = LabelGrams.fit(texts, wanted, labels=LABELS)
    assert (through_json(grams).each(texts) == grams.each(texts)).all()


def test_rows_without_answers_are_refused():
    with pytest.raises(DataError, match="at least 1 row and a label a row"):
        fit_each(np.zeros((3, 2)), np.zeros((2, 1), bool), strengths=(1.0,))
