"""Chains against all their paths, one by one."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.readouts.chain import NEVER, Chain


def drawn(seed: int, lengths: list[int], labels: int, *, barred: bool = True) -> Chain:
    """Return a random chain; some steps are barred, none of them from or to the first label."""
    make = torch.Generator().manual_seed(seed)
    rows = len(lengths)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.double)

    pairs = normal(rows, labels, labels)
    if barred:
        closed = torch.rand(rows, labels, labels, generator=make) < 0.3
        closed[:, 0], closed[:, :, 0] = False, False
        pairs = pairs.masked_fill(closed, NEVER)
    return Chain(
        emissions=normal(rows, max(lengths), labels),
        starts=normal(rows, labels),
        pairs=pairs,
        ends=normal(rows, labels),
        lengths=torch.tensor(lengths),
    )


def paths(chain: Chain, row: int) -> dict[tuple[int, ...], float]:
    """Return the score of every path of a row, added up by hand."""
    length, labels = int(chain.lengths[row]), chain.starts.shape[1]
    found = {}
    for path in product(range(labels), repeat=length):
        score = chain.starts[row, path[0]] + chain.ends[row, path[-1]]
        for step, label in enumerate(path):
            score = score + chain.emissions[row, step, label]
            if step:
                score = score + chain.pairs[row, path[step - 1], label]
        found[path] = float(score)
    return found


@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    labels=st.integers(1, 4),
)
@settings(max_examples=30, deadline=None)
def test_total_score_and_best_are_those_of_all_paths(seed, lengths, labels):
    chain = drawn(seed, lengths, labels)
    best = chain.best()
    total = chain.total()
    for row in range(len(lengths)):
        scores = paths(chain, row)
        every = torch.logsumexp(torch.tensor(list(scores.values()), dtype=torch.double), 0)
        assert float(total[row]) == pytest.approx(float(every), abs=1e-9)
        assert tuple(best[row]) == max(scores, key=scores.__getitem__)
        asked = list(scores)[seed % len(scores)]
        given = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        given[row, : len(asked)] = torch.tensor(asked)
        assert float(chain.score(given)[row]) == pytest.approx(scores[asked], abs=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_forward_and_backward_give_the_share_of_paths_through_each_label(seed):
    lengths = [4, 2]
    chain = drawn(seed, lengths, 3)
    through = (chain.forward() + chain.backward() - chain.total()[:, None, None]).exp()
    for row, length in enumerate(lengths):
        scores = paths(chain, row)
        weights = torch.tensor(list(scores.values()), dtype=torch.double).softmax(0)
        for step in range(length):
            for label in range(3):
                held = torch.tensor([path[step] == label for path in scores])
                assert float(through[row, step, label]) == pytest.approx(
                    float(weights[held].sum()), abs=1e-9
                )


def test_padding_changes_nothing():
    chain = drawn(3, [2, 5], 3)
    alone = Chain(
        emissions=chain.emissions[:1, :2],
        starts=chain.starts[:1],
        pairs=chain.pairs[:1],
        ends=chain.ends[:1],
        lengths=chain.lengths[:1],
    )
    assert chain.best()[0] == alone.best()[0]
    assert float(chain.total()[0]) == pytest.approx(float(alone.total()[0]), abs=1e-12)


def test_the_gradient_of_the_total_is_the_share_of_each_label():
    chain = drawn(4, [3, 4], 3)
    chain.emissions.requires_grad_(True)
    chain.total().sum().backward()
    with torch.no_grad():
        share = (chain.forward() + chain.backward() - chain.total()[:, None, None]).exp()
    share[0, 3:] = 0  # padding
    assert torch.isfinite(chain.emissions.grad).all()
    torch.testing.assert_close(chain.emissions.grad, share)
