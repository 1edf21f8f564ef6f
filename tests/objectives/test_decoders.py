"""Objectives of decoders: every token a target once, and middles that come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.errors import ConfigError
from sapwood.objectives import NO_TARGET, Draws, Vocabulary, Window, objective
from sapwood.objectives.fim import moved
from sapwood.testing import sample_documents
from sapwood.testing.objectives import documents_of, piece_of


def test_short_documents_share_an_example_and_stand_between_bos_and_eos(vocabulary):
    text = documents_of([[30, 31, 32]], [[40, 41]])
    made = Draws(objective("clm"), text, vocabulary, length=16).draw(0, 0)
    rows = [[2, 30, 31, 32, 3], [2, 40, 41, 3]]
    if made["input_ids"][1] == 40:
        rows.reverse()
    assert made["input_ids"].tolist() == [*rows[0], *rows[1]]
    assert made["labels"].tolist() == [NO_TARGET, *rows[0][1:], NO_TARGET, *rows[1][1:]]
    assert made["documents"].tolist() == [0] * len(rows[0]) + [1] * len(rows[1])
    assert made["bytes"] == 15


def test_a_long_document_is_a_target_once_whatever_the_cuts(vocabulary):
    ids = list(range(30, 130))
    draws = Draws(objective("clm"), documents_of([ids]), vocabulary, length=16)
    for epoch in range(5):
        examples = [draws.draw(epoch, index) for index in range(draws.plan(epoch))]
        targets = np.concatenate([e["labels"][e["labels"] != NO_TARGET] for e in examples])
        assert sorted(targets.tolist()) == [3, *ids]
        assert sum(int(e["bytes"]) for e in examples) == 300
        for example in examples:
            row = example["input_ids"].tolist()
            begins = [n for n, label in enumerate(example["labels"]) if label == NO_TARGET]
            for at in begins:  # bos, or the token before the piece
                assert row[at] == (
                    2 if row[at + 1] == 30 else row[at + 1] - 1 if row[at + 1] != 3 else 129
                )
    fullest = [len(e["input_ids"]) for e in examples]
    assert sorted(fullest)[1:-1] == [16] * (len(fullest) - 2)


def test_a_vocabulary_without_bos_opens_with_eos():
    small = Vocabulary(size=99, eos=7)
    made = Draws(objective("clm"), documents_of([[30, 31]]), small, length=9).draw(0, 0)
    assert made["input_ids"].tolist() == [7, 30, 31, 7]


def test_both_orders_of_the_fim_paper(vocabulary):
    pre, suf, mid, bos, eos = (
        vocabulary.prefix, vocabulary.suffix, vocabulary.middle, vocabulary.bos, vocabulary.eos,
    )  # fmt: skip
    ids = [30, 31, 32, 33, 34, 35]
    psm = moved(ids, 2, 4, vocabulary, suffix_first=False)
    assert psm == [bos, pre, 30, 31, suf, 34, 35, mid, 32, 33, eos]
    spm = moved(ids, 2, 4, vocabulary, suffix_first=True)
    assert spm == [bos, pre, suf, 34, 35, mid, 30, 31, 32, 33, eos]
    assert moved(ids, 0, 0, vocabulary, suffix_first=False) == [bos, pre, suf, *ids, mid, eos]
    assert moved(ids, 6, 6, vocabulary, suffix_first=True) == [bos, pre, suf, mid, *ids, eos]


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    spm=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_middles_come_back(lengths, rate, spm, seed, vocabulary):
    rng = np.random.default_rng(seed)
    pieces = tuple(piece_of(rng.integers(24, 390, size=n).tolist()) for n in lengths)
    task = objective(f"fim(rate={rate}, spm={spm})")
    made = task.example(Window(pieces), rng, vocabulary)
    text = [token for p in pieces for token in [*p.ids.tolist(), vocabulary.eos]]
    assert task.original(made, vocabulary).tolist() == text
    ids = made["input_ids"]
    assert (ids == vocabulary.prefix).sum() == (ids == vocabulary.middle).sum()
    if rate in (0, 1):
        assert (ids == vocabulary.prefix).sum() == rate * len(pieces)
    # All but the first token of each row is learnt.
    assert (made["labels"] == NO_TARGET).sum() == len(pieces)
    assert len(ids) <= sum(lengths) + 5 * len(pieces)


def test_cuts_and_orders_have_their_shares(vocabulary):
    draws = Draws(objective("fim"), sample_documents(800, longest=40), vocabulary, 64)
    plain = first = changed = 0
    places = []
    for index in range(draws.plan(0)):
        made = draws.draw(0, index)
        for number in range(made["documents"][-1] + 1):
            row = made["input_ids"][made["documents"] == number].tolist()
            if vocabulary.prefix not in row:
                plain += 1
                continue
            changed += 1
            first += row[2] == vocabulary.suffix and row[3] != vocabulary.middle
            places.append((len(row) - 2 - row.index(vocabulary.middle)) / max(len(row) - 5, 1))
    assert abs(plain / (plain + changed) - 0.5) < 0.05
    assert 0.45 < first / changed < 0.6  # half, and those whose prefix is empty
    # The middle is a third in the mean; with the suffix first its prefix is beside it: two thirds.
    assert abs(np.mean(places) - 0.5) < 0.06  # more, as documents are short


def test_shares_out_of_range_are_named():
    with pytest.raises(ConfigError) as caught:
        objective("fim(rate=1.5, spm=-0.5)")
    assert caught.value.details == (
        "rate must be from 0 to 1, not 1.5",
        "spm must be from 0 to 1, not -0.5",
    )
