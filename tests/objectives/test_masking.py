"""Masked language modelling: shares, whole words, spans, and what stands in place of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import DataCollatorForLanguageModeling

from sapwood.errors import ConfigError
from sapwood.interfaces import Document
from sapwood.objectives import NO_TARGET, Draws, Vocabulary, Window, objective
from sapwood.objectives.masking import chosen_spans, chosen_words, count_of, span_lengths, words_of
from sapwood.testing import sample_documents
from sapwood.testing.objectives import Sample, piece_of


def draws_of(line, vocabulary, *, count=400, length=128):
    draws = Draws(objective(line), sample_documents(count), vocabulary, length)
    return [draws.draw(0, index) for index in range(draws.plan(0))]


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.4])
@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_the_shares_are_those_asked_for(rate, unit, vocabulary):
    examples = draws_of(f"mlm(rate={rate}, unit={unit})", vocabulary)
    ids = np.concatenate([e["input_ids"] for e in examples])
    labels = np.concatenate([e["labels"] for e in examples])
    chosen = labels != NO_TARGET
    original = np.where(chosen, labels, ids)
    text = ~vocabulary.special[original]
    assert not chosen[~text].any()
    assert abs(chosen[text].mean() - rate) < 0.005
    masked = (ids == vocabulary.mask) & chosen
    kept = (ids == labels) & chosen
    # Spans are masked, replaced or kept as one, so that fewer draws decide.
    bound = 0.04 if unit == "span" else 0.015
    assert abs(masked.sum() / chosen.sum() - 0.8) < bound
    assert abs(kept.sum() / chosen.sum() - 0.1) < bound
    random = ids[chosen & ~masked & ~kept]
    assert not vocabulary.special[random].any()
    if unit == "token" and rate == 0.4:
        expected = len(random) / len(vocabulary.ordinary)
        counts = np.bincount(random, minlength=vocabulary.size)[vocabulary.ordinary]
        chi = ((counts - expected) ** 2 / expected).sum() / len(counts)
        assert 0.7 < chi < 1.35  # uniform: one in the mean, its standard deviation 0.07


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    rate=st.floats(0.01, 1.0),
    unit=st.sampled_from(["token", "word", "span"]),
    seed=st.integers(0, 1000),
)
def test_any_window_keeps_the_rules(lengths, rate, unit, seed, vocabulary):
    rng = np.random.default_rng(seed)
    pieces = tuple(
        piece_of(rng.integers(20, 300, n).tolist(), rng.integers(0, 2, n).tolist()) for n in lengths
    )
    task = objective(f"mlm(rate={rate}, unit={unit})")
    example = task.example(Window(pieces), np.random.default_rng(seed), vocabulary)
    chosen = np.flatnonzero(example["labels"] != NO_TARGET)
    original = task.original(example, vocabulary)
    framed = [[vocabulary.cls, *p.ids.tolist(), vocabulary.sep] for p in pieces]
    assert original.tolist() == [token for row in framed for token in row]
    assert example["documents"].tolist() == [n for n, row in enumerate(framed) for _ in row]
    assert not vocabulary.special[original[chosen]].any()
    tokens = sum(lengths)
    if unit == "token":
        assert len(chosen) in {
            max(int(rate * tokens), 1),
            min(int(rate * tokens) + 1, tokens),
        }
    else:
        starts = np.concatenate([[1, *p.starts, 1] for p in pieces]).astype(bool)
        words = words_of(starts, np.flatnonzero(~vocabulary.special[original]))
        inside = np.isin(np.arange(len(original)), chosen)
        for low, high in zip(*words, strict=True):
            assert inside[low:high].all() or not inside[low:high].any()
        shortest = int((words[1] - words[0]).max())
        assert 1 <= len(chosen) <= max(int(rate * tokens) + 1, shortest)


def test_counts_are_right_in_the_mean(rng):
    counts = [count_of(0.15, 10, rng) for _ in range(4000)]
    assert set(counts) == {1, 2}
    assert abs(np.mean(counts) - 1.5) < 0.04
    assert count_of(0.15, 1, rng) == 1
    assert count_of(0.15, 0, rng) == 0
    assert count_of(1.0, 7, rng) == 7


def test_words_that_overshoot_are_skipped_and_never_cut(rng):
    starts = np.array([1, 0, 0, 0, 1, 1, 0], dtype=bool)
    found = {tuple(chosen_words(starts, np.arange(7), 2, rng).tolist()) for _ in range(200)}
    assert found == {(4,), (5, 6)}  # the word of four pieces never fits
    # All too long: the first drawn is taken whole.
    assert chosen_words(np.array([1, 0, 0], dtype=bool), np.arange(3), 1, rng).tolist() == [0, 1, 2]
    assert chosen_words(np.zeros(0, dtype=bool), np.arange(0), 0, rng).tolist() == []


def test_span_lengths_are_those_of_spanbert(rng):
    found = span_lengths(200_000, rng)
    assert (found.min(), found.max()) == (1, 10)
    assert abs(found.mean() - 3.8) < 0.03  # the paper's figure 2: a mean of 3.8
    shares = np.bincount(found, minlength=11)[1:] / len(found)
    expected = 0.2 * 0.8 ** np.arange(10)
    assert np.abs(shares - expected / expected.sum()).max() < 0.005


def test_spans_are_runs_of_whole_words_inside_a_document(vocabulary, rng):
    starts = rng.random(3000) < 0.7
    candidates = np.flatnonzero(np.arange(3000) % 500 != 0)  # special tokens every 500
    at, owner = chosen_spans(starts, candidates, 450, rng)
    assert 440 <= len(at) <= 450
    assert (np.diff(at) > 0).all()
    first, end = words_of(starts, candidates)
    for number in np.unique(owner):
        span = at[owner == number]
        assert (np.diff(span) == 1).all()
        assert span[0] in first
        assert span[-1] + 1 in end
        assert 1 <= np.isin(first, span).sum() <= 10
    # One draw decides about a whole span.
    examples = draws_of("mlm(unit=span, mask=0.5, random=0.0)", vocabulary, count=50)
    changes = sum(
        int((np.diff((e["input_ids"] == vocabulary.mask)[e["labels"] != NO_TARGET]) != 0).sum())
        for e in examples
    )
    chosen = sum(int((e["labels"] != NO_TARGET).sum()) for e in examples)
    assert changes / chosen < 0.3  # 0.5 when each token is drawn by itself


def test_whole_words_of_chinese_are_those_of_the_segmenter(vocabulary):
    """我们 / 喜欢 / 自然 / 语言 / 处理: one token a character, words of two."""
    characters = list("我们喜欢自然语言处理")
    ids = list(range(50, 50 + len(characters)))
    words = [(n, n + 1) for n in range(1, 11, 2)]  # after [CLS]
    piece = piece_of(ids, [1, 0] * 5)
    task = objective("mlm(rate=0.4, unit=word)")
    seen = set()
    for seed in range(100):
        made = task.example(Window((piece,)), np.random.default_rng(seed), vocabulary)
        chosen = np.flatnonzero(made["labels"] != NO_TARGET).tolist()
        assert len(chosen) == 4
        assert (chosen[0], chosen[1]) in words
        assert (chosen[2], chosen[3]) in words
        seen |= {(chosen[0], chosen[1]), (chosen[2], chosen[3])}
    assert seen == set(words)


TEXT = (
    "The unbelievable scientists of Heidelberg rediscovered antidisestablishmentarianism. 今天好。"
)


def byte_level():
    """Return a byte-level BPE of few merges, so that words have several tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<mask>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT, "the scientists of the town"] * 3, trainer)
    return made


