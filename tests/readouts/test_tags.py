"""Tags: only valid sequences, spans with the probability of all paths that hold them."""

from __future__ import annotations

import json
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ConfigError
from sapwood.readouts import READOUTS
from sapwood.readouts.scheme import Scheme
from sapwood.readouts.tags import Tags, barred
from sapwood.registry import resolve

SCHEME = Scheme(
    heads=("PER", "LOC"),
    asked={"PER": (">role",)},
    means={"PER": (("PER", "PER"),), "LOC": (("LOC", "LOC"),), ">role": (("", "role"),)},
)


def tags(seed: int = 0, transitions: str = "learnt") -> Tags:
    made = Tags.start(SCHEME, 8, transitions=transitions, seed=seed)
    size = len(made.labels) + 1
    rng = np.random.default_rng(seed)
    between = rng.normal(size=(size, size)).astype(np.float32) if transitions == "learnt" else None
    return Tags(
        labels=made.labels, weight=made.weight, bias=made.bias, scheme=SCHEME,
        transitions=transitions, between=between,
    )  # fmt: skip


def valid(path: tuple[str, ...]) -> bool:
    return all(
        tag[:2] != "I-" or before[1:] == tag[1:]
        for before, tag in zip(("O", *path), path, strict=False)
    )


def spans(path: tuple[str, ...]) -> set[tuple[int, int, str]]:
    found, start = set(), None
    for n, tag in enumerate([*path, "O"]):
        if start is not None and tag[:2] != "I-":
            found.add((start, n, path[start][2:]))
            start = None
        if tag[:2] == "B-":
            start = n
    return found


@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 4),
    second=st.booleans(),
    transitions=st.sampled_from(["valid", "learnt"]),
)
@settings(max_examples=30, deadline=None)
def test_spans_are_those_of_the_best_valid_path(seed, length, second, transitions):
    made = tags(seed, transitions)
    allowed = made.scheme.allowed(
        next(q for q, _ in SCHEME.questions(0, 1, "PER")) if second else None
    )
    logits = torch.randn(length, len(made.labels), generator=torch.Generator().manual_seed(seed))
    between = np.zeros((8, 8)) if made.between is None else made.between.astype(float)
    scores = {}
    for path in product(allowed, repeat=length):
        names = tuple(made.labels[n] for n in path)
        if valid(names):
            steps = [7, *path, 7]
            scores[names] = sum(float(logits[n, tag]) for n, tag in enumerate(path)) + sum(
                between[a, b] for a, b in pairwise(steps)
            )
    best = max(scores, key=scores.__getitem__)
    weights = torch.tensor(list(scores.values()), dtype=torch.double).softmax(0).tolist()
    found = made.found([logits], [allowed])[0]
    assert {(f.start, f.end, f.kind) for f in found} == spans(best)
    for one in found:
        holding = sum(
            weight
            for path, weight in zip(scores, weights, strict=True)
            if (one.start, one.end, one.kind) in spans(path)
        )
        assert one.probability == pytest.approx(holding, abs=1e-6)


@given(seed=st.integers(0, 1_000), lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_sequences_of_a_batch_are_read_each_by_itself(seed, lengths):
    made = tags(seed)
    make = torch.Generator().manual_seed(seed)
    logits = [torch.randn(n, len(made.labels), generator=make) for n in lengths]
    asks = [None, next(q for q, _ in SCHEME.questions(0, 1, "PER"))]
    allowed = [made.scheme.allowed(asks[n % 2]) for n in range(len(lengths))]
    together = made.found(logits, allowed)
    for n in range(len(lengths)):
        alone = made.found(logits[n : n + 1], allowed[n : n + 1])[0]
        assert [(f.start, f.end, f.kind) for f in alone] == [
            (f.start, f.end, f.kind) for f in together[n]
        ]
        for one, other in zip(alone, together[n], strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-9)


def test_a_long_text_keeps_its_probabilities():
    made = tags(1)
    logits = 20 * torch.randn(3_000, len(made.labels), generator=torch.Generator().manual_seed(1))
    found = made.found([logits], [made.scheme.allowed(None)])[0]
    assert len(found) > 500
    assert all(0 < one.probability <= 1 for one in found)
    assert max(one.probability for one in found) > 0.99


def test_what_may_follow_what():
    wrong = barred(("O", "B-x", "I-x", "B-y", "I-y"))
    assert wrong[0].tolist() == [False, False, True, False, True, False]
    assert wrong[1].tolist() == [False, False, False, False, True, False]
    assert wrong[2].tolist() == [False, False, False, False, True, False]
    assert wrong[5].tolist() == [False, False, True, False, True, False]  # at the start


@pytest.mark.parametrize("transitions", ["valid", "learnt"])
def test_saved_and_rebuilt_is_the_same(transitions):
    made = tags(2, transitions)
    settings_, arrays = made.state()
    stored = {k: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for k, a in arrays.items()}
    again = resolve("readout", READOUTS, "tags").from_state(
        json.loads(json.dumps(settings_)), stored
    )
    assert again.scheme == made.scheme
    assert again.labels == made.labels
    assert again.reads == "states"
    assert ("between" in arrays) is (transitions == "learnt")
    logits = [torch.randn(6, len(made.labels), generator=torch.Generator().manual_seed(0))]
    allowed = [made.scheme.allowed(None)]
    assert made.found(logits, allowed) == again.found(logits, allowed)
    states = np.random.default_rng(0).normal(size=(4, 8))
    assert np.array_equal(made.probabilities(states), again.probabilities(states))


def test_unknown_transitions_are_refused():
    with pytest.raises(ConfigError) as error:
        Tags.start(SCHEME, 8, transitions="learned")
    assert "Did you mean 'learnt'?" in error.value.what
