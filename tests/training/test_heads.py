"""The loss of encoders under a head: equal to the padded way, and reaching all that trains."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import DataError, ModelError
from sapwood.methods import METHODS, parts
from sapwood.methods.lora import Lora
from sapwood.models.encoder import Encoder
from sapwood.readouts.head import Head, TokenHead
from sapwood.registry import resolve
from sapwood.testing import tiny_net
from sapwood.training import (
    IGNORED,
    HeadSupervision,
    Recipe,
    TokenSupervision,
    TrainedHead,
    first_pieces,
    fit,
    head_weights,
    make_optimiser,
    scaled_optimiser,
)

LABELS = ("a", "b", "c")
WRAPPING = [n for n in METHODS if n in ("lora", "dora", "vera", "ia3", "adapter", "bitfit",
                                        "layernorm")]  # fmt: skip


def rows_of(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 290, rng.integers(3, 30)).tolist() for _ in range(count)]


def text_level(rows, pooling="mean", method=None, dropout=0.0, kind="bert"):
    """Return (net, supervision, weights) with a label drawn for each row."""
    net = lively(tiny_net(kind))
    if method is not None:
        moved(method.attach(net, seed=1))
    head = TrainedHead(Head.random(LABELS, 32, seed=3, pooling=pooling, dropout=dropout))
    gold = np.random.default_rng(5).integers(0, 3, len(rows))
    return net, HeadSupervision(Encoder(net), rows, gold, head), head_weights(net, head)


def token_level(rows, method=None):
    """Return (net, supervision, weights) with labels drawn for two tokens in three."""
    net = lively(tiny_net("bert"))
    if method is not None:
        moved(method.attach(net, seed=1))
    rng = np.random.default_rng(5)
    gold = [[int(rng.choice([0, 1, 2, 2, IGNORED, IGNORED])) for _ in ids] for ids in rows]
    head = TrainedHead(TokenHead.random(LABELS, 32, seed=3))
    return net, TokenSupervision(Encoder(net), rows, gold, head), head_weights(net, head)


def lively(net):
    """Return a net whose states differ from row to row: its normalisation starts as BERT's does."""
    for name, tensor in net.named_parameters():
        if "LayerNorm" in name:
            tensor.data.fill_(float(name.endswith("weight")))
    return net


def moved(net):
    """Move every trained tensor off its start, where some have no effect yet."""
    generator = torch.Generator().manual_seed(7)
    for tensor in parts.weights(net).values():
        tensor.data += 0.05 * torch.randn(tensor.shape, generator=generator)
    return net


