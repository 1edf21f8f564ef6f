"""Pooling a marked pair: the whole text, its head and its tail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.evaluation.bases import Bases
from sapwood.launch import Runtime
from sapwood.models.encoder import Encoder, around_pair, pair_marks
from sapwood.readouts.head import Head
from sapwood.tasks.bio import mark_pair
from sapwood.testing import tiny_net
from sapwood.training import HeadSupervision, TrainedHead

TEXT = "Ann met Lee on the north road"


@pytest.fixture
def encoder(tiny_tokenizer):
    return Encoder(tiny_net("bert"), marks=pair_marks(tiny_tokenizer))


def test_the_three_parts_are_means_over_their_tokens(encoder, tiny_tokenizer):
    text = mark_pair(TEXT, (8, 11), (0, 3))
    assert text == "<tail>Ann</tail> met <head>Lee</head> on the north road"
    ids = tiny_tokenizer(text)["input_ids"]
    whole = encoder.states([ids])[0]
    found = encoder.features([ids], "markers")[0]
    offsets = tiny_tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    for part, words in enumerate((text, "Lee", "Ann")):
        start = text.index(words)
        own = [n for n, (a, b) in enumerate(offsets) if start <= a and b <= start + len(words)]
        np.testing.assert_allclose(
            found[32 * part : 32 * (part + 1)], whole[own].mean(0).numpy(), atol=1e-5
        )


def test_a_mark_that_was_cut_off_leaves_the_whole_text(encoder, tiny_tokenizer):
    ids = tiny_tokenizer(mark_pair(TEXT, (0, 3), (24, 28)))["input_ids"]
    cut = ids[: ids.index(tiny_tokenizer("road")["input_ids"][0])]
    found = encoder.features([cut[:20]], "markers")[0]
    np.testing.assert_array_equal(found[:32], found[64:])


@given(
    before=st.integers(0, 60), between=st.integers(0, 60), behind=st.integers(0, 60),
    room=st.integers(44, 100), turned=st.booleans(),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_long_text_is_cut_around_its_pair(before, between, behind, room, turned, tiny_wordpieces):
    words = ["in"] * before, ["on"] * between, ["re"] * behind
    text = " ".join([*words[0], "ann", *words[1], "lee", *words[2]])
    ends = (text.index("ann"), text.index("ann") + 3), (text.index("lee"), text.index("lee") + 3)
    marked = mark_pair(text, *(reversed(ends) if turned else ends))
    coded = tiny_wordpieces(marked, add_special_tokens=False, return_offsets_mapping=True)
    cut = around_pair(marked, coded["offset_mapping"], room)
    assert len(tiny_wordpieces(cut, add_special_tokens=False)["input_ids"]) <= room
    for mark in ("<head>", "</head>", "<tail>", "</tail>"):
        assert mark in cut
    for inside in ("ann", "lee"):
        assert f">{inside}<" in cut
    if len(coded["input_ids"]) <= room:
        assert cut == marked
    elif cut in marked:  # as much of the text as there is room for
        assert len(tiny_wordpieces(cut, add_special_tokens=False)["input_ids"]) == room


def test_a_text_without_its_marks_is_left_alone():
    offsets = [(n, n + 1) for n in range(10)]
    assert around_pair("<head>ab</", offsets, 4) == "<head>ab</"


def test_bases_cut_pairs_around_and_other_texts_at_the_end(tmp_path, tiny_wordpieces):
    tiny_net("bert").save_pretrained(tmp_path)
    tiny_wordpieces.save_pretrained(tmp_path)
    bases = Bases(Runtime(device="cpu", dtype="float32", threads=1))
    text = " ".join(["in"] * 100 + ["ann", "met", "lee"])
    marked = mark_pair(text, (300, 303), (308, 311))
    plain, pair = bases.tokens(str(tmp_path), [text, marked], limit=60)
    assert len(plain) == 62
    assert len(pair) <= 62
    said = tiny_wordpieces.decode(pair).replace(" ##", "")
    assert "ann" in said
    assert "lee" in said
    assert "ann" not in tiny_wordpieces.decode(plain)


def test_training_pools_as_features_do(encoder, tiny_tokenizer):
    rows = tiny_tokenizer([mark_pair(TEXT, (0, 3), (8, 11)), mark_pair(TEXT, (8, 11), (0, 3))])
    ids = rows["input_ids"]
    features = encoder.features(ids, "markers")
    start = Head.fit(features, ["a", "b"], labels=("a", "b"), pooling="markers")
    supervision = HeadSupervision(encoder, ids, [0, 1], TrainedHead(start))
    loss = sum(float(part.detach()) for part, _ in supervision.losses([0, 1], 2048))
    wanted = -np.log(start.probabilities(features)[[0, 1], [0, 1]]).sum()
    assert loss == pytest.approx(wanted, rel=1e-4)
    assert torch.isfinite(torch.tensor(loss))
