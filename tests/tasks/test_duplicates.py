"""Near duplicates: true overlap decides, in any script and any order."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.tasks.duplicates import SIMILAR, clusters, content_hash, shingles, skeleton


def overlap(one: str, other: str) -> float:
    left, right = shingles(skeleton(one)), shingles(skeleton(other))
    return len(left & right) / len(left | right)


def test_case_punctuation_and_width_do_not_count():
    texts = [
        "Great film!",
        "great  film",
        "another thing",
        "\uff27\uff32\uff25\uff21\uff34 film…",
        "很好，推荐。",
        "很好 推荐！",
    ]
    assert clusters(texts) == [[0, 1, 3], [4, 5]]


def test_short_texts_that_differ_in_a_word_stay_apart():
    assert (
        clusters(["good film", "bad film", "很好", "不好", "not good", "good", "", "!!", "?"]) == []
    )


def test_long_texts_that_differ_in_a_word_are_near():
    english = "the hotel was clean and quiet and the staff were friendly and helped us with bags"
    english += " on the day that we came and on the day that we left"
    chinese = "这家酒店的房间非常干净，服务员都很热情，早餐也很丰富，离地铁站很近，下次来还会住"
    chinese += "，价格也合适，推荐给大家，孩子也玩得很高兴"
    texts = [english, english.replace("quiet", "noisy"), chinese, chinese.replace("热情", "冷淡")]
    assert clusters(texts) == [[0, 1], [2, 3]]


def test_clusters_do_not_depend_on_order():
    rng = random.Random(0)
    stem = "abcdefghij klmnop qrstuv wxyz 0123456789 " * 2
    texts = [f"{stem[: rng.randrange(30, 80)]}{rng.randrange(50)}" for _ in range(200)]
    expected = {frozenset(texts[i] for i in group) for group in clusters(texts)}
    for _ in range(3):
        rng.shuffle(texts)
        assert {frozenset(texts[i] for i in group) for group in clusters(texts)} == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(("red", "green", "blue", *"很好的酒店")), min_size=1, max_size=9),
        max_size=14,
    )
)
def test_all_pairs_above_the_threshold_are_joined(word_lists):
    texts = [" ".join(words) for words in word_lists]
    member = {i: number for number, group in enumerate(clusters(texts)) for i in group}
    for i in range(len(texts)):
        for j in range(i):
            if overlap(texts[i], texts[j]) >= SIMILAR:
                assert member[i] == member[j]
    for group in clusters(texts):
        for i in group:  # chained: each has a neighbour in its own group
            assert any(overlap(texts[i], texts[j]) >= SIMILAR for j in group if j != i)


def test_thousands_of_copies_take_no_quadratic_time():
    texts = [f"the same advertisement with a number at its end {i}" for i in range(5000)]
    start = time.perf_counter()
    assert [len(group) for group in clusters(texts)] == [5000]
    assert time.perf_counter() - start < 8  # 0.4 s on one quiet core


@pytest.mark.parametrize("text", ["a  b", " a b\n"])
def test_content_hash_ignores_white_space(text):
    assert content_hash(text) == content_hash("a b") != content_hash("a b", seed=1)
