"""The loss of pretraining: transformers' own nets say the same, however rows are packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sapwood.models.kinds import new_net
from sapwood.models.products import quickened
from sapwood.objectives import Draws, Vocabulary, objective
from sapwood.testing.corpora import Documents, tiny_documents, tiny_words_tokenizer
from sapwood.training.permuted import padded as padded_orders
from sapwood.training.pieces import NOT_LEARNT, packs, pieces
from sapwood.training.pretraining_setup import names_of
from sapwood.training.readings import Pretraining, reading_for
from sapwood.training.stream import Stream
from sapwood.training.token_loss import token_loss

LENGTH, ROWS = 64, 8
VOCABULARY = Vocabulary.of(tiny_words_tokenizer())
TEXT = Documents(tiny_documents(40))


class Some:
    """Examples of an objective; `net` reads them with `reading`."""

    def __init__(self, net_name: str, line: str, rows: int = ROWS, dropout: float = 0.0) -> None:
        learns = objective(line)
        self.names = names_of(learns)
        self.net = new_net(net_name, VOCABULARY, LENGTH, self.names, dropout=dropout)
        with torch.no_grad():  # the usual initialisation hides mistakes of attention
            for name, weight in self.net.named_parameters():
                if weight.ndim > 1 and "embed" not in name:
                    weight.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        self.stream = Stream(Draws(learns, TEXT, VOCABULARY, LENGTH, 0))
        self.examples = [self.stream.example(n) for n in range(rows)]

    def own(self, budget: int = 100) -> tuple[float, dict[str, Any]]:
        """Return our loss and gradients."""
        self.net.zero_grad(set_to_none=True)
        supervised = Pretraining(reading_for(self.net, self.names), self.stream)
        numbers = range(len(self.examples))
        assert supervised.supervised(numbers) == 1
        total = 0.0
        for part, tokens in supervised.losses(numbers, budget):
            assert tokens > 0
            part.backward()
            total += float(part.detach())
        return total, self._gradients()

    def theirs(self, loss: Any) -> tuple[float, dict[str, Any]]:
        """Return the gradients of a loss that was computed otherwise."""
        self.net.zero_grad(set_to_none=True)
        loss.backward()
        return float(loss.detach()), self._gradients()

    def _gradients(self) -> dict[str, Any]:
        named = self.net.named_parameters()
        return {name: w.grad.clone() for name, w in named if w.grad is not None}

    def rows(self) -> dict[str, Any]:
        """Return all pieces padded to one length, as transformers' nets take them."""
        own = [piece for example in self.examples for piece in pieces(example)]
        width = max(len(piece.ids) for piece in own)
        made = {
            "input_ids": torch.full((len(own), width), VOCABULARY.pad),
            "labels": torch.full((len(own), width), NOT_LEARNT),
            "attention_mask": torch.zeros(len(own), width, dtype=torch.long),
        }
        if own[0].types is not None:
            made["token_type_ids"] = torch.zeros(len(own), width, dtype=torch.long)
        for row, piece in enumerate(own):
            size = len(piece.ids)
            made["input_ids"][row, :size] = torch.from_numpy(piece.ids)
            made["labels"][row, :size] = torch.from_numpy(piece.labels)
            made["attention_mask"][row, :size] = 1
            if piece.types is not None:
                made["token_type_ids"][row, :size] = torch.from_numpy(piece.types)
        return made


def same(one: tuple[float, dict[str, Any]], other: tuple[float, dict[str, Any]]) -> None:
    """Assert that two losses and all their gradients are equal to 1e-5."""
    assert abs(one[0] - other[0]) <= 1e-5 * max(1, abs(other[0]))
    moved = {name for name, slope in other[1].items() if slope.abs().max() > 0}
    assert moved and moved <= set(one[1])
    for name, slope in one[1].items():
        wanted = other[1].get(name, torch.zeros_like(slope))
        largest = max(1.0, float(wanted.abs().max()))
        assert float((slope - wanted).abs().max()) <= 1e-5 * largest, name


