"""Which pieces make up an epoch: nothing lost, nothing doubled, few documents cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.objectives.layouts import best_fit, packed, single
from sapwood.objectives.windows import Measure


def slow_best_fit(sizes, capacity):
    """Best fit, largest first, one item at a time: what is left of each bin, sorted."""
    left = []
    for size in sorted(sizes, reverse=True):
        fitting = [(room, n) for n, room in enumerate(left) if room >= size]
        if fitting:
            n = min(fitting)[1]
            left[n] -= size
        else:
            left.append(capacity - size)
    return sorted(left)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), capacity=st.integers(1, 40))
def test_best_fit_is_that_of_one_item_at_a_time(data, capacity):
    sizes = data.draw(st.lists(st.integers(1, capacity), max_size=80))
    places = best_fit(np.array(sizes, dtype=np.int64), capacity)
    held = np.bincount(places, weights=np.array(sizes, dtype=float)).astype(int)
    assert (held > 0).all()
    assert sorted((capacity - held).tolist()) == slow_best_fit(sizes, capacity)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=40),
    room=st.integers(2, 30),
    overhead=st.integers(0, 5),
    tail=st.integers(0, 1),
    move=st.booleans(),
    alone=st.booleans(),
)
def test_every_token_is_in_one_example(lengths, room, overhead, tail, move, alone):
    measure = Measure(capacity=room + overhead, overhead=overhead, tail=tail)
    rng = np.random.default_rng(len(lengths))
    sizes = np.array(lengths)
    if alone:
        layout = single(sizes, measure, rng, move=move, least=2)
        assert np.diff(layout.offsets).tolist() == [1] * len(layout)
    else:
        layout = packed(sizes, measure, rng, move=move)
        assert not layout.lost
    seen = [np.zeros(n + tail if n else 0, dtype=int) for n in lengths]
    for d, start, end in zip(layout.documents, layout.starts, layout.ends, strict=True):
        assert 0 <= start < end <= len(seen[d])
        assert end - start <= room
        seen[d][start:end] += 1
    short = sum(n for n in lengths if n == 1) if alone else 0
    assert sum(layout.lost.values()) == short
    for n, each in zip(lengths, seen, strict=True):
        assert (each == (0 if alone and n == 1 else 1)).all()
    for low, high in zip(layout.offsets[:-1], layout.offsets[1:], strict=True):
        assert (layout.ends - layout.starts + overhead)[low:high].sum() <= room + overhead


def test_documents_are_whole_where_they_fit(rng):
    lengths = rng.integers(1, 300, size=3000)
    layout = packed(lengths, Measure(capacity=128, overhead=2), rng, move=False)
    pieces = np.bincount(layout.documents)
    assert (pieces[lengths <= 126] == 1).all()
    assert (pieces == -(-lengths // 126)).all()
    whole = lengths.sum() + 2 * len(layout.documents)
    assert whole / (128 * len(layout)) > 0.99


def test_long_documents_alone_are_cut_evenly(rng):
    layout = single(np.array([1000]), Measure(capacity=300, overhead=0), rng, move=False, least=2)
    assert sorted((layout.ends - layout.starts).tolist()) == [250] * 4
    for _ in range(50):
        moved = single(
            np.array([301, 1000]), Measure(capacity=300, overhead=0), rng, move=True, least=2
        )
        assert (moved.ends - moved.starts).min() >= 125


def test_epochs_cut_at_other_places(rng):
    measure = Measure(capacity=50, overhead=0)
    cuts = set()
    for _ in range(30):
        layout = packed(np.array([1000]), measure, rng, move=True)
        cuts.add(int(np.sort(layout.ends)[0]))
    assert len(cuts) > 15
    assert sorted(packed(np.array([1000]), measure, rng, move=False).ends)[0] == 50


def test_examples_come_in_another_order_every_time(rng):
    orders = [
        packed(np.arange(1, 200), Measure(capacity=256, overhead=2), rng, move=False).documents
        for _ in range(2)
    ]
    assert orders[0].tolist() != orders[1].tolist()
    assert sorted(orders[0].tolist()) == list(range(199))
