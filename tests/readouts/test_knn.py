"""Votes of the nearest rows, checked by hand and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from sapwood.errors import ConfigError
from sapwood.metrics import log_loss
from sapwood.readouts import knn
from sapwood.readouts.knn import NearestNeighbours


def rows(seed: int = 0, count: int = 80, width: int = 7):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 3, count)
    return rng.normal(size=(count, width)) + 2 * np.eye(3, width)[gold], gold


def fitted(distance: str = "cosine", **changes) -> NearestNeighbours:
    features, gold = rows(**changes)
    return NearestNeighbours.fit(
        features, [str(g) for g in gold], labels=("0", "1", "2"), distance=distance
    )


def slowly(readout: NearestNeighbours, features: np.ndarray) -> np.ndarray:
    """The definition, one pair at a time."""
    shares = np.bincount(readout.gold, minlength=3) + 0.5
    anchors = readout.anchors.astype(np.float64)
    out = []
    for query in features:
        if readout.distance == "kl":
            q = query - np.log(np.exp(query).sum())
            away = np.array([(np.exp(p) * (p - q)).sum() for p in anchors])
        else:
            q = query - readout.centre
            away = 1 - anchors @ q / np.linalg.norm(q)
        near = np.argsort(away)[: readout.k]
        tally = readout.smoothing * shares / shares.sum()
        for i in near:
            tally[readout.gold[i]] += np.exp(-(away[i] - away[near[0]]) / readout.temperature)
        out.append(tally / tally.sum())
    return np.array(out)


@pytest.mark.parametrize("distance", ["cosine", "kl"])
@pytest.mark.parametrize("cells", [1, 1000, 4_000_000])
def test_votes_are_the_definition_in_any_block_size(distance, cells, monkeypatch):
    monkeypatch.setattr(knn, "CELLS", cells)
    readout = fitted(distance)
    asked = rows(seed=1, count=30)[0]
    assert np.allclose(readout.probabilities(asked), slowly(readout, asked), atol=1e-5)


def test_leaving_one_out_leaves_it_out():
    anchors = fitted().anchors
    found = knn._nearest(anchors, anchors, "cosine", 79, leave_self_out=True)
    for rows_of_block, near, far in found:
        for row, numbers in zip(range(80)[rows_of_block], near, strict=True):
            assert sorted(numbers) == [i for i in range(80) if i != row]
        assert (np.diff(far, axis=1) >= 0).all()


def test_the_choice_beats_a_fixed_one_on_new_rows():
    readout = fitted(count=300)
    asked, gold = rows(seed=7, count=300)
    chosen = log_loss(readout.probabilities(asked), gold)
    assert readout.k > 1
    assert chosen < 0.7  # class shares alone: 1.1


def test_a_constant_added_to_logits_changes_nothing():
    asked = rows(seed=1, count=10)[0]
    readout = fitted("kl")
    assert np.allclose(readout.probabilities(asked), readout.probabilities(asked + 50), atol=1e-5)


def test_one_row_and_identical_rows():
    one = NearestNeighbours.fit(np.ones((1, 3)), ["a"], labels=("a", "b"))
    assert one.probabilities(np.ones((1, 3))).argmax(1).tolist() == [0]
    same = NearestNeighbours.fit(np.ones((6, 3)), list("aaaabb"), labels=("a", "b"))
    probabilities = same.probabilities(np.ones((2, 3)))
    assert np.isfinite(probabilities).all()
    assert np.array_equal(probabilities[0], probabilities[1])


def test_an_unknown_distance_is_refused():
    with pytest.raises(ConfigError, match=r"Unknown distance 'l2'(.|\n)*cosine, kl"):
        fitted("l2")
