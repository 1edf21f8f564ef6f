"""Losses, gradients and whole courses of tuning are the same in both engines."""

import pytest
import torch
from torch import nn

from sapwood.errors import ConfigError
from sapwood.methods import parts
from sapwood.methods.together import parse
from sapwood.models.decoder import Decoder
from sapwood.models.encoder import Encoder
from sapwood.models.trie import build_trie
from sapwood.readouts.head import Head
from sapwood.tensorflow import supervision as second
from sapwood.training import Recipe, Supervision, fit, make_optimiser, target
from sapwood.training.heads import HeadSupervision, TrainedHead, head_weights


def second_words(*given, **seat):
    return second.under_words(Supervision(*given, **seat))


def second_head(*given, xla=False):
    return second.under_head(HeadSupervision(*given), xla=xla)


LABELS = [[10, 11], [10, 12, 13], [20]]
METHODS = ("lora(rank=4)", "adapter(width=8)", "prefix(tokens=4, start=random)")
KINDS = ("gpt2", "llama", "qwen3")


def rows():
    generator = torch.Generator().manual_seed(3)
    lengths = (3, 30, 12, 7, 25, 9, 14, 5)
    return [torch.randint(30, 290, (n,), generator=generator).tolist() for n in lengths]


def gradients(supervision, weights):
    """Return (summed loss, gradients by name) of all examples, in two parts."""
    total = 0.0
    for loss, tokens in supervision.losses(range(len(supervision)), 60):
        assert tokens > 0
        loss.backward()
        total += float(loss.detach())
    return total, {name: tensor.grad.clone() for name, tensor in weights.items()}


def same(one, other, most=1e-4):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    for name, wanted in other[1].items():
        room = most * max(1e-3, float(wanted.abs().max()))
        torch.testing.assert_close(one[1][name], wanted, rtol=most, atol=room)


@pytest.mark.parametrize("opening", ["", "shared", "cached"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_under_label_words(kind, method, opening, tiny_net):
    found = []
    for make in (Supervision, second_words):
        net = tiny_net(kind).float()
        parse(method).attach(net)
        for number, tensor in enumerate(parts.weights(net).values()):
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
            tensor.data += 0.05 * noise
        decoder, trie = Decoder(net, weights_key=lambda: method), build_trie(LABELS)
        targets = [target(row, n % 3, trie) for n, row in enumerate(rows())]
        seat = {"shared": range(40, 60)} if opening == "shared" else {}
        if opening == "cached":
            with torch.no_grad():
                seat = {"prefix": decoder.encode(list(range(40, 60)))}
        found.append(gradients(make(decoder, targets, trie, **seat), parts.weights(net)))
    same(found[1], found[0])


def test_a_prefix_and_another_method_behind_a_prompt_are_refused(tiny_net):
    net = tiny_net("llama").float()
    parse("prefix(tokens=4, start=random)+lora(rank=4)").attach(net)
    decoder, trie = Decoder(net, weights_key=lambda: "both"), build_trie(LABELS)
    targets = [target(row, 0, trie) for row in rows()]
    assert len(second_words(decoder, targets, trie)) == len(targets)
    with pytest.raises(ConfigError, match="by itself only"):
        second_words(decoder, targets, trie, shared=range(40, 60))


def headed(tiny_net, method, make, dropout=0.0, pooling="mean"):
    """Return (supervision, what trains) of a tiny BERT under a head."""
    encoder = Encoder(tiny_net("bert").float())
    if method:
        parse(method).attach(encoder.net)
    width = encoder.net.config.hidden_size
    weight = torch.randn(3, width, generator=torch.Generator().manual_seed(5)).numpy()
    start = Head(
        labels=("a", "b", "c"), weight=weight, bias=weight[:, 0].copy(), pooling=pooling,
        dropout=dropout,
    )  # fmt: skip
    head = TrainedHead(start)
    gold = [n % 3 for n in range(len(rows()))]
    return make(encoder, rows(), gold, head), head_weights(encoder.net, head)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("method", ["", *METHODS])
def test_an_encoder_under_a_head(method, pooling, tiny_net):
    found = [
        gradients(*headed(tiny_net, method, make, pooling=pooling))
        for make in (HeadSupervision, second_head)
    ]
    same(found[1], found[0])


@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_go_the_same_way(method, tiny_net):
    courses = []
    for make in (HeadSupervision, second_head):
        supervision, weights = headed(tiny_net, method, make)
        recipe = Recipe(learning_rate=1e-3, batch_size=4, epochs=10)
        optimiser = make_optimiser(list(weights.values()), recipe)
        courses.append([s.loss for s in fit(supervision, optimiser, recipe, total=20)])
    assert courses[1] == pytest.approx(courses[0], abs=1e-3)
    assert courses[0][-1] < courses[0][0]


def test_dropout_on_the_head_acts_while_training(tiny_net):
    supervision, weights = headed(tiny_net, "lora(rank=4)", second_head, dropout=0.5)
    supervision.plain.head.train()
    first, again = (gradients(supervision, weights)[0] for _ in range(2))
    assert first != again
    supervision.plain.head.eval()
    first, again = (gradients(supervision, weights)[0] for _ in range(2))
    assert first == again


def test_xla_computes_the_same(tiny_net):
    def compiled(*given):
        return second_head(*given, xla=True)

    found = [
        gradients(*headed(tiny_net, "lora(rank=4)", make))
        for make in (HeadSupervision, compiled)
    ]  # fmt: skip
    same(found[1], found[0])


def test_an_unknown_pooling_is_refused(tiny_net):
    with pytest.raises(ConfigError, match="does not pool by 'markers'"):
        headed(tiny_net, "", second_head, pooling="markers")


def test_no_tensor_of_torch_is_touched(tiny_net):
    supervision, weights = headed(tiny_net, "lora(rank=4)", second_head)
    before = {name: tensor.detach().clone() for name, tensor in weights.items()}
    gradients(supervision, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())
    assert isinstance(supervision.plain.head, nn.Module)
