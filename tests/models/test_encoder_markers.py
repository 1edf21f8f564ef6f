"""Pooling a marked pair: the whole text, its head and its tail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapwood.models.encoder import Encoder, pair_marks
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
