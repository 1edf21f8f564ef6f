"""Label words at masks: as transformers' own masked language model has them, packed."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM

from sapwood.launch import Runtime
from sapwood.methods.lora import Lora
from sapwood.models.encoder import Encoder
from sapwood.models.load import load_base
from sapwood.models.masked import MaskedWords, has_head
from sapwood.training.masked import MaskedSupervision

MASK = 5
LABELS = [[7], [8], [30, 31], [40, 41], [50, 51, 52]]
TEXTS = [[20, 21, 22], [60, MASK, 62, 63, 64, 65], [100] * 17]


def made(seed=0):
    """Return a tiny random BERT with its masked-language-model head, larger than usual weights."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128,
    )  # fmt: skip
    net = BertForMaskedLM(config).eval().requires_grad_(False)
    for name, tensor in net.named_parameters():
        if "LayerNorm" not in name and tensor.ndim > 1:
            torch.nn.init.normal_(tensor, std=0.15)
    return net


@pytest.fixture(scope="module")
def net():
    return made()


def with_masks(texts, counts):
    """Return rows as a reader makes them: start, text, masks, stop, end; texts may hold masks."""
    return [{n: [2, *ids, *[MASK] * n, 9, 3] for n in counts} for ids in texts]


def own(net, ids, label):
    """Return the summed log-probabilities at the last masks, as the net itself computes them."""
    with torch.no_grad():
        said = net(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    places = [n for n, token in enumerate(ids) if token == MASK][-len(label) :]
    return float(said[places, label].sum())


def scored(words, rows, budget=2048):
    found = np.zeros((len(rows), len(words.labels)))
    for part, scores, tokens in words.scores(rows, budget=budget):
        found[part] = scores.numpy()
        assert tokens == sum(len(ids) for n in part for ids in rows[n].values())
    return found


@pytest.mark.parametrize("budget", [20, 2048])
def test_scores_are_the_nets_own_at_the_masks(net, budget):
    expected = [
        [own(net, row[len(label)], label) for label in LABELS]
        for row in with_masks(TEXTS, (1, 2, 3))
    ]
    words = MaskedWords(Encoder(net.bert), net.cls, LABELS, mask=MASK)
    assert words.counts == (1, 2, 3)
    found = scored(words, with_masks(TEXTS, words.counts), budget)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    labels=st.lists(
        st.lists(st.integers(10, 290), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5,
        unique=True,
    ),
    texts=st.lists(st.lists(st.integers(10, 290), min_size=0, max_size=20), min_size=1, max_size=5),
)  # fmt: skip
def test_any_labels_of_any_texts(labels, texts):
    net = made(seed=1)
    counts = sorted({len(label) for label in labels})
    rows = with_masks(texts, counts)
    expected = [[own(net, row[len(label)], list(label)) for label in labels] for row in rows]
    words = MaskedWords(Encoder(net.bert), net.cls, labels, mask=MASK)
    np.testing.assert_allclose(scored(words, rows), expected, atol=1e-5)


def test_the_loss_is_cross_entropy_over_the_labels_and_reaches_the_method():
    net = made()
    Lora(rank=2).attach(net.bert, seed=1)
    for tensor in net.bert.parameters():
        if tensor.requires_grad:
            tensor.data.add_(0.05)
    words = MaskedWords(Encoder(net.bert), net.cls, LABELS, mask=MASK)
    rows = with_masks(TEXTS, words.counts)
    scores = torch.tensor(scored(words, rows))
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([1, 4, 2]), reduction="sum")
    supervision = MaskedSupervision(words, rows, [1, 4, 2])
    losses = [loss for loss, _ in supervision.losses([0, 1, 2], 2048)]
    assert float(sum(losses).detach()) == pytest.approx(float(expected), rel=1e-5)
    sum(losses).backward()
    trained = [t for t in net.bert.parameters() if t.requires_grad]
    assert trained and all(t.grad is not None and t.grad.abs().sum() > 0 for t in trained)
    assert not any(t.requires_grad for t in net.cls.parameters())


def test_a_checkpoint_with_the_head_is_loaded_with_it(net, tmp_path, tiny_wordpieces):
    net.save_pretrained(tmp_path)
    tiny_wordpieces.save_pretrained(tmp_path)
    base = load_base(str(tmp_path), Runtime(device="cpu", dtype="float32", threads=1))
    assert base.kind == "encoder" and base.masked is not None
    assert type(base.net).__name__ == "BertModel"
    words = MaskedWords(Encoder(base.net), base.masked, LABELS, mask=MASK)
    rows = with_masks(TEXTS, words.counts)
    expected = [[own(net, row[len(label)], label) for label in LABELS] for row in rows]
    np.testing.assert_allclose(scored(words, rows), expected, atol=1e-5)


def test_which_checkpoints_have_a_head_known_here():
    def config(kind, made_for):
        return json.loads(json.dumps({"model_type": kind, "architectures": made_for}))

    assert has_head(config("bert", ["BertForMaskedLM"]))
    assert has_head(config("bert", ["BertForPreTraining"]))
    assert not has_head(config("bert", ["BertModel"]))
    assert not has_head(config("bert", None))
    assert not has_head(config("roberta", ["RobertaForMaskedLM"]))