def test_whole_words_of_byte_level_bpe_are_words():
    tokenizer = byte_level()
    encoding = tokenizer.encode(TEXT)
    owner = np.array(encoding.word_ids)
    starts = np.concatenate([[True], owner[1:] != owner[:-1]])
    assert len(starts) > 2 * starts.sum()  # several tokens a word, or this shows nothing
    text = Document(
        ids=np.array(encoding.ids), starts=starts, sentences=np.array([0, len(starts)]),
        bytes=len(TEXT.encode()),
    )  # fmt: skip
    vocabulary = Vocabulary(size=tokenizer.get_vocab_size(), pad=0, mask=1, cls=2, sep=3)
    line = "mlm(rate=0.3, unit=word, mask=1.0, random=0.0)"
    draws = Draws(objective(line), Sample(documents=(text,)), vocabulary, length=256)
    hidden = set()
    for epoch in range(60):
        example = draws.draw(epoch, 0)
        shown = example["input_ids"][1:-1]
        masked = shown == vocabulary.mask
        for word in np.unique(owner):
            assert masked[owner == word].all() or not masked[owner == word].any()
        hidden |= {int(word) for word in owner[masked]}
        words = [tokenizer.decode(np.array(encoding.ids)[owner == w].tolist()) for w in hidden]
    assert " scientists" in words
    assert hidden == set(owner.tolist())