def padded(net, rows):
    """Return the last hidden states of rows the usual way, (rows, longest, hidden), and a mask."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    net.set_attn_implementation("sdpa")
    states = net(input_ids=ids, attention_mask=mask).last_hidden_state
    return states, mask.bool()


def loss_of(supervision, numbers, budget=10_000):
    """Return the mean loss, its gradients being added to what trains."""
    count, total = supervision.supervised(numbers), 0.0
    for part, _ in supervision.losses(numbers, budget):
        (part / count).backward()
        total += float(part.detach()) / count
    return total


def gradients(weights):
    found = {name: tensor.grad.clone() for name, tensor in weights.items()}
    for tensor in weights.values():
        tensor.grad = None
    return found


def assert_close(one, two):
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, two[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("budget", [10_000, 40])
def test_the_loss_of_texts_is_that_of_the_padded_way(pooling, budget):
    rows = rows_of()
    net, supervision, weights = text_level(rows, pooling, Lora(rank=4))
    numbers = [7, 2, 9, 0, 4]
    found = loss_of(supervision, numbers, budget)
    got = gradients(weights)
    states, mask = padded(net, [rows[n] for n in numbers])
    vectors = states[:, 0]
    if pooling == "mean":
        vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    gold = torch.tensor([int(supervision.gold[n]) for n in numbers])
    expected = functional.cross_entropy(supervision.head(vectors), gold)
    expected.backward()
    assert found == pytest.approx(float(expected.detach()), abs=1e-5)
    assert_close(got, gradients(weights))


@pytest.mark.parametrize("budget", [10_000, 40])
def test_the_loss_of_tokens_is_that_of_the_padded_way(budget):
    rows = rows_of()
    net, supervision, weights = token_level(rows, Lora(rank=4))
    numbers = [7, 2, 9, 0, 4]
    found = loss_of(supervision, numbers, budget)
    got = gradients(weights)
    states, mask = padded(net, [rows[n] for n in numbers])
    gold = torch.full(mask.shape, IGNORED)
    for place, n in enumerate(numbers):
        gold[place, : len(rows[n])] = torch.tensor(supervision.gold[n])
    expected = functional.cross_entropy(
        supervision.head(states.flatten(0, 1)), gold.flatten(), ignore_index=IGNORED
    )
    expected.backward()
    assert found == pytest.approx(float(expected.detach()), abs=1e-5)
    assert_close(got, gradients(weights))


@pytest.mark.parametrize("name", WRAPPING)
@pytest.mark.parametrize("level", [text_level, token_level])
def test_gradients_reach_the_method_and_the_head_and_nothing_else(name, level):
    method = resolve("method", METHODS, name)()
    net, supervision, weights = level(rows_of(), method=method)
    loss_of(supervision, list(range(12)))
    assert {"head.weight", "head.bias"} < set(weights)
    for path, tensor in weights.items():
        assert tensor.grad is not None and float(tensor.grad.abs().sum()) > 0, path
    own = {id(tensor) for tensor in weights.values()}
    assert all(p.grad is None for p in net.parameters() if id(p) not in own)


def test_a_head_alone_trains_without_a_graph_of_the_base():
    net, supervision, weights = text_level(rows_of())
    assert set(weights) == {"head.weight", "head.bias"}
    loss_of(supervision, [0, 1, 2])
    assert weights["head.weight"].grad is not None
    assert all(p.grad is None for p in net.parameters())


def test_states_keep_the_graph_only_when_asked():
    net = Lora(rank=2).attach(tiny_net("bert"))
    encoder = Encoder(net)
    rows = rows_of(3)
    assert all(not s.requires_grad for s in encoder.states(rows))
    with torch.no_grad():
        asked = encoder.states(rows, gradient=True)
    assert all(s.requires_grad for s in asked)
    for gradient in (True, False):
        for _ in encoder.packs(rows, budget=5, gradient=gradient):
            assert torch.is_grad_enabled()  # what the caller does between packs is its own


def test_an_encoder_that_cannot_be_packed_gives_the_same_loss_padded():
    rows = rows_of()
    _, packed, weights = text_level(rows, method=Lora(rank=4))
    found = loss_of(packed, list(range(12)))
    got = gradients(weights)
    packed.encoder.packed = False
    packed.encoder.net.set_attn_implementation("sdpa")
    assert loss_of(packed, list(range(12))) == pytest.approx(found, abs=1e-5)
    assert_close(got, gradients(weights))


def test_the_heads_own_dropout_acts_in_training_only():
    torch.manual_seed(0)
    _, supervision, weights = text_level(rows_of(), dropout=0.5)
    supervision.head.eval()
    calm = [loss_of(supervision, [1, 2, 3]) for _ in range(2)]
    supervision.head.train()
    shaken = [loss_of(supervision, [1, 2, 3]) for _ in range(2)]
    assert calm[0] == calm[1] and len({*calm, *shaken}) == 3
    assert weights["head.bias"].grad is not None


def test_the_trained_head_is_read_as_it_was_trained():
    rows = rows_of()
    _, supervision, weights = text_level(rows, method=Lora(rank=4))
    recipe = Recipe(batch_size=6, learning_rate=5e-3)
    optimiser = scaled_optimiser(weights, recipe, {"head.weight": 4.0})
    steps = list(fit(supervision, optimiser, recipe, total=20))
    assert steps[-1].loss < 0.5 * steps[0].loss
    read = supervision.head.readout()
    assert read.labels == LABELS and not np.array_equal(read.weight, supervision.head.start.weight)
    found = read.probabilities(supervision.encoder.features(rows))
    loss = -np.log(found[range(12), supervision.gold]).mean()
    with torch.no_grad():
        parts_ = list(supervision.losses(list(range(12)), 10_000))
    assert loss == pytest.approx(float(sum(p for p, _ in parts_)) / 12, abs=1e-5)


def test_a_factor_of_one_changes_nothing_and_others_scale_the_first_step():
    recipe = Recipe(batch_size=6, learning_rate=1e-2, clip=1e9)
    moves = {}
    for factor in (None, 1.0, 3.0):
        _, supervision, weights = text_level(rows_of(), method=Lora(rank=4))
        before = {n: t.detach().clone() for n, t in weights.items()}
        if factor is None:
            optimiser = make_optimiser(list(weights.values()), recipe)
        else:
            times = {"head.weight": factor, "head.bias": factor}
            optimiser = scaled_optimiser(weights, recipe, times)
        list(fit(supervision, optimiser, recipe, total=2))
        moves[factor] = {n: t.detach() - before[n] for n, t in weights.items()}
        if factor is not None:
            rates = {group["times"]: group["lr"] for group in optimiser.param_groups}
            assert rates[factor] == pytest.approx(factor * rates.get(1.0, rates[factor]))
    assert_close(moves[None], moves[1.0])
    ratio = moves[3.0]["head.bias"] / moves[1.0]["head.bias"]
    assert 2 < float(ratio.abs().median()) < 4


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_has_the_weights_of_an_undisturbed_one(tmp_path, dropout):
    recipe = Recipe(batch_size=5, learning_rate=1e-2, seed=4)

    def begin():
        _, supervision, weights = text_level(
            rows_of(), method=Lora(rank=4, dropout=dropout), dropout=dropout
        )
        for _, part in parts.parts(supervision.encoder.net):
            part.training = True
        times = {"head.weight": 2.0}
        return supervision, weights, scaled_optimiser(weights, recipe, times)

    torch.manual_seed(0)
    supervision, weights, optimiser = begin()
    losses = [step.loss for step in fit(supervision, optimiser, recipe, total=9)]
    expected = {n: t.detach().clone() for n, t in weights.items()}

    torch.manual_seed(0)
    supervision, weights, optimiser = begin()
    for step in fit(supervision, optimiser, recipe, total=9):
        if step.number == 4:
            save_checkpoint(tmp_path, step=4, weights=weights, optimiser=optimiser, extra={})
            break

    torch.manual_seed(99)
    supervision, weights, optimiser = begin()
    number, _, _ = load_checkpoint(tmp_path, weights=weights, optimiser=optimiser)
    again = list(fit(supervision, optimiser, recipe, total=9, first=number + 1))
    assert [step.loss for step in again] == losses[4:]
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name


def test_only_the_first_piece_of_a_word_is_labelled():
    words = [None, 0, 1, 1, 1, 2, None]
    assert first_pieces(words, [4, 5, 6]) == [IGNORED, 4, 5, IGNORED, IGNORED, 6, IGNORED]
    assert first_pieces([None, None], []) == [IGNORED, IGNORED]
    assert first_pieces([0, 0], [1, 2]) == [1, IGNORED]  # a text that was cut off


def test_rows_without_any_labelled_token_are_no_accident():
    head = TrainedHead(TokenHead.random(LABELS, 32))
    rows = rows_of(2)
    gold = [[IGNORED] * len(rows[0]), [IGNORED, *[0] * (len(rows[1]) - 1)]]
    supervision = TokenSupervision(Encoder(tiny_net("bert")), rows, gold, head)
    assert supervision.supervised([0]) == 1
    assert supervision.supervised([0, 1]) == len(rows[1]) - 1
    assert loss_of(supervision, [0]) == 0.0


def test_what_cannot_be_trained_on_is_refused():
    encoder = Encoder(tiny_net("bert"))
    texts = TrainedHead(Head.random(LABELS, 32))
    tokens = TrainedHead(TokenHead.random(LABELS, 32))
    with pytest.raises(ModelError, match="600 tokens; this base reads at most 512"):
        HeadSupervision(encoder, [[5] * 600], [0], texts)
    with pytest.raises(DataError, match="not among the 3 known labels") as caught:
        HeadSupervision(encoder, [[5], [6]], [3, -1], texts)
    assert caught.value.details == ("-1", "3")
    with pytest.raises(DataError, match="the first is row 2"):
        TokenSupervision(encoder, [[5], [6, 7]], [[0], [1]], tokens)
    with pytest.raises(DataError, match="not among the 3 known labels"):
        TokenSupervision(encoder, [[5, 6]], [[IGNORED, 7]], tokens)
