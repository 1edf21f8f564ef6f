"""The losses of pretraining are the same in both engines, with the same examples."""

import pytest
import torch
from transformers import BertForPreTraining

from sapwood.errors import ConfigError
from sapwood.models.kinds import new_net
from sapwood.objectives import Draws, Vocabulary, objective
from sapwood.tensorflow.reading import TensorFlowReading
from sapwood.testing.corpora import Documents, tiny_documents, tiny_words_tokenizer
from sapwood.training.pretraining_setup import names_of
from sapwood.training.readings import Pretraining, held_out, reading_for
from sapwood.training.stream import Stream

LENGTH, ROWS = 64, 8
VOCABULARY = Vocabulary.of(tiny_words_tokenizer())
TEXT = Documents(tiny_documents(40))
PAIRS = [("bert-tiny", "mlm"), ("bert-tiny", "nsp"), ("bert-tiny", "mlm+nsp"),
         ("bert-tiny", "mlm+sop"), ("gpt-tiny", "clm"), ("decoder-tiny", "clm")]  # fmt: skip


def course(net_name, line, make):
    """Return (losses of two batches, gradients of the last, held-out losses)."""
    learns = objective(line)
    names = names_of(learns)
    net = new_net(net_name, VOCABULARY, LENGTH, names)
    stream = Stream(Draws(learns, TEXT, VOCABULARY, LENGTH, 0))
    reading = make(net, names)
    supervised = Pretraining(reading, stream)
    losses = []
    for numbers in (range(ROWS), range(ROWS, 2 * ROWS)):
        net.zero_grad(set_to_none=True)
        supervised.supervised(numbers)
        parts = [part for part, _ in supervised.losses(numbers, 200)]
        assert len(parts) > 1
        torch.stack(parts).sum().backward()
        losses.append(float(sum(part.detach() for part in parts)))
    slopes = {n: w.grad for n, w in net.named_parameters() if w.grad is not None}
    examples = [stream.example(n) for n in range(ROWS)]
    return losses, slopes, held_out(reading, examples, 200, torch.float32)


@pytest.mark.parametrize(("net", "line"), PAIRS)
def test_losses_and_gradients(net, line):
    wanted, found = (course(net, line, make) for make in (reading_for, TensorFlowReading))
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    moved = {name for name, slope in wanted[1].items() if slope.abs().max() > 0}
    assert moved <= set(found[1])
    for name in moved:
        room = 1e-4 * max(1e-2, float(wanted[1][name].abs().max()))
        torch.testing.assert_close(found[1][name], wanted[1][name], rtol=1e-3, atol=room)
    assert found[2].parts == pytest.approx(wanted[2].parts, rel=1e-5)
    if line == "clm":
        assert found[2].bits_per_byte == pytest.approx(wanted[2].bits_per_byte, rel=1e-5)


def test_label_0_says_that_the_second_follows_the_first():
    net = new_net("bert-tiny", VOCABULARY, LENGTH, ("nsp",))
    assert isinstance(net, BertForPreTraining)
    with torch.no_grad():
        net.cls.seq_relationship.bias += torch.tensor([9.0, 0.0])  # it believes in 0
    reading = TensorFlowReading(net, ("nsp",))
    draws = Draws(objective("nsp"), TEXT, VOCABULARY, LENGTH, 0)
    examples = [draws.draw(0, n) for n in range(20)]
    for label, low, high in ((0, 0.0, 0.1), (1, 5.0, 12.0)):
        own = [e for e in examples if int(e["next_sentence_label"]) == label]
        assert own
        assert low <= held_out(reading, own, 1000, torch.float32).parts["nsp"] <= high


@pytest.mark.parametrize(
    ("net", "names", "dropout", "said"),
    [("gpt-tiny", ("fim",), 0.0, "fim"), ("gpt-tiny", ("clm",), 0.1, "pdrop")],
)
def test_what_it_does_not_train_is_refused(net, names, dropout, said):
    made = new_net(net, VOCABULARY, LENGTH, names, dropout=dropout)
    with pytest.raises(ConfigError, match=said) as caught:
        TensorFlowReading(made, names)
    assert caught.value.code == "E-CONFIG-263"
