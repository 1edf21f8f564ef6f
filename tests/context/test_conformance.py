"""What every member of every table of in-context learning must do: a new line is tested by itself.

Selectors, orders, scorers, biases and readouts meet here because their words have one meaning each:
a demonstration is never the query, a seed gives one choice, labels have no order of their own, a
shift has no level of its own, and what is approximate says so.
"""

from __future__ import annotations

from dataclasses import is_dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.context.order import ORDERS, permutations, shared_tokens, spread
from sapwood.context.prompter import Context, Prompter
from sapwood.context.select import SELECTORS, make_selector
from sapwood.context.template import default_template
from sapwood.errors import ConfigError
from sapwood.interfaces import Example
from sapwood.models.blocks import Blocks
from sapwood.models.channel import channel_scores
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.readouts import READOUTS
from sapwood.readouts.bias import BIASES
from sapwood.readouts.verbalizer import SCORERS, divided, label_lengths
from sapwood.registry import resolve
from sapwood.testing import tiny_net

LABELS = ("no", "yes", "maybe")
UNJUDGED = [name for name in ORDERS if not resolve("order", ORDERS, name).judged]
JUDGED = [name for name in ORDERS if name not in UNJUDGED]

texts = st.lists(
    st.sampled_from(["red", "Green", "blue", "好", "坏", "film"]), min_size=1, max_size=3
).map(" ".join)
pools = st.lists(st.tuples(texts, st.sampled_from(LABELS)), min_size=1, max_size=14).map(
    lambda rows: [Example(text=text, label=label) for text, label in rows]
)
score_seeds = st.integers(0, 9999)
label_orders = st.permutations(range(3))


def vectors(some) -> np.ndarray:
    """Embed texts by their letters: equal texts, equal vectors."""
    counts = [[text.lower().count(c) + 0.1 for c in "redgnblu好坏film"] for text in some]
    return np.array(counts).reshape(len(some), 14)


def judge(choices) -> np.ndarray:
    """Judge choices by nothing but their places."""
    return np.array([sum((n + 1) * p for n, p in enumerate(choice)) % 7 for choice in choices])


def choose(name, pool, queries, k, seed):
    return make_selector(name, judge).select(
        pool, queries, k, seed, labels=LABELS,
        embeddings=vectors([e.text for e in pool]), query_embeddings=vectors(queries),
    )  # fmt: skip


def same(text: str) -> str:
    return " ".join(text.casefold().split())


# Selectors


