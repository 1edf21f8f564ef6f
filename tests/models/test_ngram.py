"""N-gram models: modified Kneser-Ney against lmplz's figures and a slow reading of the paper."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import DataError, ModelError
from sapwood.models.choosing import Sampling
from sapwood.models.continuing import continued, continuing
from sapwood.models.counting import Symbols
from sapwood.models.ngram import (
    NGram,
    count_and_smooth,
    is_ngram,
    load,
    sequences_in,
    sequences_of,
    tokenizer_in,
)
from sapwood.models.smoothing import FALLBACK, discounts

UNK, BOS, EOS = 0, 1, 2


def counted(texts, order, *, size, closed=True, block=1 << 22):
    """Return the model of texts of token ids."""
    symbols = Symbols(size=size, bos=BOS, eos=EOS, unk=UNK)
    steps = count_and_smooth(
        sequences_in(iter(texts), size=block), order=order, symbols=symbols, closed=closed,
        block=block,
    )  # fmt: skip
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def numbered(texts, words=None):
    """Return texts of words as ids, and the words."""
    words = list(words or ["<unk>", "<s>", "</s>"])
    known = {word: n for n, word in enumerate(words)}
    found = []
    for text in texts:
        for word in text.split():
            if word not in known:
                known[word] = len(words)
                words.append(word)
        found.append([known[word] for word in text.split()])
    return found, words


def sentences(count, seed):
    """Return sentences of a small grammar, whose words are as unequal as those of a language."""
    rng = random.Random(seed)
    nouns, verbs = [f"n{k}" for k in range(300)], [f"v{k}" for k in range(120)]

    def drawn(words):
        return rng.choices(words, [1 / (k + 1) for k in range(len(words))])[0]

    made = []
    for _ in range(count):
        words = ["the", drawn(nouns), drawn(verbs)]
        if rng.random() < 0.6:
            words += ["a" if rng.random() < 0.5 else "the", drawn(nouns)]
        if rng.random() < 0.3:
            words += ["and", *rng.choices(nouns, k=rng.randint(1, 3))]
        made.append(" ".join(words))
    return made


# What lmplz and query of KenLM 0.3.0 print for sentences(400, 1) and sentences(30, 2): discounts of
# each order, perplexity with and without words never seen.
LMPLZ = {
    3: (
        [(0.447447, 1.19751, 2.44679), (0.789116, 1.27452, 2.16935), (0.870968, 1.32165, 1.32258)],
        (334, 1129, 1579), 27.85232162966331,
    ),
    4: (
        [(0.447447, 1.19751, 2.44679), (0.789116, 1.27452, 2.16935), (0.914626, 1.19298, 1.35367),
         (0.945501, 1.34035, 0.730798)],
        (334, 1129, 1579, 1554), 27.811481437410748,
    ),
}  # fmt: skip


@pytest.mark.parametrize("order", LMPLZ)
def test_discounts_sizes_and_perplexity_are_those_of_lmplz(order):
    amounts, sizes, perplexity = LMPLZ[order]
    train, words = numbered(sentences(400, 1))
    seen = len(words)
    test, words = numbered(sentences(30, 2), words)
    model = counted(train, order, size=len(words), closed=False)
    assert len(words) > seen, "the test has words that the training text lacks"
    assert model.about["discounts"] == [pytest.approx(own, rel=1e-5) for own in amounts]
    assert model.sizes == sizes
    nats = np.concatenate(model.scored(test))
    assert len(nats) == 183
    assert math.exp(nats.mean()) == pytest.approx(perplexity, rel=1e-6)
    assert sum(t >= seen for text in test for t in text) == 11


# lmplz -o 3 --discount_fallback on "a b a c", "b a", "", "a b a b d", "c": log10 p, log10 backoff.
TINY = {
    "<unk>": (-1.1205739, 0), "</s>": (-0.5185139, 0), "a": (-0.7781512, -0.30103),
    "b": (-0.7781512, -0.30103), "c": (-0.7781512, -0.30103), "d": (-0.91645396, -0.30103),
    "<s> </s>": (-0.59943587, 0), "a </s>": (-0.55828106, 0), "c </s>": (-0.18607551, 0),
    "d </s>": (-0.18607551, 0), "<s> a": (-0.5477023, -0.30103), "b a": (-0.38021123, -0.30103),
    "<s> b": (-0.7367586, -0.30103), "a b": (-0.47712123, -0.30103),
    "<s> c": (-0.7367586, -0.30103), "a c": (-0.6812412, -0.30103), "b d": (-0.64345264, -0.30103),
    "b a </s>": (-0.51580805,), "<s> c </s>": (-0.083147444,), "a c </s>": (-0.083147444,),
    "b d </s>": (-0.083147444,), "<s> b a": (-0.1497623,), "a b a": (-0.2662679,),
    "<s> a b": (-0.17609124,), "b a b": (-0.47712123,), "b a c": (-0.56729794,),
    "a b d": (-0.5523722,),
}  # fmt: skip


def test_every_line_of_a_tiny_model_is_that_of_lmplz():
    train, words = numbered(["a b a c", "b a", "", "a b a b d", "c"])
    model = counted(train, 3, size=len(words), closed=False)
    assert model.about["fallback_discounts"] == [True] * 3
    assert model.sizes == (7, 11, 10)
    ids = {word: n for n, word in enumerate(words)}
    for text, wanted in TINY.items():
        *before, last = [ids[word] for word in text.split()]
        found = model.next_logs(before)[last] / math.log(10)
        assert found == pytest.approx(wanted[0], abs=1e-6), text
        if len(wanted) > 1:
            place = model.context([*before, last])[len(before)]
            backoff = model.orders[len(before)].backoffs[place] / math.log(10)
            assert backoff == pytest.approx(wanted[1], abs=1e-6), text


def test_a_bigram_model_by_hand():
    """Two texts "a b", "a": with D = 0.5 for counts of 1 and 1 for counts of 2, worked by hand."""
    model = counted([[3, 4], [3]], 2, size=5)
    # Different words before: a: <s>; b: a; </s>: b and a. 4 in all; gamma = (0.5 + 0.5 + 1) / 4,
    # spread over <unk>, </s>, a, b alike.
    single = {UNK: 0.125, EOS: 1 / 4 + 0.125, 3: 0.5 / 4 + 0.125, 4: 0.5 / 4 + 0.125}
    first = np.exp(model.orders[0].logs)
    assert {t: pytest.approx(float(first[t])) for t in single} == single
    # After a (2 times): b once, </s> once; gamma = (0.5 + 0.5) / 2.
    after = np.exp(model.next_logs([BOS, 3]))
    assert after[4] == pytest.approx(0.5 / 2 + 0.5 * single[4])
    assert after[EOS] == pytest.approx(0.5 / 2 + 0.5 * single[EOS])
    assert after[3] == pytest.approx(0.5 * single[3])
    # After <s> (2 times): a twice; gamma = 1 / 2.
    assert np.exp(model.next_logs([BOS]))[3] == pytest.approx((2 - 1) / 2 + 0.5 * single[3])


class Slow:
    """The formulas of Chen and Goodman (1999) as they stand, in dictionaries, word by word."""

    def __init__(self, texts, order, size, *, closed):
        marked = [(BOS, *text, EOS) for text in texts]
        raw = Counter(
            text[at : at + n]
            for text in marked for n in range(1, order + 1) for at in range(len(text) - n + 1)
        )  # fmt: skip
        before = defaultdict(set)
        for gram in raw:
            before[gram[1:]].add(gram[0])
        self.counts = {}
        for gram, times in raw.items():
            whole = len(gram) == order or gram[0] == BOS
            self.counts[gram] = times if whole else len(before[gram])
        self.counts.pop((BOS,))
        self.order, self.lost = order, {}
        for n in range(1, order + 1):
            of = Counter(a for gram, a in self.counts.items() if len(gram) == n)
            self.lost[n] = self._discounts(of)
        seen = {gram[0] for gram in self.counts if len(gram) == 1}
        self.words = {*range(size)} - {BOS} if closed else seen | {UNK}
        self.after = defaultdict(dict)
        for gram, times in self.counts.items():
            self.after[gram[:-1]][gram[-1]] = times

    @staticmethod
    def _discounts(of):
        if not (of[1] and of[2] and of[3]):
            return FALLBACK
        y = of[1] / (of[1] + 2 * of[2])
        found = tuple(c - (c + 1) * y * of[c + 1] / of[c] for c in (1, 2, 3))
        return found if all(0 < d <= c for c, d in enumerate(found, 1)) else FALLBACK

    def p(self, word, history):
        history = tuple(history[-(self.order - 1) :]) if self.order > 1 else ()
        return self._p(word, history)

    def _p(self, word, history):
        lower = self._p(word, history[1:]) if history else 1 / len(self.words)
        if word not in self.words:
            return 0.0
        follow = self.after.get(history)
        if not follow:
            return lower
        lost = self.lost[len(history) + 1]
        total = sum(follow.values())
        gamma = sum(lost[min(a, 3) - 1] for a in follow.values()) / total
        own = follow.get(word, 0)
        return (own - lost[min(own, 3) - 1] if own else 0.0) / total + gamma * lower


corpora = st.lists(st.lists(st.integers(3, 7), max_size=8), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(texts=corpora, order=st.integers(1, 5), closed=st.booleans(), block=st.sampled_from((5, 99)))
def test_tables_equal_the_formulas(texts, order, closed, block):
    model = counted(texts, order, size=9, closed=closed, block=block)
    slow = Slow(texts, order, 9, closed=closed)
    rng = random.Random(len(texts))
    for _ in range(6):
        history = [BOS, *rng.choices(range(3, 8), k=rng.randint(0, 6))]
        found = np.exp(model.next_logs(history))
        known = [t for t in range(9) if t in slow.words]
        heard = [t if t in slow.words or t == BOS else UNK for t in history]
        assert found[known] == pytest.approx([slow.p(t, heard) for t in known], rel=2e-5)


@settings(max_examples=50, deadline=None)
@given(texts=corpora, order=st.integers(1, 5), closed=st.booleans(), data=st.data())
def test_what_may_follow_sums_to_one(texts, order, closed, data):
    model = counted(texts, order, size=9, closed=closed)
    history = data.draw(st.lists(st.integers(3, 8), max_size=7))
    found = np.exp(model.next_logs([BOS, *history]))
    assert found.sum() == pytest.approx(1.0, abs=2e-6)
    assert found[BOS] == 0.0
    assert (found[[UNK, EOS]] > 0).all(), "a word that was never seen, and the end"


@settings(max_examples=40, deadline=None)
@given(texts=corpora, order=st.integers(1, 4), closed=st.booleans(), data=st.data())
def test_texts_score_as_one_word_after_the_other(texts, order, closed, data):
    model = counted(texts, order, size=9, closed=closed)
    asked = data.draw(st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=5))
    for text, nats in zip(asked, model.scored(asked), strict=True):
        heard = model.heard(np.array(text, dtype=int)).tolist()
        history = [BOS]
        for word, own in zip([*heard, EOS], nats, strict=True):
            assert -own == pytest.approx(float(model.next_logs(history)[word]), abs=2e-5)
            history.append(word)


def test_blocks_merged_on_disk_count_the_same(tmp_path):
    train, words = numbered(sentences(200, 3))
    whole = counted(train, 4, size=len(words))
    parts = counted(train, 4, size=len(words), block=64)
    for one, other in zip(whole.orders, parts.orders, strict=True):
        assert np.array_equal(one.keys, other.keys)
        assert np.array_equal(one.logs, other.logs)
        assert np.array_equal(one.backoffs, other.backoffs)
    assert whole.about == parts.about
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("texts", [[[]], [[3]], [[3] * 50], [[], [], [3, 4]], [[3, 3], [3, 3]]])
def test_degenerate_texts_still_give_a_model(texts):
    model = counted(texts, 5, size=6)
    for history in ([BOS], [BOS, 3], [BOS, 3, 3, 3, 3, 3], [BOS, 5, 4]):
        assert np.exp(model.next_logs(history)).sum() == pytest.approx(1.0, abs=1e-6)
    assert all(np.isfinite(nats).all() for nats in model.scored([[], [3, 4, 5], [0, 1, 2]]))


def test_marks_inside_a_text_are_left_out():
    assert counted([[3, 4]], 2, size=5).about["tokens_counted"] == 3
    found = counted([[3, BOS, 4, EOS]], 2, size=5)
    assert np.array_equal(found.orders[1].logs, counted([[3, 4]], 2, size=5).orders[1].logs)


def test_a_word_of_an_open_vocabulary_that_was_never_seen_is_unk():
    model = counted([[3, 4, 3], [4, 3]], 2, size=9, closed=False)
    assert model.heard(np.array([3, 8, BOS])).tolist() == [3, UNK, UNK]
    assert model.scored([[3, 8]])[0].tolist() == model.scored([[3, UNK]])[0].tolist()
    assert np.isneginf(model.next_logs([BOS])[8])


@pytest.mark.parametrize(
    ("texts", "order", "error", "text"),
    [
        ([[9]], 2, DataError, "E-DATA-170  Token ids from 9 to 9 do not fit a vocabulary of 5."),
        ([], 2, DataError, "E-DATA-171  There is no text to count n-grams of."),
        ([[3]], 0, ModelError, "E-MODEL-170  An n-gram model has 1 to 10 words, not 0."),
        ([[3]], 11, ModelError, "E-MODEL-170  An n-gram model has 1 to 10 words, not 11."),
    ],
)
def test_what_cannot_be_counted_is_told(texts, order, error, text):
    with pytest.raises(error) as raised:
        counted(texts, order, size=5)
    assert str(raised.value).startswith(text)
    assert "Fix: " in str(raised.value)


def test_events_say_how_far_it_is():
    symbols = Symbols(size=5, bos=BOS, eos=EOS, unk=UNK)
    steps = count_and_smooth(sequences_in(iter([[3, 4]])), order=3, symbols=symbols)
    seen = [(e.kind, e.candidate, e.done, e.total) for e in steps]
    assert seen == [
        ("start", "count", 0, 3), ("progress", "count", 1, 3), ("progress", "count", 2, 3),
        ("progress", "count", 3, 3), ("progress", "smooth", 1, 3), ("progress", "smooth", 2, 3),
        ("progress", "smooth", 3, 3),
    ]  # fmt: skip


def test_discounts_follow_equation_26():
    adjusted = np.array([1] * 50 + [2] * 20 + [3] * 10 + [4] * 6 + [9] * 5)
    y = 50 / 90
    assert discounts(adjusted).amounts == pytest.approx(
        (1 - 2 * y * 20 / 50, 2 - 3 * y * 10 / 20, 3 - 4 * y * 6 / 10)
    )
    assert not discounts(adjusted).fallback
    assert discounts(np.array([1, 2, 2])).amounts == FALLBACK  # nothing occurs three times
    assert discounts(np.array([1] + [2] * 9 + [3] * 900)).fallback  # D2 would be below 0


@dataclass(frozen=True)
class Piece:
    ids: np.ndarray
    sentences: np.ndarray


class Pieces(list):
    def document(self, number):
        return self[number]


def test_a_part_of_a_corpus_is_read_by_documents_or_sentences():
    part = Pieces([
        Piece(np.array([3, 4, 5], np.uint16), np.array([0, 1, 3])),
        Piece(np.array([6], np.uint16), np.array([0, 1])),
        Piece(np.array([7, 8], np.uint16), np.array([0, 2])),
    ])  # fmt: skip
    whole = [(a.tolist(), b.tolist()) for a, b in sequences_of(part)]
    assert whole == [([3, 4, 5, 6, 7, 8], [3, 1, 2])]
    short = [(a.tolist(), b.tolist()) for a, b in sequences_of(part, unit="sentence", size=4)]
    assert short == [([3, 4, 5, 6], [1, 2, 1]), ([7, 8], [2])]


def test_marks_that_a_tokenizer_lacks_get_new_ids(tiny_tokenizer, tiny_wordpieces):
    assert Symbols.of(tiny_tokenizer) == Symbols(size=300, bos=2, eos=1, unk=3)
    size = len(tiny_wordpieces)
    assert Symbols.of(tiny_wordpieces) == Symbols(size=size + 2, eos=size, bos=size + 1, unk=1)


@pytest.fixture(scope="module")
def model():
    train, words = numbered(sentences(300, 5))
    return counted(train, 3, size=len(words))


def test_a_folder_gives_back_the_same_model(model, tmp_path, tiny_tokenizer):
    model.save(tmp_path / "lm", tiny_tokenizer)
    again = load(tmp_path / "lm")
    assert again.symbols == model.symbols and again.about == model.about
    for one, other in zip(model.orders, again.orders, strict=True):
        assert np.array_equal(one.keys, other.keys) and one.keys.dtype == other.keys.dtype
        assert np.array_equal(one.logs, other.logs)
        assert np.array_equal(one.backoffs, other.backoffs)
    assert is_ngram(tmp_path / "lm") and not is_ngram(tmp_path)
    assert tokenizer_in(tmp_path / "lm")("a b")["input_ids"] == tiny_tokenizer("a b")["input_ids"]
    first = (tmp_path / "lm" / "model.safetensors").read_bytes()
    model.save(tmp_path / "lm", tiny_tokenizer)
    assert (tmp_path / "lm" / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize("how", ["config", "weights", "newer", "mixed", "none"])
def test_a_damaged_folder_says_so(model, tmp_path, tiny_tokenizer, how):
    model.save(tmp_path, tiny_tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    if how == "config":
        (tmp_path / "config.json").write_text("{")
    elif how == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"short")
    elif how == "none":
        (tmp_path / "model.safetensors").unlink()
    else:
        change = {"schema": 99} if how == "newer" else {"vocab_size": 7}
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=r"E-MODEL-171  .* is no n-gram model that can be read"):
        load(tmp_path)


def test_greedy_continuations_take_the_most_probable_word(model):
    found = continued(model, [[3, 4]], (UNK,), Sampling(tokens=5))[0][0]
    said = [BOS, 3, 4]
    total = 0.0
    for token in found.ids:
        logs = model.next_logs(said)
        logs[UNK] = -np.inf
        assert token == int(logs.argmax())
        total += float(logs[token])
        said.append(token)
    if found.stopped:
        total += float(model.next_logs(said)[EOS])
    assert found.log_probability == pytest.approx(total, abs=1e-3)


def test_samples_follow_their_seed_and_never_say_what_is_barred(model):
    way = Sampling(tokens=8, temperature=1.0, samples=4, seed=3)
    barred = (UNK, BOS, 5, 6, 7)
    one, two = (continued(model, [[3], []], barred, way) for _ in range(2))
    assert one == two
    assert continued(model, [[3]], barred, replace(way, seed=4)) != one[:1]
    assert [len(several) for several in one] == [4, 4]
    assert not {t for several in one for c in several for t in c.ids} & {*barred, EOS}
    assert tuple(continuing(model, [3], barred, way)) == one[0][0].ids


def test_samples_have_the_shares_of_the_model(model):
    way = Sampling(tokens=1, temperature=1.0, samples=4000)
    drawn = Counter(c.ids[0] if c.ids else EOS for c in continued(model, [[3]], (), way)[0])
    shares = np.exp(model.next_logs([BOS, 3]))
    for token in np.argsort(-shares)[:5].tolist():
        error = 4 * math.sqrt(shares[token] / 4000)
        assert drawn[token] / 4000 == pytest.approx(float(shares[token]), abs=error)


def test_beams_find_what_is_at_least_as_probable_as_greedy(model):
    greedy = continued(model, [[3]], (UNK,), Sampling(tokens=6))[0][0]
    way = Sampling(tokens=6, beams=5, samples=2, length_penalty=0.0)
    best, second = continued(model, [[3]], (UNK,), way)[0]
    assert best.log_probability >= greedy.log_probability - 1e-6
    assert best.score >= second.score
    assert tuple(continuing(model, [3], (UNK,), way)) == best.ids


def test_contrastive_search_is_refused(model):
    with pytest.raises(ModelError, match=r"E-MODEL-175 .* it has no hidden states"):
        continued(model, [[3]], (), Sampling(contrast=0.5, top_k=4))


def test_single_words_need_no_history():
    model = counted([[3, 4], [3]], 1, size=5)
    assert isinstance(model, NGram) and model.context([BOS, 3]) == ()
    assert np.array_equal(model.next_logs([BOS, 3]), model.next_logs([BOS]))
    shares = np.exp(model.next_logs([BOS]))
    # Occurrences: a 2, b 1, </s> 2; discounts 0.5 and 1; gamma = (1 + 0.5 + 1) / 5.
    assert shares[[UNK, EOS, 3, 4]] == pytest.approx([0.125, 0.325, 0.325, 0.225])
