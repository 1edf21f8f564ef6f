"""Label words on an encoder-decoder: as transformers' own forward has them, all in one row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.methods.lora import Lora
from sapwood.methods.prompt import Prompt
from sapwood.models.text_to_text import TextToText, answered, laid_out
from sapwood.models.trie import build_trie
from sapwood.testing import tiny_net

LABELS = [[7, 1], [7, 9, 1], [30, 31, 32, 33, 1], [30, 31, 40, 1], [8, 1]]
ROWS = [[20, 21, 22], [60, 61, 62, 63, 64, 65, 66], [100] * 19]


@pytest.fixture(scope="module")
def net():
    return tiny_net("t5")


def own(net, ids, label, front=()):
    """Return the log-probability of a label's tokens, as the net itself computes it."""
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([[*front, *ids]]), labels=torch.tensor([label])).logits
    said = logits[0].log_softmax(-1)
    return float(said[torch.arange(len(label)), torch.tensor(label)].sum())


def test_scores_are_the_nets_own_log_probabilities(net):
    found = TextToText(net).label_scores(ROWS, build_trie(LABELS))
    expected = [[own(net, ids, label) for label in LABELS] for ids in ROWS]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_net_without_tied_weights_is_read_unscaled(monkeypatch):
    net = tiny_net("t5", seed=3)
    for name in ("scale_decoder_outputs", "tie_word_embeddings"):
        if hasattr(net.config, name):
            monkeypatch.setattr(net.config, name, not getattr(net.config, name))
    found = TextToText(net).label_scores(ROWS, build_trie(LABELS))
    expected = [[own(net, ids, label) for label in LABELS] for ids in ROWS]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    labels=st.lists(
        st.lists(st.integers(4, 9), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6,
        unique=True,
    ),
    rows=st.lists(st.lists(st.integers(10, 290), min_size=1, max_size=12), min_size=1, max_size=4),
)  # fmt: skip
def test_any_labels_of_any_rows(net, labels, rows):
    ended = [[*label, 1] for label in labels]
    found = TextToText(net).label_scores(rows, build_trie(ended))
    expected = [[own(net, ids, label) for label in ended] for ids in rows]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_among_the_labels_alone_they_sum_to_one(net):
    found = TextToText(net).label_scores(ROWS, build_trie(LABELS), normalise="trie")
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)


def test_words_that_begin_alike_are_laid_once():
    laid = laid_out(build_trie(LABELS), start=0)
    # (0, 7, 9) of the second label has (0, 7) of the first in it
    assert laid.ids == (0, 7, 9, 0, 30, 31, 32, 33, 0, 30, 31, 40, 0, 8)
    assert not laid.mask[:3, 3:].any() and not laid.mask[3:, :3].any()
    assert not torch.triu(laid.mask, 1).any()


@pytest.mark.parametrize("method", [Lora(), Prompt(tokens=5)], ids=lambda m: m.name)
def test_methods_act_on_what_is_scored(method):
    net = tiny_net("t5")
    before = TextToText(net).label_scores(ROWS, build_trie(LABELS))
    method.attach(net, seed=1)
    for tensor in net.parameters():
        if tensor.requires_grad:
            tensor.data.add_(0.3)
    after = TextToText(net).label_scores(ROWS, build_trie(LABELS))
    assert np.abs(after - before).max() > 1e-2


def test_training_states_are_where_the_answers_are_predicted(net):
    model, trie = TextToText(net), build_trie(LABELS)
    answers = [LABELS[2], LABELS[0], LABELS[3]]
    head = net.get_output_embeddings()
    for budget in (10, 4096):
        found = {}
        for part, states, tokens in answered(model, ROWS, answers, budget):
            at = 0
            for n in part:
                logits = head(states[at : at + len(answers[n])]).log_softmax(-1)
                found[n] = float(sum(logits[k, t] for k, t in enumerate(answers[n])).detach())
                at += len(answers[n])
            assert at == len(states) and tokens >= at
        expected = [own(net, ids, label) for ids, label in zip(ROWS, answers, strict=True)]
        np.testing.assert_allclose([found[n] for n in range(3)], expected, atol=1e-4)
    assert len(trie.paths) == 5
