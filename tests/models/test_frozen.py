"""Kept states on disk: written whole, bounded, checked, and never those of another key."""

import os

import pytest
import torch

from sapwood.errors import ModelError
from sapwood.models.decoder import Decoder
from sapwood.models.frozen import Below, FrozenBelow, Opening, StateStore
from sapwood.models.layout import Row, build_pack

STATES = torch.arange(60, dtype=torch.float32).view(10, 6)


def test_states_come_back_bit_for_bit(tmp_path):
    store = StateStore(tmp_path, 1 << 20)
    assert store.states("a") is None
    for dtype in (torch.float32, torch.bfloat16):
        store.keep("a", STATES.to(dtype))
        assert torch.equal(store.states("a"), STATES.to(dtype))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "other key", "empty"])
def test_damage_is_told(tmp_path, damage):
    store = StateStore(tmp_path, 1 << 20)
    store.keep("a", STATES)
    path = store.path("a")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 4
    path.write_bytes({"cut": content[:-8], "empty": b""}.get(damage, content))
    if damage == "other key":
        path = path.rename(store.path("b"))
    with pytest.raises(ModelError, match="E-MODEL-038"):
        store.states(path.stem)


def test_the_least_recently_used_make_room(tmp_path):
    store = StateStore(tmp_path, 1 << 20)
    store.keep("a", STATES)
    size = store.bytes()
    store = StateStore(tmp_path, 2 * size)
    store.keep("b", STATES)
    for key, when in (("a", 1), ("b", 2)):  # long ago: clocks of files are coarse
        os.utime(store.path(key), (when, when))
    assert store.states("a") is not None  # used now
    store.keep("c", STATES)
    assert store.bytes() <= 2 * size
    assert [store.states(key) is not None for key in "abc"] == [True, False, True]


def make(net, rows, store, **given):
    path = "transformer.h" if net.config.model_type == "gpt2" else "model.layers"
    below = Below(paths=(f"{path}.0",), above=f"{path}.1", identity="weights float32")
    return FrozenBelow(Decoder(net), below, rows, store, **given)


@pytest.mark.parametrize("opening", ["none", "shared", "cached"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_upper_blocks_on_kept_states_are_the_whole_net(tiny_net, tmp_path, kind, opening):
    net = tiny_net(kind)
    decoder = Decoder(net)
    rows = [Row(ids=range(20, 20 + n), wanted=(0, n - 1)) for n in (5, 17, 9)]
    tree = Row(ids=(40, 41, 42, 43), wanted=(1, 2, 3), parents=(-1, 0, 0, 2))
    given = Opening()
    if opening == "shared":
        given = Opening(shared=(5, 6, 7, 8))
    if opening == "cached":
        given = Opening(prefix=decoder.encode((5, 6, 7, 8)))
    kept = make(net, [*rows, tree], StateStore(tmp_path, 1 << 20), opening=given)
    chosen = [rows[2], tree, rows[0]]
    pack = build_pack(chosen, shared=given.shared, **given.prefix.seat)
    modules = list(net.modules())
    with torch.no_grad():
        torch.testing.assert_close(kept.run(pack, chosen), decoder.run(pack), atol=1e-5, rtol=1e-5)
    assert list(net.modules()) == modules
    assert kept.shares([*chosen, Row(ids=(1, 2))]) == [[0, 1, 2], [3]]


def test_lower_blocks_do_not_run_again(tiny_net, tmp_path):
    net = tiny_net("llama")
    rows = [Row(ids=range(20, 30), wanted=(9,))]
    kept = make(net, rows, StateStore(tmp_path, 1 << 20))
    ran = []
    for number, block in enumerate(net.model.layers):
        block.register_forward_hook(lambda *given, number=number: ran.append(number))
    pack = build_pack(rows)
    kept.run(pack, rows)
    kept.run(pack, rows)
    assert ran == [0, 1, 1]


def test_a_failing_step_leaves_the_net_whole(tiny_net, tmp_path):
    net = tiny_net("llama")
    rows = [Row(ids=range(20, 30), wanted=(9,))]
    kept = make(net, rows, StateStore(tmp_path, 1 << 20))
    modules = list(net.modules())
    hook = net.model.layers[1].register_forward_hook(lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kept.run(build_pack(rows), rows)
    hook.remove()
    assert list(net.modules()) == modules


def test_base_dropout_is_off_in_what_is_kept(tiny_net, tmp_path):
    rows = [Row(ids=range(20, 30), wanted=(9,))]
    found = []
    for training in (True, False):
        net = tiny_net("gpt2").train(training)
        kept = make(net, rows, StateStore(tmp_path / str(training), 1 << 20))
        found.append(kept._sheet(0))
        assert all(module.training is training for module in net.modules())
    assert torch.equal(*found)
