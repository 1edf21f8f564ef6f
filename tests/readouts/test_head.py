"""Linear heads: what the table's conformance tests do not say."""

import numpy as np
import pytest

from sapwood.errors import ConfigError, DataError
from sapwood.readouts.head import Head, TokenHead
from sapwood.readouts.probe import Probe

LABELS = ("bad", "fair", "good")


@pytest.fixture
def rows():
    """Features of a width of 12 whose columns differ in place and size, with learnable labels."""
    rng = np.random.default_rng(4)
    index = rng.integers(0, 3, 90)
    features = rng.normal(size=(90, 12)) + 2.0 * np.eye(3, 12)[index]
    features = (features * np.linspace(0.01, 3, 12) + np.arange(12)).astype(np.float32)
    return features, [LABELS[i] for i in index]


def test_a_fitted_head_says_what_the_probe_says(rows):
    features, gold = rows
    probe = Probe.fit(features, gold, labels=LABELS)
    head = Head.fit(features, gold, labels=LABELS)
    np.testing.assert_allclose(
        head.probabilities(features), probe.probabilities(features), atol=1e-4
    )
    assert (head.reads, head.pooling) == ("features", "mean")


def test_a_column_that_is_next_to_nothing_gets_no_weight(rows):
    features, gold = rows
    told = np.array([LABELS.index(label) for label in gold])
    tiny = np.concatenate([features, 1e-31 * (1 + told[:, None])], axis=1).astype(np.float32)
    head = Head.fit(tiny, gold, labels=LABELS)
    assert not head.weight[:, 12].any() and np.abs(head.weight).max() < 1e4
    alone = Head.fit(features, gold, labels=LABELS)
    np.testing.assert_allclose(head.probabilities(tiny), alone.probabilities(features), atol=1e-3)


def test_a_label_without_rows_gets_about_the_mass_the_probe_gives_it(rows):
    features, gold = rows
    labels = (*LABELS[:2], "never", LABELS[2])
    head = Head.fit(features, gold, labels=labels).probabilities(features)
    probe = Probe.fit(features, gold, labels=labels).probabilities(features)
    assert 0 < np.median(head[:, 2]) < 10 * probe[0, 2]
    assert (head[:, [0, 1, 3]].argmax(1) == probe[:, [0, 1, 3]].argmax(1)).all()


def test_settings_and_arrays_are_all_there_is():
    head = Head.random(LABELS, 7, seed=2, pooling="first", dropout=0.1)
    settings, arrays = head.state()
    assert settings == {"labels": list(LABELS), "dropout": 0.1, "pooling": "first"}
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
        "weight": ((3, 7), np.float32),
        "bias": ((3,), np.float32),
    }
    states = np.random.default_rng(0).normal(size=(5, 7))
    again = Head.from_state(settings, arrays)
    assert np.array_equal(again.probabilities(states), head.probabilities(states))
    assert (again.pooling, again.dropout, again.labels) == ("first", 0.1, LABELS)


def test_a_token_head_is_a_linear_map_of_each_state():
    head = TokenHead.random(("O", "B-PER"), 6, seed=1)
    states = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    np.testing.assert_allclose(head.logits(states), states @ head.weight.T + head.bias, atol=1e-6)
    np.testing.assert_allclose(head.probabilities(states).sum(1), 1)
    assert head.probabilities(states[:0]).shape == (0, 2)
    again = TokenHead.from_state(*head.state())
    assert np.array_equal(again.logits(states), head.logits(states))


def test_random_heads_are_those_of_their_seed():
    one, same, other = (TokenHead.random(LABELS, 5, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.weight, same.weight) and not np.array_equal(one.weight, other.weight)
    assert not one.bias.any()


def test_states_of_another_width_and_dropout_of_one_are_refused():
    with pytest.raises(DataError, match=r"width 5, got shape \(2, 6\)"):
        TokenHead.random(LABELS, 5).logits(np.zeros((2, 6)))
    with pytest.raises(ConfigError, match=r"in \[0, 1\), got 1"):
        Head.random(LABELS, 5, dropout=1.0)
