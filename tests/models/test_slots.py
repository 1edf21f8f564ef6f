"""Rows in slots say what each would say alone, however their pieces fall into steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix
from sapwood.models.layout import Row
from sapwood.models.slots import Piece, Slots
from sapwood.models.trie import build_trie
from sapwood.testing import tiny_net

KINDS = ("llama", "gpt2", "gemma3_text")


def decoder_of(kind: str) -> Decoder:
    return Decoder(tiny_net(kind).double())


def alone(decoder: Decoder, row: Row, prefix: Prefix = NO_PREFIX) -> torch.Tensor:
    return next(decoder.hidden([row], prefix))[1]


@torch.no_grad()
def in_steps(decoder: Decoder, slots: Slots, plan: list[list[Piece]]) -> dict[int, torch.Tensor]:
    """Return the wanted states of each slot over all steps."""
    found: dict[int, list[torch.Tensor]] = {}
    for pieces in plan:
        pack = slots.pack(pieces)
        states = decoder.run(pack)
        for number, state in zip(pack.owners.tolist(), states, strict=True):
            found.setdefault(pieces[number].slot, []).append(state)
    return {slot: torch.stack(states) for slot, states in found.items()}


def piece(slot: int, ids: list[int]) -> Piece:
    return Piece(slot=slot, row=Row(ids=ids, wanted=range(len(ids))))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_mix_of_rows_is_each_row_alone(kind: str, data: st.DataObject) -> None:
    decoder = decoder_of(kind)
    count = data.draw(st.integers(1, 4), label="slots")
    rows = [
        data.draw(st.lists(st.integers(4, 200), min_size=1, max_size=24), label="ids")
        for _ in range(count)
    ]
    starts = [data.draw(st.sampled_from([0, 0, 3, 17]), label="prefix") for _ in range(count)]
    slots = Slots(count, decoder.device)
    prefixes = [decoder.encode([7 + n for n in range(size)]) for size in starts]
    for slot, prefix in enumerate(prefixes):
        slots.begin(slot, prefix)
    left = {slot: list(ids) for slot, ids in enumerate(rows)}
    plan = []
    while left:
        order = data.draw(st.permutations(sorted(left)), label="order")
        taken = order[: data.draw(st.integers(1, len(order)), label="rows")]
        step = []
        for slot in taken:
            size = data.draw(st.integers(1, min(9, len(left[slot]))), label="size")
            step.append(piece(slot, left[slot][:size]))
            left[slot] = left[slot][size:]
        left = {slot: ids for slot, ids in left.items() if ids}
        plan.append(step)
    found = in_steps(decoder, slots, plan)
    for slot, ids in enumerate(rows):
        wanted = alone(decoder, Row(ids=ids, wanted=range(len(ids))), prefixes[slot])
        assert torch.allclose(found[slot], wanted, atol=1e-9)
    assert slots.lengths == [len(p.ids) + len(r) for p, r in zip(prefixes, rows, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_at_the_end_of_a_row_are_a_tree(kind: str) -> None:
    decoder = decoder_of(kind)
    trie = build_trie([[9, 10], [9, 11, 12], [13]])
    prompt = list(range(20, 31))
    whole = trie.row(prompt)
    slots = Slots(2, decoder.device)
    slots.begin(0, decoder.encode([4, 5, 6]))
    first, cut = prompt[:8], 8
    rest = Row(
        ids=whole.ids[cut:],
        wanted=[token - cut for token in whole.wanted],
        parents=[max(parent - cut, -1) for parent in whole.parents or ()][cut:],
    )
    plan = [[Piece(slot=0, row=Row(ids=first)), piece(1, [4, 5])], [Piece(slot=0, row=rest)]]
    found = in_steps(decoder, slots, plan)[0]
    assert torch.allclose(found, alone(decoder, whole, decoder.encode([4, 5, 6])), atol=1e-9)


def test_a_row_that_moves_goes_on_as_it_was() -> None:
    decoder = decoder_of("gemma3_text")
    ids = list(range(30, 50))
    slots = Slots(3, decoder.device)
    slots.begin(2)
    in_steps(decoder, slots, [[piece(2, ids[:12]), piece(0, [5, 6])]])
    slots.move(2, 1)
    found = in_steps(decoder, slots, [[piece(1, [token])] for token in ids[12:]])[1]
    wanted = alone(decoder, Row(ids=ids, wanted=range(12, 20)))
    assert torch.allclose(found, wanted, atol=1e-9)
    assert slots.lengths[2] == 0


def test_room_grows_and_keeps_what_is_held() -> None:
    decoder = decoder_of("llama")
    slots = Slots(2, decoder.device)
    ids = [4 + n % 200 for n in range(300)]
    found = in_steps(decoder, slots, [[piece(1, ids[:100])], [piece(1, ids[100:])]])[1]
    assert torch.allclose(found, alone(decoder, Row(ids=ids, wanted=range(300))), atol=1e-9)
    assert slots.room >= 300
    assert slots.bytes > 0


def test_a_context_in_blocks_keeps_its_positions() -> None:
    from sapwood.models.blocks import Blocks

    decoder = decoder_of("gemma3_text")
    prefix = Blocks(decoder, (4, 5)).prefix([[6, 7, 8], [9, 10]])
    slots = Slots(1, decoder.device)
    slots.begin(0, prefix)
    ids = list(range(40, 52))
    found = in_steps(decoder, slots, [[piece(0, ids[:5])], *([piece(0, [t])] for t in ids[5:])])[0]
    assert torch.allclose(found, alone(decoder, Row(ids=ids, wanted=range(12)), prefix), atol=1e-9)
