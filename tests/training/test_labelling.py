"""Binary cross-entropy of several labels a text: equal to the padded way, and learning."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from sapwood.errors import DataError
from sapwood.models.encoder import Encoder
from sapwood.readouts.head import Head
from sapwood.testing import tiny_net
from sapwood.training import Recipe, TrainedHead, fit, head_weights, make_optimiser
from sapwood.training.labelling import LabelsSupervision

LABELS = ("a", "b", "c")


def supervised(count=12):
    rng = np.random.default_rng(0)
    rows = [rng.integers(4, 290, rng.integers(3, 30)).tolist() for _ in range(count)]
    wanted = rng.random((count, 3)) < 0.4
    net = tiny_net("bert")
    for name, tensor in net.named_parameters():
        if "LayerNorm" in name:  # as BERT's starts, or every row has the same state
            tensor.data.fill_(float(name.endswith("weight")))
    head = TrainedHead(Head.random(LABELS, 32, seed=3))
    return net, rows, wanted, LabelsSupervision(Encoder(net), rows, wanted, head)


def test_the_packed_loss_is_the_sum_over_rows_and_labels():
    net, rows, wanted, made = supervised()
    expected = 0.0
    for ids, gold in zip(rows, wanted, strict=True):
        state = net(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
        logits = functional.linear(state, made.head.weight, made.head.bias)
        expected += functional.binary_cross_entropy_with_logits(
            logits, torch.tensor(gold, dtype=torch.float32), reduction="sum"
        )
    for budget in (40, 2048):
        parts = [float(loss.detach()) for loss, _ in made.losses(range(len(rows)), budget)]
        assert sum(parts) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert made.supervised(range(5)) == 5


def test_training_learns_the_rows_by_heart():
    net, rows, wanted, made = supervised()
    recipe = Recipe(learning_rate=0.2, batch_size=4, epochs=200.0, seed=0)
    weights = head_weights(net, made.head)
    for _ in fit(made, make_optimiser(list(weights.values()), recipe), recipe, total=400):
        pass
    found = Encoder(net).features(rows)
    said = made.head.readout().logits(found) > 0
    assert (said == wanted).mean() > 0.95


def test_answers_of_another_shape_are_refused():
    net, rows, wanted, made = supervised()
    with pytest.raises(DataError, match=r"needs answers of shape \(12, 3\), got \(12, 2\)"):
        LabelsSupervision(Encoder(net), rows, wanted[:, :2], made.head)
