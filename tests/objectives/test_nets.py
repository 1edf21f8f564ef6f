"""Examples are what transformers' own nets take: their losses, by hand from their scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AlbertForPreTraining,
    BertConfig,
    BertForPreTraining,
    T5Config,
    T5ForConditionalGeneration,
)

from sapwood.objectives import NO_TARGET, Draws, objective
from sapwood.testing import sample_documents, tiny_net

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32, "vocab_size": 500}  # fmt: skip


def example_of(line, vocabulary, index=0):
    draws = Draws(objective(line), sample_documents(30), vocabulary, 48)
    draws.plan(0)
    made = draws.draw(0, index)
    return {name: torch.as_tensor(array)[None] for name, array in made.items()}


def entropy(logits, labels):
    """Return the mean loss over targets, from logits (n, classes) and labels (n,)."""
    kept = labels != NO_TARGET
    rows = torch.log_softmax(logits[kept], dim=-1)
    return -rows[torch.arange(len(rows)), labels[kept]].mean()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("index", range(6))
def test_bert_takes_mlm_and_nsp(index, vocabulary):
    net = BertForPreTraining(BertConfig(**SMALL)).eval()
    made = example_of("mlm+nsp", vocabulary, index)
    documents = made.pop("documents")
    assert not documents.any()
    out = net(**made)
    masked = entropy(out.prediction_logits[0], made["labels"][0])
    pair = functional.cross_entropy(out.seq_relationship_logits, made["next_sentence_label"])
    assert torch.allclose(out.loss, masked + pair, atol=1e-6)


def test_bert_knows_label_0_as_the_next_sentence(vocabulary):
    """A net that learns these labels calls a true continuation 0."""
    text = sample_documents(30)
    draws = Draws(objective("nsp"), text, vocabulary, 48)
    found = set()
    for index in range(draws.plan(0)):
        layout = draws._layout(0)
        a, b = layout.documents[2 * index : 2 * index + 2]
        label = int(draws.draw(0, index)["next_sentence_label"])
        assert (a == b) == (label == 0)
        found.add(label)
    assert found == {0, 1}
    words = BertForPreTraining.forward.__doc__
    assert "0 indicates sequence B is a continuation of sequence A" in words


def test_albert_takes_mlm_and_sop(vocabulary):
    net = AlbertForPreTraining(AlbertConfig(embedding_size=8, **SMALL)).eval()
    made = example_of("mlm+sop", vocabulary)
    made.pop("documents")
    order = made.pop("next_sentence_label")
    out = net(**made, sentence_order_label=order)
    masked = entropy(out.prediction_logits[0], made["labels"][0])
    pair = functional.cross_entropy(out.sop_logits, order)
    assert torch.allclose(out.loss, masked + pair, atol=1e-6)
    assert "`0` indicates original order" in AlbertForPreTraining.forward.__doc__


@pytest.mark.parametrize("line", ["span", "ul2", "prefix_lm(form=pair)"])
def test_t5_takes_inputs_and_labels_and_shifts_them_itself(line, vocabulary):
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=500,
                      decoder_start_token_id=0, pad_token_id=0)  # fmt: skip
    net = T5ForConditionalGeneration(config).eval()
    made = example_of(line, vocabulary)
    out = net(input_ids=made["input_ids"], labels=made["labels"])
    shifted = torch.cat([torch.zeros_like(made["labels"][:, :1]), made["labels"][:, :-1]], dim=1)
    again = net(input_ids=made["input_ids"], decoder_input_ids=shifted)
    assert torch.allclose(out.loss, entropy(again.logits[0], made["labels"][0]), atol=1e-6)


@pytest.mark.parametrize("line", ["clm", "fim", "prefix_lm"])
def test_decoders_take_labels_in_place(line, vocabulary):
    net = tiny_net("gpt2", vocabulary=500)
    made = example_of(line, vocabulary)
    out = net(input_ids=made["input_ids"], labels=made["labels"])
    expected = entropy(out.logits[0, :-1], made["labels"][0, 1:])
    assert torch.allclose(out.loss, expected, atol=1e-5)
    targets = made["labels"][0] != NO_TARGET
    assert (made["labels"][0][targets] == made["input_ids"][0][targets]).all()


def test_xlnet_takes_masks_and_targets(vocabulary):
    net = tiny_net("xlnet", vocabulary=500)
    made = example_of("plm+nsp", vocabulary)
    out = net(
        input_ids=made["input_ids"],
        token_type_ids=made["token_type_ids"],
        perm_mask=made["perm_mask"].float(),
        target_mapping=made["target_mapping"].float(),
        labels=made["labels"],
    )
    assert out.logits.shape == (1, made["labels"].shape[1], 500)
    assert torch.allclose(out.loss, entropy(out.logits[0], made["labels"][0]), atol=1e-5)


def test_what_electra_sees_differs_only_where_the_generator_was_wrong(vocabulary):
    made = example_of("rtd", vocabulary)
    ids, labels = made["input_ids"][0], made["labels"][0]
    targets = labels != NO_TARGET
    original = torch.where(targets, labels, ids)
    sampled = original.clone()
    wrong = torch.nonzero(targets)[::2, 0]
    sampled[wrong] = (original[wrong] + 1) % 300 + 24
    corrupted = torch.where(targets, sampled, ids)
    assert set(torch.nonzero(corrupted != original)[:, 0].tolist()) == set(wrong.tolist())
    assert np.isin(vocabulary.mask, corrupted.numpy()) == np.False_
