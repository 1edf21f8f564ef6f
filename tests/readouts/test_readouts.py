"""What each readout fitted on rows must do: a new line in the table is tested by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ConfigError, DataError
from sapwood.readouts import READOUTS
from sapwood.registry import resolve

# The others are fitted on label scores, trained with an encoder, or give answers: several labels.
OTHERS = ("verbalizer", "tags", "sigmoid", "label-grams", "dictionary", "n-gram", "generate")
FITTED = [name for name in READOUTS if name not in OTHERS]
LABELS = ("bad", "fair", "good")
WORDS = {
    "bad": "awful dull broken refund",
    "fair": "average plain ordinary fine",
    "good": "superb lovely bright joy",
}


def rows_of(name: str, rows: int, seed: int = 0):
    """Return (inputs, gold) of the kind that readout `name` reads, learnable but not trivial."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 3, rows)
    gold = [LABELS[i] for i in index]
    if name in ("majority", "tf-idf"):
        return [
            " ".join(rng.choice([*WORDS[label].split(), "the", "film", "was"], 6)) for label in gold
        ], gold
    return rng.normal(size=(rows, 12)).astype(np.float32) + 2.5 * np.eye(3, 12)[index], gold


def readout_of(name: str, rows: int = 60, labels=LABELS):
    inputs, gold = rows_of(name, rows)
    return resolve("readout", READOUTS, name).fit(inputs, gold, labels=labels)


def through_json(name: str, readout):
    """Return the readout rebuilt from settings that went through text and arrays through bytes."""
    saved, arrays = readout.state()
    loaded = {
        key: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
        for key, array in arrays.items()
    }
    return resolve("readout", READOUTS, name).from_state(json.loads(json.dumps(saved)), loaded)


@pytest.mark.parametrize("name", FITTED)
def test_probabilities_are_probabilities(name):
    readout = readout_of(name)
    probabilities = readout.probabilities(rows_of(name, 25, seed=1)[0])
    assert probabilities.shape == (25, 3)
    assert readout.labels == LABELS
    assert (probabilities > 0).all()
    assert np.allclose(probabilities.sum(1), 1, atol=1e-12)
    assert readout.probabilities(rows_of(name, 1)[0][:0]).shape == (0, 3)


@pytest.mark.parametrize("name", FITTED)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12))
@settings(max_examples=8, deadline=None)
def test_saved_and_rebuilt_gives_the_same_bits(name, seed, rows):
    inputs, gold = rows_of(name, rows, seed)
    readout = resolve("readout", READOUTS, name).fit(inputs, gold, labels=LABELS)
    asked = rows_of(name, 9, seed + 1)[0]
    again = through_json(name, readout)
    assert np.array_equal(readout.probabilities(asked), again.probabilities(asked))
    first, second = readout.state(), again.state()
    assert first[0] == second[0]
    for key, array in first[1].items():
        assert array.dtype == second[1][key].dtype
        assert np.array_equal(array, second[1][key])


@pytest.mark.parametrize("name", FITTED)
@given(order=st.permutations(range(3)))
@settings(max_examples=6, deadline=None)
def test_permuting_the_labels_permutes_the_probabilities(name, order):
    asked = rows_of(name, 20, seed=2)[0]
    moved = readout_of(name, labels=tuple(LABELS[i] for i in order)).probabilities(asked)
    # The solver stops at a tolerance, along another path for another order of classes.
    assert np.allclose(readout_of(name).probabilities(asked)[:, list(order)], moved, atol=0.02)


@pytest.mark.parametrize("name", FITTED)
def test_a_readout_says_what_it_reads(name):
    expected = {"majority": "texts", "tf-idf": "texts"}
    assert readout_of(name, rows=12).reads == expected.get(name, "features")


@pytest.mark.parametrize("name", FITTED)
def test_fitting_twice_gives_the_same_bits(name):
    asked = rows_of(name, 20, seed=2)[0]
    first, second = readout_of(name), readout_of(name)
    assert np.array_equal(first.probabilities(asked), second.probabilities(asked))


@pytest.mark.parametrize("name", [name for name in FITTED if name != "majority"])
def test_a_fitted_readout_learns(name):
    readout = readout_of(name, rows=200)
    asked, gold = rows_of(name, 200, seed=5)
    said = [LABELS[i] for i in readout.probabilities(asked).argmax(1)]
    assert np.mean([s == g for s, g in zip(said, gold, strict=True)]) > 0.8


@pytest.mark.parametrize("name", FITTED)
def test_classes_of_one_row_and_of_none_are_possible_answers(name):
    inputs, _ = rows_of(name, 4)
    fit = resolve("readout", READOUTS, name).fit
    one_each = fit(inputs, ["bad", "bad", "bad", "good"], labels=LABELS)
    probabilities = one_each.probabilities(inputs)
    assert (probabilities > 0).all()
    assert np.allclose(probabilities.sum(1), 1)
    assert (probabilities[:, 1] < probabilities.max(1)).all()
    alone = fit(inputs, ["good"] * 4, labels=LABELS).probabilities(inputs)
    assert (alone.argmax(1) == 2).all()


@pytest.mark.parametrize("name", FITTED)
def test_a_label_outside_the_list_is_named(name):
    inputs, _ = rows_of(name, 2)
    with pytest.raises(DataError, match="not among the 3 known labels") as caught:
        resolve("readout", READOUTS, name).fit(inputs, ["bad", "goood"], labels=LABELS)
    assert "'goood'" in str(caught.value)


@pytest.mark.parametrize("name", ["probe", "knn"])
def test_features_that_cannot_be_used_are_refused(name):
    inputs, gold = rows_of(name, 6)
    fit = resolve("readout", READOUTS, name).fit
    broken = inputs.copy()
    broken[3, 4] = np.nan
    with pytest.raises(DataError, match="not a finite number"):
        fit(broken, gold, labels=LABELS)
    with pytest.raises(DataError, match="5 labels"):
        fit(inputs, gold[:5], labels=LABELS)
    with pytest.raises(DataError, match="at least 1 row"):
        fit(inputs[:0], [], labels=LABELS)
    with pytest.raises(DataError, match=r"width 12, got shape \(6, 5\)"):
        fit(inputs, gold, labels=LABELS).probabilities(inputs[:, :5])


def test_an_unknown_readout_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"Unknown readout .tfidf.\. Did you mean .tf-idf."):
        resolve("readout", READOUTS, "tfidf")
