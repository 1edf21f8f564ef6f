"""LoReFT: the paper's formula, on the tokens that are meant, by a hook that goes away."""

import pytest
import torch

from sapwood.errors import ConfigError
from sapwood.methods.parts import detach, parts, stored, weights
from sapwood.methods.reft import Intervention, Reft, chosen, orthonormal
from sapwood.models.decoder import Decoder
from sapwood.models.layout import Row, build_pack
from sapwood.testing import run_tiny, tiny_net

ROWS = ((30, 31, 32, 33), (40, 41), (50, 51, 52, 53, 54, 55))


def shake(net):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in weights(net).values():
            tensor += 0.2 * torch.randn(tensor.shape, generator=generator)


def test_the_change_is_the_papers():
    net = Reft(rank=3).attach(tiny_net("llama"))
    shake(net)
    part = net.model.layers[0].reft
    states = torch.randn(2, 5, 32)
    rows = part.rows()
    torch.testing.assert_close(rows @ rows.t(), torch.eye(3), atol=1e-5, rtol=0)
    wanted = (states @ part.source.t() + part.shift - states @ rows.t()) @ rows
    torch.testing.assert_close(part.change(states), wanted, atol=1e-5, rtol=1e-4)


def test_orthonormal_rows_do_not_jump():
    matrix = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    matrix[0, 0] = 1e-4
    other = matrix.clone()
    other[0, 0] = -1e-4  # where a plain QR flips the sign of the first row
    torch.testing.assert_close(orthonormal(matrix), orthonormal(other), atol=1e-3, rtol=0)


def test_chosen_layers_and_their_names():
    net = Reft(rank=2, layers=(1,)).attach(tiny_net("qwen3"))
    assert set(stored(net)) == {f"model.layers.1.reft.{n}" for n in ("rotate", "weight", "bias")}
    with pytest.raises(ConfigError) as caught:
        Reft(layers=(0, 7, 9)).attach(tiny_net("llama"))
    assert "there is no block 7" in str(caught.value) and "no block 9" in str(caught.value)
    assert "use numbers from 0 to 1" in str(caught.value)


def test_detach_removes_the_hook():
    net = tiny_net("llama")
    before = run_tiny(net)
    Reft(rank=2).attach(net)
    shake(net)
    assert not torch.equal(run_tiny(net), before)
    detach(net)
    assert torch.equal(run_tiny(net), before)
    assert not any(block._forward_hooks or hasattr(block, "reft") for block in net.model.layers)


@pytest.mark.parametrize("positions", ["f2", "l2", "f1+l1", "f9"])
def test_packed_rows_change_at_the_same_tokens_as_each_alone(positions):
    net = Reft(rank=2, positions=positions).attach(tiny_net("llama"))
    shake(net)
    decoder = Decoder(net)
    rows = [Row(ids=row, wanted=range(len(row))) for row in ROWS]
    together = decoder.run(build_pack(rows)).split([len(row) for row in ROWS])
    for row, states in zip(rows, together, strict=True):
        torch.testing.assert_close(states, decoder.run(build_pack([row])), atol=1e-4, rtol=1e-4)


def test_which_tokens_are_meant():
    rows = [Row(ids=row) for row in ROWS]
    layout = build_pack(rows).layout  # rows lie longest first: 6, 4 and 2 tokens
    assert chosen(layout, "f1").tolist() == [0, 6, 10]
    assert chosen(layout, "l2").tolist() == [4, 5, 8, 9, 10, 11]
    assert chosen(layout, "f1+l1").tolist() == [0, 5, 6, 9, 10, 11]
    after = build_pack(rows, shared=[1, 2, 3]).layout
    assert chosen(after, "f2").tolist() == [0, 1]  # of the sequence, prefix and all
    encoder = build_pack(rows, causal=False).layout
    assert chosen(encoder, "l1").tolist() == [5, 9, 11]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: None, "the rows are not packed"),
        (lambda: build_pack([Row(ids=[1, 2])], shared=[3]).layout, "a part is encoded alone"),
        (lambda: build_pack([Row(ids=[1, 2, 3], parents=[-1, 0, 0])]).layout, "branch"),
    ],
)
def test_tokens_that_cannot_be_told_are_refused(make, why):
    with pytest.raises(ConfigError) as caught:
        chosen(make(), "l1")
    assert caught.value.code == "E-CONFIG-095"
    assert why in str(caught.value) and "use positions=all" in str(caught.value)


def test_a_plain_call_and_kinds_without_rows_are_refused():
    net = Reft(rank=2, positions="f1").attach(tiny_net("llama"))
    with pytest.raises(ConfigError, match="the rows are not packed"):
        run_tiny(net)
    with pytest.raises(ConfigError, match="'xlnet' kind does not say where its rows begin"):
        Reft(rank=2, positions="l1").attach(tiny_net("xlnet"))


def test_all_that_is_wrong_is_named():
    with pytest.raises(ConfigError) as caught:
        Reft(rank=0, layers=(-1,), positions="first")
    assert len(caught.value.details) == 3
    with pytest.raises(ConfigError, match="rank 33 is above the hidden size, 32"):
        Reft(rank=33).attach(tiny_net("llama"))
    net = Reft(rank=2, layers=(0,)).attach(tiny_net("llama"))
    with pytest.raises(ConfigError, match="has a ReFT already"):
        Reft(rank=2).attach(net)
    assert sum(isinstance(part, Intervention) for _, part in parts(net)) == 1