@pytest.mark.parametrize("name", SELECTORS)
@given(pool=pools, queries=st.lists(texts, min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_no_demonstration_is_the_query_and_a_seed_gives_one_choice(name, pool, queries, seed):
    queries = [f"  {query.upper()} " if n % 2 else query for n, query in enumerate(queries)]
    k = 1 + seed % len(pool)
    state = np.random.get_state()[1].copy()  # the global one, to see it unused
    chosen = choose(name, pool, queries, k, seed)
    assert choose(name, pool, queries, k, seed) == chosen
    assert np.array_equal(np.random.get_state()[1], state)
    shared = resolve("selector", SELECTORS, name).sharing != "query"
    for query, places in zip(queries, chosen, strict=True):
        hidden = {same(q) for q in queries} if shared else {same(query)}
        assert not hidden & {same(pool[place].text) for place in places}
        assert len(set(places)) == len(places) <= k
        assert all(0 <= place < len(pool) for place in places)


@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_say_who_shares_and_what_they_need(name):
    family = resolve("selector", SELECTORS, name)
    assert is_dataclass(family)
    assert family.__dataclass_params__.frozen
    assert family.sharing in ("all", "group", "query")
    pool = [Example(text=f"red {i}", label=LABELS[i % 3]) for i in range(30)]
    queries = [f"{word} {i}" for i in range(40, 52) for word in ("film", "blue", "green", "坏")]
    different = len(set(choose(name, pool, queries, 4, 0)))
    assert different <= {"all": 1, "group": 4, "query": len(queries)}[family.sharing]
    plain = make_selector(name, judge)
    if family.needs == "embeddings":
        with pytest.raises(ConfigError, match="needs embeddings"):
            plain.select(pool, queries, 4, 0, labels=LABELS)
    else:
        assert family.needs in ("nothing", "judge")
        assert len(plain.select(pool, queries, 4, 0, labels=LABELS)) == len(queries)
    if family.needs == "judge":
        with pytest.raises(ConfigError, match="needs a judge"):
            make_selector(name)


@pytest.mark.parametrize("name", SELECTORS)
@given(pool=pools, order=label_orders, seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_labels_named_in_another_order_are_as_many_demonstrations(name, pool, order, seed):
    k = 1 + seed % len(pool)
    found = [
        make_selector(name, judge).select(
            pool, ["new"], k, seed, labels=labels,
            embeddings=vectors([e.text for e in pool]), query_embeddings=vectors(["new"]),
        )
        for labels in (LABELS, tuple(LABELS[i] for i in order))
    ]  # fmt: skip
    assert [len(choice) for choice in found[0]] == [len(choice) for choice in found[1]] == [k]
    if resolve("selector", SELECTORS, name).sharing != "all":  # similarity knows no labels' order
        assert set(found[0][0]) == set(found[1][0])


# Orders


@pytest.mark.parametrize("name", UNJUDGED)
@given(shown=st.lists(texts, max_size=6), queries=st.lists(texts, max_size=4), embed=st.booleans())
@settings(max_examples=40, deadline=None)
def test_unjudged_orders_move_and_lose_nothing(name, shown, queries, embed):
    given_ = {"embeddings": vectors(shown), "query_embeddings": vectors(queries)} if embed else {}
    rule = resolve("order", ORDERS, name)()
    places = rule.arrange(shown, queries, **given_)
    assert sorted(places) == list(range(len(shown)))
    assert rule.arrange(shown, queries, **given_) == places


@pytest.mark.parametrize("name", JUDGED)
@given(seed=score_seeds, order=label_orders)
@settings(max_examples=40, deadline=None)
def test_judged_orders_know_neither_levels_nor_the_order_of_labels(name, seed, order):
    rng = np.random.default_rng(seed)
    scores, gold = rng.normal(size=(6, 8, 3)), rng.integers(0, 3, 8)
    rule = resolve("order", ORDERS, name)()
    values = rule.values(scores, gold)
    assert values.shape == (6,)
    moved = rule.values(scores[..., order], np.argsort(order)[gold])
    np.testing.assert_allclose(moved, values, atol=1e-9)
    lifted = rule.values(scores + rng.normal(size=(6, 8, 1)), gold)
    np.testing.assert_allclose(lifted, values, atol=1e-9)
    swapped = rng.permutation(6)
    np.testing.assert_allclose(rule.values(scores[swapped], gold), values[swapped], atol=1e-12)
    if not rule.needs_gold:
        np.testing.assert_array_equal(rule.values(scores), values)


@pytest.mark.parametrize("name", JUDGED)
def test_of_equal_orders_the_first_is_best(name):
    scores = np.repeat(np.random.default_rng(0).normal(size=(1, 5, 3)), 6, axis=0)
    values = resolve("order", ORDERS, name)().values(scores, np.arange(5) % 3)
    assert spread(name, permutations(3), values).best == (0, 1, 2)


# Biases


@pytest.mark.parametrize("name", BIASES)
@given(seed=score_seeds, order=label_orders)
@settings(max_examples=40, deadline=None)
def test_a_bias_sums_to_zero_and_permuting_labels_permutes_scores(name, seed, order):
    rng = np.random.default_rng(seed)
    scores, gold = 3 * rng.normal(size=(9, 3)), rng.integers(0, 3, 9)
    found = BIASES[name].fit(scores, gold, np.ones(3))
    assert BIASES[name].name == name
    assert found.shift.sum() == pytest.approx(0, abs=1e-9)
    moved = BIASES[name].fit(scores[:, order], np.argsort(order)[gold], np.ones(3))
    np.testing.assert_allclose(
        moved.apply(scores[:, order]), found.apply(scores)[:, order], atol=1e-5
    )
    again = BIASES[name].fit(scores, gold, np.ones(3))
    assert np.array_equal(again.shift, found.shift)


# Scorers, on a tiny net


@pytest.fixture(scope="module")
def reading(tiny_tokenizer):
    """Return a function that scores texts by a scorer for labels in a given order."""
    decoder = Decoder(tiny_net("llama"))
    shown = (
        Example(text="an awful film", label="no", row=1),
        Example(text="a lovely film", label="yes", row=2),
    )
    template = default_template(LABELS, [e.text for e in shown])
    context = Context(template=template, demonstrations=shown, shots=2)

    def score(name: str, labels) -> np.ndarray:
        prompter = Prompter(tiny_tokenizer, context, channel=SCORERS[name].channel)
        queries = ["a dull plot", "the cast was lovely", "sea"]
        if SCORERS[name].channel:
            rows = prompter.channel_rows(queries, labels)
            return channel_scores(decoder, rows, decoder.encode(prompter.prefix))
        prompts, ids = prompter.rest(queries), prompter.labels(labels)
        scores = decoder.label_scores(prompts, build_trie(ids), decoder.encode(prompter.prefix))
        words = [template.words[label] for label in labels]
        return divided(scores, label_lengths(words, ids, SCORERS[name].length))

    return score


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_permuting_labels_permutes_the_scores_of_a_net(name, order, reading):
    assert SCORERS[name].name == name
    scores = reading(name, LABELS)
    assert (scores < 0).all()
    assert np.ptp(scores, axis=1).min() > 1e-3
    moved = reading(name, tuple(LABELS[i] for i in order))
    np.testing.assert_allclose(moved, scores[:, list(order)], atol=1e-4)
    np.testing.assert_array_equal(reading(name, LABELS), scores)


# Readouts


def fitted(name: str, labels, seed: int):
    """Return (readout, inputs) of thirty rows in two tongues; `labels` only name the columns."""
    rng = np.random.default_rng(seed)
    index = np.arange(30) % 3
    gold = [LABELS[i] for i in index]
    family = resolve("readout", READOUTS, name)
    columns = [LABELS.index(label) for label in labels]
    scores = (rng.normal(size=(30, 3)) + 2 * np.eye(3)[index])[:, columns]
    if name == "verbalizer":
        bias = BIASES["labels"].fit(scores, np.argsort(columns)[index])
        return family(labels=labels, bias=bias), scores
    words = [f"{('dull', 'lovely', 'plain')[i]} {rng.integers(9)} 电影" for i in index]
    features = rng.normal(size=(30, 8)) + 2 * np.eye(3, 8)[index]
    inputs = words if name in ("majority", "tf-idf") else features
    return family.fit(inputs, gold, labels=labels, seed=3), inputs


# the others have an order of their own, or none
NO_CLASSIFIERS = ("sigmoid", "label-grams", "tags", "dictionary", "n-gram", "generate")
CLASSIFIERS = [name for name in READOUTS if name not in NO_CLASSIFIERS]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2)])
def test_permuting_labels_permutes_the_columns_of_a_readout(name, order):
    readout, inputs = fitted(name, LABELS, 0)
    found = readout.probabilities(inputs)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
    moved, same_inputs = fitted(name, tuple(LABELS[i] for i in order), 0)
    np.testing.assert_allclose(moved.probabilities(same_inputs), found[:, list(order)], atol=1e-4)
    again, _ = fitted(name, LABELS, 0)
    np.testing.assert_array_equal(again.probabilities(inputs), found)


# What is approximate


def test_approximate_modes_say_so():
    template = default_template(LABELS, ["a film"])
    shown = (Example(text="a film", label="no", row=1),)
    for encoding, said in (("exact", False), ("blocks", True)):
        context = Context(template=template, demonstrations=shown, shots=1, encoding=encoding)
        assert ("approximate" in context.describe()) is said
    decoder = Decoder(tiny_net("llama"))
    assert decoder.encode([5, 6, 7]).exact
    assert not Blocks(decoder, [5]).prefix([[6, 7], [8, 9]]).exact


def test_sorted_orders_save_what_the_decoder_then_reuses():
    """The tokens that `shared_tokens` promises are those the prefix cache does not run again."""
    pieces = [[11, 12, 13], [21, 22], [31, 32, 33, 34], [41]]
    orders = permutations(4, 12, seed=1)
    saved, total = shared_tokens(orders, [len(piece) for piece in pieces])
    decoder = Decoder(tiny_net("llama"))
    for order in orders:
        decoder.encode([token for place in order for token in pieces[place]])
    assert decoder.tokens_reused == saved
    assert decoder.tokens_run == total - saved