@pytest.mark.parametrize("net", ["bert-tiny", "albert-tiny", "encoder-tiny"])
def test_masked_tokens_as_transformers_has_them(net: str) -> None:
    some = Some(net, "mlm")
    assert any(len(pieces(example)) > 1 for example in some.examples)
    own = some.own()
    some.net.set_attn_implementation("sdpa")
    same(own, some.theirs(some.net(**some.rows()).loss))


@pytest.mark.parametrize(
    ("net", "line", "name"),
    [
        ("bert-tiny", "mlm+nsp", "next_sentence_label"),
        ("albert-tiny", "mlm+sop", "sentence_order_label"),
    ],
)
def test_pairs_as_transformers_has_them(net: str, line: str, name: str) -> None:
    some = Some(net, line)
    own = some.own()
    some.net.set_attn_implementation("sdpa")
    labels = [int(example["next_sentence_label"]) for example in some.examples]
    assert set(labels) == {0, 1}
    given = some.rows() | {name: torch.tensor(labels)}
    same(own, some.theirs(some.net(**given).loss))


@pytest.mark.parametrize("net", ["gpt-tiny", "decoder-tiny"])
@pytest.mark.parametrize("line", ["clm", "fim"])
def test_next_tokens_as_transformers_has_them(net: str, line: str) -> None:
    some = Some(net, line)
    own = some.own()
    some.net.set_attn_implementation("sdpa")
    same(own, some.theirs(some.net(**some.rows()).loss))


@pytest.mark.parametrize("net", ["gpt-tiny", "decoder-tiny"])
def test_prefixes_are_seen_both_ways(net: str) -> None:
    some = Some(net, "prefix_lm")
    own = some.own()
    some.net.set_attn_implementation("sdpa")
    nats, count = torch.zeros(()), 0
    for example in some.examples:
        ids, labels = (torch.from_numpy(example[name]) for name in ("input_ids", "labels"))
        steps = torch.arange(len(ids))
        prefix = int(example["prefix"])
        seen = (steps[None] <= steps[:, None]) | (
            (steps < prefix)[None] & (steps < prefix)[:, None]
        )
        hidden = torch.zeros(len(ids), len(ids)).masked_fill(~seen, float("-inf"))
        logits = some.net(input_ids=ids[None], attention_mask=hidden[None, None]).logits[0, :-1]
        nats = nats + functional.cross_entropy(logits, labels[1:], reduction="sum")
        count += int((labels[1:] != NOT_LEARNT).sum())
    same(own, some.theirs(nats / count))


@pytest.mark.parametrize("line", ["clm"])
@pytest.mark.parametrize("net", ["lstm-tiny", "gru-tiny"])
def test_recurrent_nets_row_by_row(net: str, line: str) -> None:
    some = Some(net, line, rows=2)
    own = some.own()
    nats, count = torch.zeros(()), 0
    for piece in (piece for example in some.examples for piece in pieces(example)):
        ids, labels = torch.from_numpy(piece.ids), torch.from_numpy(piece.labels)
        logits = some.net(input_ids=ids[None]).logits[0, :-1]
        nats = nats + functional.cross_entropy(logits, labels[1:], reduction="sum")
        count += int((labels[1:] != NOT_LEARNT).sum())
    same(own, some.theirs(nats / count))


@pytest.mark.parametrize("line", ["span", "ul2", "prefix_lm(form=pair)"])
def test_text_to_text_as_transformers_has_it(line: str) -> None:
    some = Some("t5-tiny", line)
    own = some.own()
    nats, count = torch.zeros(()), 0
    for example in some.examples:
        given = {name: torch.from_numpy(example[name])[None] for name in ("input_ids", "labels")}
        size = given["labels"].shape[1]
        nats, count = nats + some.net(**given).loss * size, count + size
    same(own, some.theirs(nats / count))


