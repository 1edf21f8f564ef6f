"""Splits: nothing crosses, nothing is lost without a reason, order does not matter."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Dropped, Example
from sapwood.tasks.card import data_card
from sapwood.tasks.columns import Columns
from sapwood.tasks.duplicates import SIMILAR, same_text, shingles, skeleton
from sapwood.tasks.readers import Table, sorted_labels
from sapwood.tasks.splits import split, unseen_labels

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def table(pairs, dropped=(), path="reviews.csv"):
    examples = tuple(Example(text=t, label=v, row=i) for i, (t, v) in enumerate(pairs, 1))
    return Table(
        examples=examples,
        columns=Columns(text="text", label="label", why="", found=("text", "label")),
        path=path,
        sha256="0" * 64,
        rows=len(examples) + sum(len(d.rows) for d in dropped),
        dropped=dropped,
        labels=sorted_labels({v for _, v in pairs}),
    )


def texts(count, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(ALPHABET, k=rng.randrange(20, 60))) for _ in range(count)]


def plain(count, labels=("no", "yes"), seed=0):
    return [(text, labels[i % len(labels)]) for i, text in enumerate(texts(count, seed))]


def sides(splits):
    return {"train": splits.train, "dev": splits.dev, "test": splits.test}


def near(one, other):
    left, right = shingles(skeleton(one)), shingles(skeleton(other))
    return len(left & right) >= SIMILAR * len(left | right)


def test_shares_and_strata():
    splits = split(table(plain(1000, ("a", "a", "a", "b"))))
    assert {name: len(part) for name, part in sides(splits).items()} == {
        "train": 650, "dev": 150, "test": 200,
    }  # fmt: skip
    for part in sides(splits).values():
        counts = Counter(e.label for e in part)
        assert abs(counts["b"] / len(part) - 0.25) < 0.01
    assert splits.dropped == ()
    assert splits.labels == ("a", "b")


@pytest.mark.parametrize(("rows", "dev"), [(100, 25), (200, 50), (400, 60), (5000, 500)])
def test_dev_sizes(rows, dev):
    assert len(split(table(plain(rows))).dev) == dev


def test_a_carved_test_is_bounded():
    splits = split(table(plain(12_000)))
    assert len(splits.test) == 2000
    assert len(splits.train) == 9500


def test_limit_is_a_stratified_cap_with_a_reason():
    source = table(plain(1000, ("a", "a", "a", "b")))
    splits = split(source, limit=100)
    assert Counter(e.label for e in splits.train) == {"a": 75, "b": 25}
    assert [(d.reason, len(d.rows)) for d in splits.dropped] == [
        ("over the limit of 100 training rows", 550)
    ]
    whole = split(source)
    assert (splits.dev, splits.test) == (whole.dev, whole.test)
    assert set(splits.train) <= set(whole.train)


def test_given_splits_are_kept_and_training_rows_give_way():
    long = "a review of many words that goes on and on about the film and its music"
    train = plain(300)
    train[0] = (long, "no")
    test = [*plain(60, seed=5), train[1], (f"{long}!", "no")]
    dev = [*plain(60, seed=6), train[2], test[0]]
    splits = split(table(train), dev=table(dev), test=table(test))
    assert len(splits.test) == 62
    assert len(splits.dev) == 61
    assert {d.reason: d.rows for d in splits.dropped} == {
        "dev: the same as a test row": (62,),
        "the same as a test row": (2,),
        "nearly a test row": (1,),
        "the same as a dev row": (3,),
    }
    assert len(splits.train) == 297
    card = data_card(table(train), splits, dev=table(dev), test=table(test))
    assert card["leakage"] == {"exact": 3, "near": 1}


def test_duplicates_and_contradictions_are_dropped_with_rows():
    pairs = plain(200)
    pairs += [pairs[0], (pairs[1][0], "no")]
    splits = split(table(pairs, dropped=(Dropped(reason="column 'text' empty", rows=(203,)),)))
    assert {d.reason: d.rows for d in splits.dropped} == {
        "column 'text' empty": (203,),
        "exact duplicate": (201,),
        "the same text with different labels": (2, 202),
    }


def test_labels_with_too_few_texts_are_all_named():
    pairs = [
        *plain(100),
        ("only one", "refund"),
        ("one", "delay"),
        ("one", "delay"),
        ("b", "delay"),
    ]
    with pytest.raises(DataError) as caught:
        split(table(pairs))
    assert str(caught.value) == (
        "E-DATA-011  reviews.csv: 2 labels have fewer than 3 distinct texts, one for each split\n"
        "  • 'refund': 1 distinct text\n"
        "  • 'delay': 2 distinct texts\n"
        "  Fix: add rows for these labels, merge them into others, or take their rows out"
    )
    enough = split(table(pairs[:100] + pairs[101:]), test=table(plain(50, seed=3)))
    assert (
        {e.label for e in enough.train} == {e.label for e in enough.dev} == {"no", "yes", "delay"}
    )


def test_labels_only_the_test_has_are_reported():
    test = [*plain(50, seed=3), ("something else", "maybe")]
    splits = split(table(plain(200)), test=table(test))
    assert unseen_labels(splits) == {"maybe": 1}
    assert splits.labels == ("maybe", "no", "yes")
    assert data_card(table(plain(200)), splits)["unseen_labels"] == {"maybe": 1}


@pytest.mark.parametrize("wrong", [{"dev_share": 0}, {"test_share": 1.5}, {"limit": 0},
                                   {"dev_share": 0.6, "test_share": 0.5}])  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(ConfigError) as caught:
        split(table(plain(100)), **wrong)
    assert caught.value.code == "E-CONFIG-021"


def test_seed_changes_the_split_and_only_the_seed_does():
    source = table(plain(300))
    assert split(source) == split(source)
    assert split(source).test != split(source, seed=1).test


WORDS = (
    "red",
    "green",
    "blue",
    "stone",
    "river",
    "cloud",
    "酒店",
    "房间",
    "干净",
    "very",
    "quite",
    "never",
)
ROWS = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), min_size=1, max_size=10), st.sampled_from("ab")),
    max_size=60,
)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(0, 3), st.booleans(), st.integers(20, 200), st.randoms())
def test_properties(rows, seed, with_test, limit, rng):
    pairs = [(" ".join(words), label) for words, label in rows] + plain(60, "ab")
    test = table(plain(20, "ab", seed=9) + pairs[:3]) if with_test else None
    source = table(pairs)
    splits = split(source, test=test, seed=seed, limit=limit)
    parts = sides(splits)

    names = list(parts)
    for i, one in enumerate(names):
        for other in names[:i]:  # no text, exact or near, on two sides
            known = {same_text(e.text) for e in parts[one]}
            assert not known & {same_text(e.text) for e in parts[other]}
            assert not any(near(a.text, b.text) for a in parts[one] for b in parts[other])

    kept = [e for part in ("train", "dev") for e in parts[part]]
    kept += [] if with_test else list(splits.test)
    gone = [row for dropped in splits.dropped for row in dropped.rows]
    assert sorted([e.row for e in kept] + gone) == [e.row for e in source.examples]
    assert len(splits.train) <= limit
    assert {e.label for e in splits.train} == {e.label for e in splits.dev} == {"a", "b"}

    shuffled = list(pairs)
    rng.shuffle(shuffled)
    again = sides(split(table(shuffled), test=test, seed=seed, limit=limit))
    for name in names:
        assert {same_text(e.text) for e in again[name]} == {same_text(e.text) for e in parts[name]}


def test_data_card_has_the_shape_of_a_report():
    pairs = plain(200)
    source = table([*pairs, pairs[0]])
    splits = split(source)
    card = data_card(source, splits, lambda batch: [len(t) // 4 for t in batch], limit=2048)
    assert (card["rows"], card["kept"]) == (201, 200)
    assert card["dropped"] == [{"reason": "exact duplicate", "count": 1, "rows": [201]}]
    assert card["labels"]["no"] == {"train": 55, "dev": 25, "test": 20}
    assert (card["lengths"]["unit"], card["lengths"]["limit"]) == ("tokens", 2048)
    assert sum(card["lengths"]["counts"]) == 200
    assert card["leakage"] == {"exact": 0, "near": 0}
    assert set(card) >= {"near_duplicates", "languages"}
