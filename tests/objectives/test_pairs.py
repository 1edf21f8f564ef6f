"""Next-sentence and sentence-order pairs, against what BERT's builder does to a document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import DataError
from sapwood.objectives import Draws, Vocabulary, objective
from sapwood.objectives.pairs import Sentences, next_sentences, sentence_order
from sapwood.testing.objectives import documents_of


def books(count=40, sentences=12, seed=0):
    """Return documents whose tokens say which document and sentence they are from."""
    rng = np.random.default_rng(seed)
    texts = []
    for d in range(count):
        many = int(rng.integers(1, sentences, endpoint=True))
        texts.append([[24 + d * 20 + s] * int(rng.integers(1, 9)) for s in range(many)])
    return documents_of(*texts)


def halves(example, vocabulary):
    """Return (A, B) of an example without special tokens."""
    ids, types = example["input_ids"], example["token_type_ids"]
    plain = ~vocabulary.special[ids]
    return ids[plain & (types == 0)], ids[plain & (types == 1)]


WIDE = Vocabulary(size=5000, cls=1, sep=2, mask=3, pad=0)


def test_label_0_is_next_and_1_is_another_document():
    draws = Draws(objective("nsp"), books(count=200), WIDE, length=40)
    labels = []
    for index in range(draws.plan(0)):
        example = draws.draw(0, index)
        a, b = halves(example, WIDE)
        label = int(example["next_sentence_label"])
        same = (a[0] - 24) // 20 == (b[0] - 24) // 20
        assert same == (label == 0)
        if label == 0:
            assert b[0] > a[-1]
            if len(a) + len(b) < 37:  # nothing was cut off where they meet
                assert b[0] == a[-1] + 1
        labels.append(label)
    # Half of the chunks and all of one sentence, so more than half are from elsewhere.
    assert 0.5 < np.mean(labels) < 0.7


def test_the_example_of_the_bert_paper(vocabulary):
    """[CLS] the man went to [MASK] store [SEP] he bought a gallon [MASK] milk [SEP], IsNext."""
    the, man, went, to, store, he, bought, a, gallon, of, milk = range(30, 41)
    first, second = [the, man, went, to, the, store], [he, bought, a, gallon, of, milk]
    penguin = [41, 42, 43, 44, 45]
    draws = Draws(
        objective("nsp(short=0)"), documents_of([first, second], [penguin]), vocabulary, 15
    )
    cls, sep, mask = vocabulary.cls, vocabulary.sep, vocabulary.mask
    found = {}
    for epoch in range(20):
        for index in range(draws.plan(epoch)):
            example = draws.draw(epoch, index)
            found.setdefault(example["input_ids"].tolist()[1:2][0], []).append(example)
    nexts = [e for e in found[the] if e["next_sentence_label"] == 0]
    assert nexts
    for example in nexts:
        assert example["input_ids"].tolist() == [cls, *first, sep, *second, sep]
        assert example["token_type_ids"].tolist() == [0] * 8 + [1] * 7
    others = [e for e in found[the] if e["next_sentence_label"] == 1]
    assert others
    for example in others:
        assert example["input_ids"].tolist() == [cls, *first, sep, *penguin, sep]
        assert example["token_type_ids"].tolist() == [0] * 8 + [1] * 6
    from sapwood.objectives.masking import hide

    shown = hide(
        nexts[0]["input_ids"], np.array([5, 12]), (1.0, 0.0), np.random.default_rng(0), vocabulary
    )
    milk_row = [cls, the, man, went, to, mask, store, sep, he, bought, a, gallon, mask, milk, sep]
    assert shown.tolist() == milk_row


def sequential(lengths, room, labels):
    """Walk one document as BERT's builder does, with given targets and choices of B."""
    rows, at = [], 0
    for target, cut, other in labels:
        end, total = at, 0
        while end < len(lengths) and total < target:
            total += lengths[end]
            end += 1
        rows.append((at, cut, end))
        at = cut if other else end
        if at >= len(lengths):
            break
    return rows, at


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=60),
    room=st.integers(4, 40),
    seed=st.integers(0, 99),
)
def test_chunks_follow_each_other_and_unused_sentences_are_put_back(lengths, room, seed):
    from sapwood.objectives import pairs

    sentences = Sentences.of(np.array([*lengths, 5, 5]), np.array([len(lengths), 2]))
    kept = []

    def proceed(chunk):
        other = (chunk.end - chunk.first == 1) | (chunk.first % 2 == 0)
        kept.extend(zip(chunk.documents, chunk.target, chunk.cut, other, strict=True))
        return np.where(other, chunk.cut, chunk.end)

    rng = np.random.default_rng(seed)
    chunks = pairs._walk(sentences, room, 0.1, rng, proceed)
    mine = chunks.documents == 0
    choices = [(t, int(c), o) for d, t, c, o in kept if d == 0]
    rows, at = sequential(lengths, room, choices)
    columns = (chunks.first[mine], chunks.cut[mine], chunks.end[mine])
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == rows
    assert at == len(lengths)
    for first, cut, end in rows:
        assert first < cut <= max(end - 1, first + 1)
    for target, _, _ in choices:
        assert 2 <= target <= room


