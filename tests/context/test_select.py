"""Selectors: balance, similarity, and never the query itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.select import SELECTORS, make_selector
from sapwood.context.similarity import tokens
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Example
from sapwood.registry import resolve

LABELS = ("no", "yes", "maybe")
words = st.lists(
    st.sampled_from(["red", "green", "blue", "好", "坏", "film"]), min_size=1, max_size=3
).map(" ".join)
pools = st.lists(st.tuples(words, st.sampled_from(LABELS)), min_size=1, max_size=20).map(
    lambda rows: [Example(text=text, label=label) for text, label in rows]
)


def vectors(texts) -> np.ndarray:
    """Embed texts by their letters: equal texts, equal vectors."""
    return np.array([[text.count(c) + 0.1 for c in "redgnblu好坏film"] for text in texts])


def late(choices) -> np.ndarray:
    """Judge choices by their last place: later ones are better."""
    return np.array([-choice[-1] for choice in choices], float)


def choose(name, pool, queries, k, seed=0, labels=LABELS):
    return make_selector(name, late).select(
        pool,
        queries,
        k,
        seed,
        labels=labels,
        embeddings=vectors([example.text for example in pool]),
        query_embeddings=vectors(queries).reshape(len(queries), -1)
        if queries
        else np.empty((0, 14)),
    )


@pytest.mark.parametrize("name", SELECTORS)
@given(pool=pools, queries=st.lists(words, min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_selector_keeps_its_word(name, pool, queries, seed):
    k = 1 + seed % len(pool)
    chosen = choose(name, pool, queries, k, seed)
    assert chosen == choose(name, pool, queries, k, seed)
    assert len(chosen) == len(queries)
    if resolve("selector", SELECTORS, name).sharing == "all":
        assert len(set(chosen)) == 1
    for query, places in zip(queries, chosen, strict=True):
        assert len(set(places)) == len(places) <= k
        assert all(pool[place].text != query for place in places)
        if resolve("selector", SELECTORS, name).sharing == "query":
            usable = sum(example.text != query for example in pool)
            assert len(places) == min(k, usable)


@pytest.mark.parametrize("name", SELECTORS)
def test_case_and_spaces_do_not_hide_the_query(name):
    pool = [Example(text="Red  Film", label="no"), Example(text="green", label="yes")]
    assert choose(name, pool, [" red film"], 2) == [(1,)]


@pytest.mark.parametrize("name", SELECTORS)
def test_what_cannot_be_chosen_is_refused(name):
    pool = [Example(text="red", label="no"), Example(text="blue", label="yes")]
    with pytest.raises(ConfigError, match="Cannot choose 3 demonstrations from a pool of 2"):
        choose(name, pool, ["green"], 3)
    with pytest.raises(ConfigError, match="Cannot choose -1"):
        choose(name, pool, ["green"], -1)
    with pytest.raises(DataError, match=r"1 example\(s\) without a label(.|\n)*row 7"):
        choose(name, [Example(text="red", row=7)], ["green"], 1)
    with pytest.raises(DataError, match="'yes'"):
        choose(name, pool, ["green"], 1, labels=("no",))
    assert choose(name, pool, ["green"], 0) == [()]


@given(k=st.integers(0, 30), seed=st.integers(0, 50))
def test_stratified_is_balanced(k, seed):
    pool = [Example(text=f"t{i}", label=LABELS[i % 3]) for i in range(30)]
    (chosen,) = choose("stratified", pool, [], k, seed)
    counts = Counter(pool[place].label for place in chosen)
    assert sum(counts.values()) == k
    assert max(counts.values(), default=0) - min(counts[label] for label in LABELS) <= 1


def test_stratified_fills_up_from_labels_that_have_more():
    pool = [Example(text=f"t{i}", label="yes" if i else "no") for i in range(9)]
    (chosen,) = choose("stratified", pool, [], 6)
    assert Counter(pool[place].label for place in chosen) == {"no": 1, "yes": 5}
    assert choose("stratified", pool, ["new", "newer"], 6) == [chosen, chosen]


def test_stratified_seeds_differ_in_choice_and_order():
    pool = [Example(text=f"t{i}", label=LABELS[i % 3]) for i in range(30)]
    drawn = [choose("stratified", pool, [], 6, seed)[0] for seed in range(20)]
    assert len(set(drawn)) == 20
    assert len({tuple(pool[p].label for p in chosen) for chosen in drawn}) > 5


def test_nearest_ends_with_the_most_similar():
    pool = [Example(text=t, label="no") for t in ("east", "north", "north-east", "west")]
    nearest = resolve("selector", SELECTORS, "nearest")()
    compass = np.array([[3.0, 0.0], [0.0, 5.0], [1.0, 1.0], [-2.0, 0.0]])
    query = np.array([[0.2, 1.0]])  # north, a little east
    chosen = nearest.select(
        pool, ["?"], 3, 0, labels=("no",), embeddings=compass, query_embeddings=query
    )
    assert [pool[place].text for place in chosen[0]] == ["east", "north-east", "north"]


@pytest.mark.parametrize("shape", [None, (1, 3), (2, 4)])
def test_nearest_says_what_embeddings_it_needs(shape):
    query = None if shape is None else np.ones(shape)
    nearest = resolve("selector", SELECTORS, "nearest")()
    with pytest.raises(ConfigError, match=r"embeddings of the pool|do not fit 1 examples and 2"):
        nearest.select(
            [Example(text="a", label="no")],
            ["b", "c"],
            1,
            0,
            labels=LABELS,
            embeddings=np.ones((1, 3)),
            query_embeddings=query,
        )


def test_bm25_prefers_rare_shared_words_last():
    texts = ["the film was long", "the soup was cold", "the waiter and the soup", "a quiet hotel"]
    pool = [Example(text=text, label="no") for text in texts]
    (chosen,) = choose("bm25", pool, ["Was the WAITER rude?"], 2)
    assert chosen[-1] == 2
    (chinese,) = choose(
        "bm25",
        [Example(text=t, label="no") for t in ("房间很干净", "菜的味道不错", "快递太慢")],
        ["味道很好"],
        1,
    )
    assert chinese == (1,)


def test_bm25_without_a_shared_word_draws_by_seed():
    pool = [Example(text=f"w{i}", label="no") for i in range(10)]
    drawn = {choose("bm25", pool, ["nothing in common"], 1, seed)[0] for seed in range(30)}
    assert len(drawn) > 5
    marks = [Example(text="!!", label="no"), Example(text="??", label="yes")]
    assert len(choose("bm25", marks, ["?!"], 2)[0]) == 2


def test_tokens_of_mixed_scripts():
    assert tokens("iPhone 15很好!") == ["iphone", "15", "很", "好", "很好"]
    assert tokens("") == []


def test_a_judge_is_asked_for_by_name():
    with pytest.raises(ConfigError, match="'greedy' needs a judge") as caught:
        make_selector("greedy")
    assert caught.value.code == "E-CONFIG-110"
    assert make_selector("greedy", late).judge is late
    assert make_selector("bm25", late) == make_selector("bm25")
    with pytest.raises(ConfigError, match="Did you mean 'greedy'"):
        make_selector("greeedy", late)


def test_ten_thousand_examples_are_quick():
    rng = np.random.default_rng(0)
    pool = [Example(text=f"t{i}", label=LABELS[i % 3]) for i in range(10_000)]
    nearest = resolve("selector", SELECTORS, "nearest")()
    shown, asked = rng.normal(size=(10_000, 32)), rng.normal(size=(200, 32))
    chosen = nearest.select(
        pool,
        [f"q{i}" for i in range(200)],
        8,
        0,
        labels=LABELS,
        embeddings=shown,
        query_embeddings=asked,
    )
    cosine = (asked @ shown.T) / np.linalg.norm(shown, axis=1)
    assert [places[-1] for places in chosen] == cosine.argmax(1).tolist()
