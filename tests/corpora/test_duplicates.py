"""Duplicates: exact, near, in order, over pieces, in bounded memory."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.corpora.duplicates import (
    BANDS,
    DEPTH,
    KEY,
    PERMUTATIONS,
    exact_key,
    find,
    fingerprint,
    shingles,
)


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def test_shingles_are_five_words_or_five_characters():
    assert shingles("One two, three four five six") == {
        "one two three four five",
        "two three four five six",
    }
    assert shingles("我来到北京城") == {"我 来 到 北 京", "来 到 北 京 城"}
    assert shingles("too short") == {"too short"}
    assert shingles("!!!") == {"!!!"}
    assert BANDS * DEPTH == PERMUTATIONS


def test_case_signs_and_spaces_make_no_difference():
    assert exact_key("The  cat, sat!") == exact_key("the CAT\nsat")
    assert exact_key("the cat") != exact_key("the dog")
    assert exact_key("!!!") != exact_key("???")


def test_the_first_document_stays(kit):
    a, b = kit.prose(1), kit.prose(2)
    found = find([fingerprint([a, b, a.upper(), b, a])])
    assert found.kept.tolist() == [True, True, False, False, False]
    assert found.of.tolist() == [-1, -1, 0, 1, 0]
    assert found.exact.tolist() == [False, False, True, True, True]


def changed(text: str, count: int, seed: int) -> str:
    words, rng = text.split(), random.Random(seed)
    for at in rng.sample(range(len(words)), count):
        words[at] = f"word{rng.randrange(10**6)}"
    return " ".join(words)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_near_duplicates_go_and_others_stay(kit, language):
    make = kit.prose if language == "en" else kit.chinese
    texts = [make(seed, 60) for seed in range(20)]
    near = []
    for seed, text in enumerate(texts):
        if language == "en":
            near.append(changed(text, 8, seed))
        else:
            near.append(text[:300] + "换" + text[301:700] + "字" + text[701:])
    assert min(jaccard(a, b) for a, b in zip(texts, near, strict=True)) > 0.8
    found = find([fingerprint([*texts, *near])])
    assert found.kept[:20].all()
    assert (~found.kept[20:]).sum() >= 19
    for at in np.flatnonzero(~found.kept).tolist():
        assert found.of[at] == at - 20
    assert find([fingerprint([*texts, *near])], near=False).kept.all()


def test_half_alike_is_not_near(kit):
    texts = [kit.prose(1, 60), kit.prose(1, 30) + " " + kit.prose(9, 30)]
    assert 0.2 < jaccard(*texts) < 0.6
    assert find([fingerprint(texts)]).kept.all()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=30), st.lists(st.integers(1, 7), min_size=1)
)
def test_how_documents_are_cut_into_pieces_changes_nothing(kit, seeds, cuts):
    prints = fingerprint([kit.prose(seed) for seed in seeds])
    whole = find([prints])
    pieces, at = [], 0
    while at < len(prints):
        step = cuts[len(pieces) % len(cuts)]
        pieces.append(prints[at : at + step])
        at += step
    cut = find(pieces)
    assert np.array_equal(cut.kept, whole.kept) and np.array_equal(cut.of, whole.of)
    assert whole.kept.sum() == len(set(seeds))


def test_nothing_and_one():
    assert find([]).kept.tolist() == []
    assert find([fingerprint([])]).kept.tolist() == []
    assert find([fingerprint(["one text"])]).kept.tolist() == [True]


def test_the_estimate_is_the_jaccard_overlap(kit):
    """Signatures agree in as many places as the sets overlap, within four standard errors."""
    text = kit.prose(3, 80)
    for count in (2, 10, 30):
        other = changed(text, count, count)
        prints = fingerprint([text, other])[:, KEY:]
        estimate, true = float(np.mean(prints[0] == prints[1])), jaccard(text, other)
        assert abs(estimate - true) < 4 * (true * (1 - true) / PERMUTATIONS) ** 0.5 + 0.01
