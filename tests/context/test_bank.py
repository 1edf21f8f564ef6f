"""The bank: medoids that no swap improves, balanced groups, routes that fit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context import bank
from sapwood.context.bank import Bank, build_bank, compact, medoids, route
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Example

LABELS = ("no", "yes")


def distances(seed: int, size: int) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(size, 3))
    return np.linalg.norm(points[:, None] - points, axis=2)


def cost(matrix, chosen) -> float:
    return sum(min(matrix[row, c] for c in chosen) for row in range(len(matrix)))


@given(seed=st.integers(0, 999), size=st.integers(1, 14), count=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_medoids_are_a_minimum_that_no_swap_improves(seed, size, count):
    matrix, count = distances(seed, size), min(count, size)
    start = np.random.default_rng(seed).permutation(size)[:count].tolist()
    for found in (medoids(matrix, count), medoids(matrix, count, start)):
        assert len(set(found)) == count
        for place in range(count):
            for row in set(range(size)) - set(found):
                swapped = [*found[:place], row, *found[place + 1 :]]
                assert cost(matrix, found) <= cost(matrix, swapped) + 1e-6
    assert cost(matrix, medoids(matrix, count, start)) <= cost(matrix, start) + 1e-9


def clusters(sizes=(30, 20, 10), width=8, seed=0):
    """Points around as many directions as sizes, every fourth labelled yes."""
    rng = np.random.default_rng(seed)
    centres = np.eye(width)[: len(sizes)]
    vectors = np.concatenate(
        [c + 0.1 * rng.normal(size=(n, width)) for c, n in zip(centres, sizes, strict=True)]
    )
    kind = np.repeat(np.arange(len(sizes)), sizes)
    pool = [
        Example(text=f"kind {k} number {i}", label="no" if i % 4 else "yes")
        for i, k in enumerate(kind)
    ]
    return pool, vectors, kind


def test_groups_are_the_kinds_the_largest_first():
    pool, vectors, kind = clusters()
    groups = build_bank(pool, 6, 3, 0, labels=LABELS, embeddings=vectors)
    assert [kind[g[0]] for g in groups] == [0, 1, 2]
    for group in groups[:2]:
        assert {kind[i] for i in group} == {kind[group[0]]}
        assert Counter(pool[i].label for i in group) == {"no": 3, "yes": 3}
    counts = Counter(pool[i].label for i in groups[2])  # only two of ten are labelled yes
    assert counts == {"no": 3, "yes": 3}
    assert sum(kind[i] == 2 for i in groups[2]) == 5


def test_members_are_the_nearest_of_their_label():
    pool, vectors, _ = clusters(sizes=(40,))
    (group,) = build_bank(pool, 4, 1, 0, labels=LABELS, embeddings=vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = unit @ unit[group[0]]
    assert alike.sum() == pytest.approx((unit @ unit.T).sum(1).max())  # the medoid
    for label in LABELS:
        rows = [i for i, e in enumerate(pool) if e.label == label and i != group[0]]
        shown = [i for i in group[1:] if pool[i].label == label]
        assert shown == sorted(rows, key=lambda i: -alike[i])[: len(shown)]


def test_queries_go_to_their_kind_and_share_its_context():
    pool, vectors, kind = clusters()
    queries = [f"new {i}" for i in range(6)]
    asked = np.eye(8)[[0, 2, 1, 0, 2, 1]]
    chosen = Bank(contexts=3).select(
        pool, queries, 4, 0, labels=LABELS, embeddings=vectors, query_embeddings=asked
    )
    assert [kind[c[0]] for c in chosen] == [0, 2, 1, 0, 2, 1]
    assert chosen[:3] == chosen[3:]


def test_a_query_in_the_pool_is_in_no_group():
    pool, vectors, _ = clusters()
    medoid = build_bank(pool, 4, 3, 0, labels=LABELS, embeddings=vectors)[0][0]
    query = pool[medoid].text.upper() + "  "
    (chosen,) = Bank(contexts=3).select(
        pool, [query], 4, 0, labels=LABELS,
        embeddings=vectors, query_embeddings=vectors[medoid : medoid + 1],
    )  # fmt: skip
    assert medoid not in chosen
    assert len(chosen) == 4


CHINESE = [
    *("房间很干净舒服", "酒店房间干净", "房间又大又干净", "酒店的房间不舒服", "房间很舒服"),
    *("菜的味道不错", "这菜味道太咸", "味道好菜也新鲜", "菜的味道很好", "味道一般的菜"),
]


def test_without_an_encoder_chinese_goes_by_its_characters():
    pool = [Example(text=text, label=LABELS[i % 2]) for i, text in enumerate(CHINESE)]
    chosen = Bank(contexts=2).select(
        pool, ["干净的酒店", "好吃的味道", "干净房间"], 4, 0, labels=LABELS
    )
    assert [c[0] < 5 for c in chosen] == [True, False, True]
    assert chosen[0] == chosen[2]
    assert all({i < 5 for i in c} == {c[0] < 5} for c in chosen)


def test_route_without_words_in_common_takes_the_first_group():
    assert route(["red film", "blue hotel"], ["a BLUE sky", "nothing", "red"]).tolist() == [1, 0, 0]
    near = route(["", ""], ["", ""], np.eye(2), np.array([[0.1, 3.0], [1.0, 0.2]]))
    assert near.tolist() == [1, 0]
    assert route(["a"], []).shape == (0,)


def test_copies_do_not_make_two_groups():
    pool = [Example(text=t, label="no") for t in ("red film", "Red  Film", "red film", "blue")]
    groups = build_bank(pool, 1, 3, 0, labels=LABELS)
    assert len(groups) == 2
    assert {pool[g[0]].text for g in groups} == {"red film", "blue"}


def test_a_large_pool_is_sampled(monkeypatch):
    monkeypatch.setattr(bank, "SAMPLE", 20)
    seen = []
    monkeypatch.setattr(bank, "medoids", lambda d, n: seen.append(d.shape) or medoids(d, n))
    pool, vectors, kind = clusters(sizes=(400, 300, 300))
    groups = build_bank(pool, 4, 3, 0, labels=LABELS, embeddings=vectors)
    assert seen == [(20, 20)]
    assert sorted(kind[g[0]] for g in groups) == [0, 1, 2]


def test_compact_keeps_only_what_is_shown():
    pool, vectors, _ = clusters()
    groups = build_bank(pool, 4, 3, 0, labels=LABELS, embeddings=vectors)
    used, places = compact(groups)
    assert [tuple(used[i] for i in group) for group in places] == list(groups)
    assert len(set(used)) == len(used)


def test_empty_banks_are_refused():
    pool, vectors, _ = clusters()
    for k, contexts in ((0, 3), (3, 0)):
        with pytest.raises(ConfigError, match=f"{contexts} contexts of {k} demonstrations"):
            build_bank(pool, k, contexts, 0, labels=LABELS, embeddings=vectors)
    with pytest.raises(ConfigError, match="Cannot choose 61 demonstrations from a pool of 60"):
        build_bank(pool, 61, 2, 0, labels=LABELS, embeddings=vectors)
    with pytest.raises(ConfigError, match="do not fit 60"):
        build_bank(pool, 2, 2, 0, labels=LABELS, embeddings=vectors[:5])
    with pytest.raises(DataError, match="without a label"):
        build_bank([Example(text="a", row=3)], 1, 1, 0, labels=LABELS)