def test_permutations_as_transformers_has_them() -> None:
    some = Some("xlnet-tiny", "plm")
    own = some.own()
    nats, count = torch.zeros(()), 0
    for example in some.examples:
        given, gold = padded_orders([example], torch.device("cpu"))
        size = int((gold != NOT_LEARNT).sum())
        nats = nats + some.net(**given, labels=gold, use_mems=False).loss * size
        count += size
    same(own, some.theirs(nats / count))


def test_replaced_tokens_as_transformers_has_them() -> None:
    some = Some("electra-tiny", "rtd")
    own = some.own()
    reading: Any = reading_for(some.net, some.names)
    net = some.net
    rows = [piece for example in some.examples for piece in pieces(example)]
    given, found = some.rows(), torch.zeros(len(rows), max(len(p.ids) for p in rows)).long()
    replaced = torch.zeros_like(found)
    for row, piece in enumerate(rows):  # the samples do not depend on what runs beside a row
        (packed,) = packs([piece], 1000, causal=False, device=torch.device("cpu"))
        states = net.generator.base_model(
            input_ids=packed.pack.ids,
            position_ids=packed.pack.layout.positions[None],
            attention_mask=torch.ones_like(packed.pack.ids),
        ).last_hidden_state[0]
        ids, wrong = reading._replaced(packed, states[packed.pack.wanted])
        found[row, : len(piece.ids)], replaced[row, : len(piece.ids)] = ids[0], wrong.long()
    assert 0 < int(replaced.sum()) <= int((given["labels"] != NOT_LEARNT).sum())
    net.set_attn_implementation("sdpa")
    mask = given["attention_mask"]
    generated = net.generator(**given).loss
    told = net.discriminator(input_ids=found, attention_mask=mask, labels=replaced)
    same(own, some.theirs(generated + 50 * told.loss))


@pytest.mark.parametrize(
    ("net", "line"),
    [("bert-tiny", "mlm+nsp"), ("gpt-tiny", "clm"), ("xlnet-tiny", "plm"), ("t5-tiny", "span"),
     ("electra-tiny", "rtd"), ("decoder-tiny", "prefix_lm"), ("lstm-tiny", "clm")],
)  # fmt: skip
def test_packed_together_equals_one_by_one(net: str, line: str) -> None:
    some = Some(net, line)
    same(some.own(budget=10_000), some.own(budget=1))


@pytest.mark.parametrize(
    ("net", "line"),
    [("bert-tiny", "mlm"), ("albert-tiny", "mlm"), ("encoder-tiny", "mlm"), ("gpt-tiny", "clm"),
     ("xlnet-tiny", "plm"), ("t5-tiny", "span"), ("electra-tiny", "rtd"), ("lstm-tiny", "clm"),
     ("gru-tiny", "clm")],
)  # fmt: skip
def test_dropout_is_for_training_only(net: str, line: str) -> None:
    some = Some(net, line, dropout=0.3)
    some.net.train()
    assert some.own()[0] != some.own()[0]
    plain = Some(net, line)
    for each in (some.net, plain.net):
        each.eval()
    if net == "electra-tiny":  # it draws what it replaces
        torch.manual_seed(0)
        drawn = some.own()
        torch.manual_seed(0)
        same(drawn, plain.own())
    else:
        same(some.own(), plain.own())


def test_documents_do_not_see_each_other() -> None:
    some = Some("gpt-tiny", "clm")
    example = next(e for e in some.examples if len(pieces(e)) > 1)
    reading: Any = reading_for(some.net, some.names)

    def losses(example: Any) -> float:
        return sum(float(sums["clm"].detach()) for sums, _ in reading.sums([example], 1000))

    first = len(pieces(example)[0].ids)
    cut = {name: example[name][:first] for name in ("input_ids", "labels", "documents")}
    rest = {name: example[name][first:] for name in ("input_ids", "labels", "documents")}
    assert losses(example) == pytest.approx(losses(cut) + losses(rest), rel=1e-5)