def test_words_in_the_collator_of_transformers_are_whole_sentences():
    """It takes a gap between offsets for the end of a word; here neither kind of text has one."""
    encoding = byte_level().encode("The scientists of the town")
    offsets = [np.array([encoding.offsets]), np.array([[(n, n + 1) for n in range(10)]])]  # Chinese
    assert len(set(encoding.word_ids)) == 5
    for each in offsets:
        special = np.zeros(each.shape[:2], dtype=int)
        words, _ = DataCollatorForLanguageModeling._calc_word_ids_and_prob_mask(each, special)
        assert len(np.unique(words)) == 1


def test_generators_of_replaced_token_detection_mask_or_keep(vocabulary):
    examples = draws_of("rtd", vocabulary)
    ids = np.concatenate([e["input_ids"] for e in examples])
    labels = np.concatenate([e["labels"] for e in examples])
    chosen = labels != NO_TARGET
    assert abs(chosen.mean() / (~vocabulary.special[ids] | (ids == 6)).mean() - 0.15) < 0.005
    masked = ids[chosen] == vocabulary.mask
    assert abs(masked.mean() - 0.85) < 0.01
    assert (ids[chosen][~masked] == labels[chosen][~masked]).all()


def test_masks_change_from_epoch_to_epoch_and_are_uniform(vocabulary):
    task = objective("mlm(rate=0.2)")
    draws = Draws(
        task, Sample(documents=(sample_documents(1, seed=3).document(0),)), vocabulary, 256
    )
    size = len(draws.draw(0, 0)["labels"])
    hits = np.zeros(size)
    for epoch in range(2000):
        hits += draws.draw(epoch, 0)["labels"] != NO_TARGET
    assert hits[0] == hits[-1] == 0
    inner = hits[1:-1] / 2000
    assert np.abs(inner - 0.2).max() < 0.045  # five standard deviations


def test_held_out_text_has_one_rate():
    assert str(objective("mlm(rate=0.4, unit=word)").evaluated()) == "mlm(rate=0.15, unit=word)"
    assert str(objective("mlm+nsp").evaluated()) == "mlm(rate=0.15)+nsp"
    assert str(objective("mix(mlm+rtd)").evaluated()) == "mix(1*mlm(rate=0.15)+1*rtd)"
    assert objective("clm").evaluated() == objective("clm")


def test_wrong_settings_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        objective("mlm(rate=0, mask=0.9, random=0.5, unit=wrod)")
    assert str(caught.value) == (
        "E-CONFIG-202  The settings of 'mlm' are wrong.\n"
        "  • rate must be above 0, or nothing is learnt\n"
        "  • mask and random together must not pass 1\n"
        "  • unit must be one of token, word, span, not 'wrod'\n"
        "  Fix: start from mlm(rate=0.3, mask=0.8, random=0.1, unit=token)"
    )
    with pytest.raises(ConfigError, match="rtd"):
        objective("rtd(rate=2.0)")
