"""Blocks of factors stay right while rows of many adaptations join, leave and change places."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from sapwood.methods.bank import Bank
from sapwood.methods.dora import Dora
from sapwood.methods.lora import Lora
from sapwood.methods.parts import parts, weights
from sapwood.models.decoder import Decoder
from sapwood.models.layout import Row, build_pack
from sapwood.testing import tiny_net

METHODS = {f"lora{n}": Lora(rank=2 + n % 3, alpha=3.0) for n in range(6)} | {
    "wide": Lora(rank=12, targets=("query", "ff-out")),
    "dora": Dora(rank=3, alpha=5.0),
}


def moved(named, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(named):
            named[name].add_(0.1 * torch.randn(named[name].shape, generator=generator))


def single(name, row):
    net = tiny_net("llama")
    if name:
        METHODS[name].attach(net)
        moved(weights(net), list(METHODS).index(name))
    with torch.no_grad():
        return Decoder(net).run(build_pack([row]))


@pytest.fixture
def bank():
    made = Bank(tiny_net("llama"), METHODS)
    for number, name in enumerate(METHODS):
        moved(made.weights(name), number)
    return made


def check(bank, owners, rows, untrained):
    pack = build_pack(rows)
    uses = {n: {name: 1.0} for n, name in enumerate(owners) if name}
    sharing = replace(bank.shared(uses, pack.rows), untrained=untrained)
    with torch.no_grad(), bank.passing(sharing):
        for _ in range(2):  # the second pass finds everything ready
            found = Decoder(bank.net).run(pack).split([len(row.ids) for row in rows])
    for name, row, own in zip(owners, rows, found, strict=True):
        torch.testing.assert_close(own, single(name, row), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_rows_of_any_length_and_order_are_each_as_alone(bank, known):
    rng, untrained = random.Random(3), object() if known else None
    for turn in range(14):
        owners = rng.choices(["", *METHODS], k=rng.randint(1, 6))
        sizes = rng.choices((1, 1, 1, 3, 9, 20) if turn % 2 else (1,), k=len(owners))
        rows = [
            Row(ids=[rng.randrange(5, 60) for _ in range(size)], wanted=range(size))
            for size in sizes
        ]
        check(bank, owners, rows, untrained)


def test_equally_long_rows_of_many_adaptations_are_each_as_alone(bank):
    names = [f"lora{n}" for n in range(6)]
    rows = [Row(ids=list(range(9 + n, 21 + n)), wanted=range(12)) for n in range(6)]
    for owners in (names, names[::-1], [*names[2:], *names[:2]], [*names[:3], "", *names[3:5]]):
        check(bank, owners, rows, bank)


def test_blocks_of_who_left_are_taken_over_and_only_as_many_are_made_as_act_at_once(bank):
    rows = [Row(ids=[7 + n], wanted=(0,)) for n in range(2)]
    for first in range(5):
        check(bank, [f"lora{first}", f"lora{first + 1}"], rows, bank)
    layer = next(part for _, part in parts(bank.net))
    assert {rank: len(stack.blocks) for rank, stack in layer.stacks.items()} == {8: 2}


def test_what_is_trained_between_passes_is_seen(bank):
    rows = [Row(ids=[7 + n], wanted=(0,)) for n in range(2)]
    pack = build_pack(rows)

    def states():
        with torch.no_grad(), bank.using({0: {"lora1": 1.0}, 1: {"lora2": 1.0}}, pack.rows):
            return Decoder(bank.net).run(pack)

    before = states()
    moved(bank.weights("lora1"), 99)
    after = states()
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1], after[1])