def test_the_fast_layers_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where oneDNN is faster, whether it is here or not."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    slow, fast = Some("gpt-tiny", "clm"), Some("gpt-tiny", "clm")
    monkeypatch.setattr("sapwood.launch.products.onednn_is_faster", lambda: False)
    wanted = slow.own()
    monkeypatch.setattr("sapwood.launch.products.onednn_is_faster", lambda: True)
    names = list(fast.net.state_dict())
    fast.net = quickened(fast.net)
    assert names == list(fast.net.state_dict())
    assert {type(m).__name__ for m in fast.net.modules()} >= {"FastConv1D", "FastLinear"}
    same(fast.own(), wanted)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_token_loss_is_cross_entropy(biased: bool, size: int) -> None:
    drawn = torch.Generator().manual_seed(0)
    states = torch.randn(150, 8, generator=drawn, requires_grad=True)
    weight = torch.randn(33, 8, generator=drawn, requires_grad=True)
    bias = torch.randn(33, generator=drawn, requires_grad=True) if biased else None
    gold = torch.randint(33, (150,), generator=drawn)
    trained = [tensor for tensor in (states, weight, bias) if tensor is not None]
    own = token_loss(states, weight, bias, gold, bytes_=size) / 7
    wanted = functional.cross_entropy(
        functional.linear(states, weight, bias), gold, reduction="sum"
    ) / 7  # fmt: skip
    assert float(own.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    for one, other in zip(
        torch.autograd.grad(own, trained), torch.autograd.grad(wanted, trained), strict=True
    ):
        assert float((one - other).abs().max()) <= 1e-5


def test_token_loss_is_finite_where_a_probability_is_none() -> None:
    states = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[500.0], [-500.0]])
    loss = token_loss(states, weight, None, torch.tensor([1]))
    assert float(loss.detach()) == 1000.0
    loss.backward()
    assert np.isfinite(float(states.grad))  # type: ignore[arg-type]


KINDS = (
    ("bert-tiny", "mlm+nsp"), ("albert-tiny", "mlm+sop"), ("encoder-tiny", "mlm"),
    ("electra-tiny", "rtd"), ("xlnet-tiny", "plm"), ("t5-tiny", "span"), ("gpt-tiny", "clm"),
    ("decoder-tiny", "clm"), ("decoder-tiny", "prefix_lm"), ("lstm-tiny", "clm"),
)  # fmt: skip


@pytest.mark.parametrize(("net", "line"), KINDS)
def test_half_precision_computes_what_single_precision_does(net: str, line: str) -> None:
    some = Some(net, line)
    found = []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)  # ELECTRA's generator is asked for samples
        some.net.zero_grad(set_to_none=True)
        supervised = Pretraining(
            reading_for(some.net, some.names), some.stream, precision=precision
        )
        assert supervised.supervised(range(ROWS)) == 1
        total = torch.zeros(())
        for part, _ in supervised.losses(range(ROWS), 100):
            part.backward()
            total += part.detach()
        found.append(float(total))
        assert all(
            w.grad.dtype == torch.float32 for w in some.net.parameters() if w.grad is not None
        )
    assert found[1] == pytest.approx(found[0], rel=0.03)
    assert found[1] != found[0]  # it was computed otherwise


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("net", "line"), [k for k in KINDS if k[0] != "electra-tiny"])
def test_on_a_gpu_losses_are_those_of_the_cpu(net: str, line: str) -> None:
    some = Some(net, line)
    wanted = some.own(budget=1000)[0]
    some.net.to("cuda")
    for precision, most in ((torch.float32, 1e-3), (torch.bfloat16, 0.03)):
        supervised = Pretraining(
            reading_for(some.net, some.names), some.stream, precision=precision
        )
        assert supervised.supervised(range(ROWS)) == 1
        found = sum(float(part.detach()) for part, _ in supervised.losses(range(ROWS), 1000))
        assert found == pytest.approx(wanted, rel=most)