def test_one_in_ten_pairs_aims_short():
    lengths = np.full(20000, 4)
    sentences = Sentences.of(lengths, np.full(20, 1000))
    rng = np.random.default_rng(0)
    layout = sentence_order(sentences, 125, 0.1, rng)
    sizes = (layout.ends - layout.starts).reshape(-1, 2).sum(axis=1)
    assert 0.08 < (sizes < 110).mean() < 0.13  # the last chunks of documents are short, too
    full = sentence_order(sentences, 125, 0.0, rng)
    sizes = (full.ends - full.starts).reshape(-1, 2).sum(axis=1)
    assert (sizes < 110).mean() < 0.04


def test_a_random_b_is_never_from_the_same_document_when_there_are_two():
    sentences = Sentences.of(np.array([3] * 30 + [4] * 2), np.array([30, 0, 2]))
    for seed in range(20):
        layout = next_sentences(sentences, 20, 0.1, np.random.default_rng(seed))
        a, b = layout.documents.reshape(-1, 2).T
        assert ((a == b) == (layout.labels == 0)).all()
        assert 1 not in a
        assert 1 not in b


def test_with_one_document_b_is_not_the_next_sentence():
    sentences = Sentences.of(np.full(50, 5), np.array([50]))
    layout = next_sentences(sentences, 20, 0.0, np.random.default_rng(0))
    ends = layout.ends.reshape(-1, 2)[:, 0]
    starts = layout.starts.reshape(-1, 2)[:, 1]
    assert (starts[layout.labels == 1] != ends[layout.labels == 1]).all()
    assert (starts[layout.labels == 0] == ends[layout.labels == 0]).all()
    assert (layout.labels == 1).sum() > 3


def test_pairs_are_cut_from_the_longer_text_at_both_ends_and_the_rest_is_counted():
    sentences = Sentences.of(np.array([30, 4, 30, 4]), np.array([2, 2]))
    fronts = set()
    for seed in range(30):
        layout = sentence_order(sentences, 20, 0.0, np.random.default_rng(seed))
        sizes = (layout.ends - layout.starts).reshape(-1, 2)
        assert len(layout) == 0 or sizes.sum(axis=1).max() <= 20
        layout = next_sentences(sentences, 20, 0.0, np.random.default_rng(seed))
        sizes = (layout.ends - layout.starts).reshape(-1, 2)
        assert (sizes.sum(axis=1) <= 20).all()
        assert (sizes > 0).all()
        assert layout.lost["ends of pairs that are too long"] > 0
        fronts |= set(layout.starts.reshape(-1, 2)[:, 0].tolist())
    assert len(fronts) > 5


def test_sentence_order_swaps_half_and_skips_chunks_of_one_sentence():
    found = books(count=200)
    draws = Draws(objective("sop"), found, WIDE, length=40)
    labels = []
    for index in range(draws.plan(0)):
        example = draws.draw(0, index)
        a, b = halves(example, WIDE)
        label = int(example["next_sentence_label"])
        assert (a[0] - 24) // 20 == (b[0] - 24) // 20
        assert (a[0] < b[0]) == (label == 0)
        labels.append(label)
    assert 0.4 < np.mean(labels) < 0.6
    assert draws.lost(0)["sentences that stand alone in a chunk"] > 0


def test_documents_without_a_pair_are_told():
    with pytest.raises(DataError) as caught:
        Draws(objective("sop"), documents_of([[30, 31]], [[32]]), WIDE, length=40).plan(0)
    assert str(caught.value) == (
        "E-DATA-180  The documents give no example for 'sop'.\n"
        "  • 3 tokens: sentences that stand alone in a chunk\n"
        "  Fix: take more or longer documents, or another objective"
    )
    with pytest.raises(DataError, match="no example for 'nsp'"):
        Draws(objective("nsp"), documents_of([[30, 31]]), WIDE, length=40).plan(0)
