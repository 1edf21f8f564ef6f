"""What rows begin with is computed once behind a trained prefix: same states, same gradients."""

from __future__ import annotations

import pytest
import torch

from sapwood.methods.lora import Lora
from sapwood.methods.parts import weights
from sapwood.methods.prefix_tuning import Prefix
from sapwood.models import decoder as decoders
from sapwood.models.beginnings import beginning_once
from sapwood.models.decoder import Decoder, behind
from sapwood.models.layout import Row, build_pack
from sapwood.testing import tiny_net

BEGINNING = (20, 21, 22)
ROWS = (
    Row(ids=(*BEGINNING, 30, 31, 32), wanted=(4, 5)),
    Row(ids=(*BEGINNING, 40), wanted=(2, 3)),  # its first wanted token is shared
    Row(ids=(*BEGINNING, 30, *range(50, 70)), wanted=(23,)),
    Row(ids=(*BEGINNING, 41, 42, 43), wanted=(3, 4, 5), parents=(-1, 0, 1, 2, 3, 3)),
)


@pytest.mark.parametrize("context", [(), tuple(range(70, 80))])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_states_and_gradients_are_those_of_rows_apart(kind, context, monkeypatch):
    net = tiny_net(kind)
    Lora(rank=2).attach(net)
    Prefix(tokens=4).attach(net)
    for tensor in weights(net).values():
        torch.nn.init.normal_(tensor, std=0.1)
    decoder = Decoder(net)
    encoded = decoder.encode(context)
    found = []
    for apart in (False, True):
        if apart:
            monkeypatch.setattr(decoders, "beginning_once", lambda pack: pack)
        decoder.tokens_run = 0
        net.zero_grad()
        states = decoder.run(build_pack(ROWS, **behind(decoder, encoded).seat))
        (states * torch.arange(states.numel()).view_as(states).sin()).sum().backward()
        grads = [tensor.grad.clone() for tensor in weights(net).values()]
        found.append((decoder.tokens_run, states.detach(), *grads))
    once, each = found
    assert (once[0], each[0]) == (40 - 9, 40)
    for got, expected in zip(once[1:], each[1:], strict=True):
        size = expected.abs().max()
        torch.testing.assert_close(got / size, expected / size, rtol=0, atol=1e-5)
    assert all(grad.abs().max() > 0 for grad in once[2:])


def test_only_what_all_rows_see_and_begin_with_is_shared():
    def shared(*rows: Row) -> int:
        return beginning_once(build_pack(rows)).layout.shared

    one, two = Row(ids=(1, 2, 3, 4), wanted=(3,)), Row(ids=(1, 2, 5), wanted=(2,))
    assert shared(one, two) == 2
    assert shared(one) == 0
    assert shared(one, Row(ids=(9, 2, 3), wanted=(2,))) == 0
    assert shared(one, one) == 3  # a row keeps a token
    assert shared(one, Row(ids=(1,), wanted=(0,))) == 0
    # the third token hangs on the first: not all of the row sees the second
    assert shared(one, Row(ids=(1, 2, 3, 4), parents=(-1, 0, 0, 2))) == 1


def test_a_pack_says_where_its_tokens_went():
    rows = [Row(ids=(1, 2, 8), wanted=(1, 2)), Row(ids=(1, 2, 5, 6, 7), wanted=(4,))]
    before = build_pack(rows)
    pack = beginning_once(before)
    assert pack.ids.tolist() == [[1, 2, 5, 6, 7, 8]]
    assert pack.layout.positions.tolist() == [0, 1, 2, 3, 4, 2]
    assert pack.ids[0, pack.wanted].tolist() == before.ids[0, before.wanted].tolist() == [2, 8, 7]
    assert pack.owners.tolist() == before.owners.tolist()
    assert pack.rows is not None and pack.rows.tolist() == [-1, -1, 1, 1, 1, 0]
    assert [pack.ids[0, start].item() for start in pack.starts] == [8, 5]


def test_without_gradients_rows_stay_whole():
    net = tiny_net("llama")
    Prefix(tokens=4).attach(net)
    decoder = Decoder(net)
    pack = build_pack(ROWS, **behind(decoder, decoder.encode(())).seat)
    with torch.no_grad():
        decoder.run(pack)
    assert decoder.tokens_run == 40
