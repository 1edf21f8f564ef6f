"""A batch of mixed adaptations is each adaptation alone: outputs, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sapwood.errors import ConfigError, ModelError
from sapwood.methods import bank_layer
from sapwood.methods.adapter import Adapter
from sapwood.methods.bank import Bank
from sapwood.methods.compacter import Compacter
from sapwood.methods.dora import Dora
from sapwood.methods.hub_adapter import HubAdapter
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import Part, detach, merge, parts, weights, weights_key
from sapwood.methods.reft import Reft
from sapwood.methods.together import parse
from sapwood.methods.vera import Vera
from sapwood.models.decoder import Decoder
from sapwood.models.layout import Row, build_pack
from sapwood.testing import KINDS, tiny_net

METHODS = {
    "small": Lora(rank=2, alpha=3.0),
    "large": Lora(rank=5, rslora=True, targets=("query", "ff-out")),
    "ia3": Ia3(),
    "neck": Adapter(width=6, placement="houlsby", activation="gelu", scale=0.5),
    "neck2": Adapter(width=3),
    "dora": Dora(rank=3, alpha=5.0, rslora=True),
    "dora2": Dora(rank=2, targets=("value", "ff-in", "ff-out")),
    "vera": Vera(rank=6),
    "beside": Adapter(width=5, placement="parallel", scale=2.0),
    "beside2": Adapter(width=4, placement="parallel", activation="gelu"),
}
ROWS = [Row(ids=list(range(20 + n, 20 + n + size)), wanted=range(size))
        for n, size in enumerate((9, 4, 12, 7, 5, 9, 6, 5, 8, 4, 7))]  # fmt: skip
OWNERS = ("ia3", "large", "small", "neck", "", "neck2", "dora", "beside", "vera", "dora2",
          "beside2")  # fmt: skip


def fill(named: dict[str, nn.Parameter], seed: int) -> None:
    """Move every trained tensor away from where it starts, the same way for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(named):
            named[name].add_(0.1 * torch.randn(named[name].shape, generator=generator))


def bank_of(kind: str, methods=METHODS) -> Bank:
    bank = Bank(tiny_net(kind), methods)
    for number, name in enumerate(methods):
        fill(bank.weights(name), number)
    return bank


def alone(kind: str, name: str, rows: list[Row], methods=METHODS):
    """Return the states of rows, and the trained tensors, under one adaptation only."""
    net = tiny_net(kind)
    if name:
        methods[name].attach(net)
        fill(weights(net), list(methods).index(name))
    return Decoder(net).run(build_pack(rows)), weights(net)


def loss(states):
    """Return a sum in which every number counts differently."""
    return (states * torch.linspace(-1, 1, states.numel()).view(states.shape)).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stacked", [1000, 0])
def test_a_mixed_batch_equals_each_adaptation_alone(kind, stacked, monkeypatch):
    monkeypatch.setattr(bank_layer, "STACKED_FLOAT32", stacked)
    bank = bank_of(kind)
    pack = build_pack(ROWS)
    uses = {n: {name: 1.0} for n, name in enumerate(OWNERS) if name}
    with bank.using(uses, pack.rows):
        states = Decoder(bank.net).run(pack).split([len(row.ids) for row in ROWS])
    sum(loss(part) for part in states).backward()
    for number, name in enumerate(OWNERS):
        expected, trained = alone(kind, name, [ROWS[number]])
        torch.testing.assert_close(states[number], expected, atol=1e-5, rtol=1e-5)
        if not name:
            continue
        loss(expected).backward()
        mine = bank.weights(name)
        assert set(mine) == set(trained)
        for path, tensor in trained.items():
            scale = float(tensor.grad.abs().max()) + 1.0
            torch.testing.assert_close(mine[path].grad, tensor.grad, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("stacked", [1000, 0])
@pytest.mark.parametrize("pair", [("small", "large"), ("dora", "vera"), ("dora", "dora2")])
def test_weights_of_a_sum_are_those_of_the_merged_branches(pair, stacked, monkeypatch):
    monkeypatch.setattr(bank_layer, "STACKED_FLOAT32", stacked)
    methods = {"a": METHODS[pair[0]], "b": METHODS[pair[1]]}
    bank = bank_of("llama", methods)
    pack = build_pack(ROWS)
    with torch.no_grad(), bank.using({0: {"a": 0.5, "b": 2.0}, 2: {"b": 1.0}}, pack.rows):
        states = Decoder(bank.net).run(pack).split([len(row.ids) for row in ROWS])
    net, base = tiny_net("llama"), tiny_net("llama")
    with torch.no_grad():
        for name, weight in (("a", 0.5), ("b", 2.0)):
            one = methods[name].attach(tiny_net("llama"))
            fill(weights(one), list(methods).index(name))
            own = dict(merge(one).named_parameters())
            for path, parameter in base.named_parameters():
                net.get_parameter(path).add_(weight * (own[path] - parameter))
        expected = Decoder(net).run(build_pack([ROWS[0]]))
    torch.testing.assert_close(states[0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states[2], alone("llama", "b", [ROWS[2]], methods)[0],
                               atol=1e-5, rtol=1e-5)  # fmt: skip
    torch.testing.assert_close(states[1], alone("llama", "", [ROWS[1]])[0], atol=1e-5, rtol=1e-5)


def test_one_adaptation_for_all_tokens_and_none_outside():
    bank, ids = bank_of("llama"), torch.arange(20, 40)[None]
    plain = tiny_net("llama")(ids).logits
    assert torch.equal(bank.net(ids).logits, plain)
    assert weights_key(bank.net) == ""
    keys = set()
    for name in METHODS:
        net = METHODS[name].attach(tiny_net("llama"))
        fill(weights(net), list(METHODS).index(name))
        with bank.using({name: 1.0}):
            keys.add(weights_key(bank.net))
            torch.testing.assert_close(bank.net(ids).logits, net(ids).logits, atol=1e-4, rtol=1e-4)
    assert len(keys) == len(METHODS)
    bank.detach()
    assert not list(parts(bank.net))
    assert torch.equal(bank.net(ids).logits, plain)


def test_rows_of_a_padded_batch_and_of_an_encoder():
    bank = Bank(tiny_net("bert"), {"a": Lora(rank=2), "b": Lora(rank=3)})
    for number, name in enumerate(bank.names):
        fill(bank.weights(name), number)
    ids = torch.arange(20, 40).view(2, 10)
    with bank.using({0: {"a": 1.0}, 1: {"b": 1.0}}, torch.tensor([[0] * 10, [1] * 10])):
        mixed = bank.net(ids).last_hidden_state
    for number, name in enumerate(bank.names):
        with bank.using({name: 1.0}):
            torch.testing.assert_close(bank.net(ids).last_hidden_state[number], mixed[number],
                                       atol=1e-5, rtol=1e-5)  # fmt: skip


def test_the_input_is_saved_once_and_nothing_an_adaptation():
    torch.manual_seed(0)
    net = nn.Module()
    net.get_input_embeddings = lambda: nn.Embedding(1, 1)
    for name in "qkv":
        net.add_module(name, nn.Linear(256, 256, bias=False).bfloat16())
    bank = Bank(net, {str(n): Lora(rank=4, targets=("q", "k", "v")) for n in range(8)})
    x = torch.randn(512, 256, dtype=torch.bfloat16, requires_grad=True)
    rows = torch.arange(512) // 64
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    uses = {n: {str(n): 1.0} for n in range(8)}
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, bank.using(uses, rows):
        outs = [module(x) for _, module in bank.net.named_children()]
    inner = 3 * 512 * 8 * 4 * 2  # rank numbers a token for each layer
    assert sum(saved.values()) <= x.numel() * x.element_size() + inner
    sum(out.sum() for out in outs).backward()
    assert x.grad is not None


def test_inactive_adaptations_have_no_gradient_and_no_influence():
    bank = bank_of("llama")
    for tensor in bank.weights("large").values():
        tensor.data.fill_(float("nan"))
    pack = build_pack(ROWS)
    with bank.using({0: {"small": 1.0}, 1: {"ia3": 1.0, "large": 0.0}}, pack.rows):
        states = Decoder(bank.net).run(pack)
    assert bool(states.isfinite().all())
    loss(states).backward()
    assert all(t.grad is None for t in bank.weights("large").values())
    assert all(t.grad is not None for t in bank.weights("small").values())


def test_dropout_of_one_adaptation_leaves_the_others_alone():
    methods = {"wet": Lora(rank=2, dropout=0.5), "dry": Lora(rank=3)}
    bank = bank_of("llama", methods)
    pack = build_pack(ROWS[:2])
    bank.net.train()
    torch.manual_seed(3)
    with bank.using({0: {"wet": 1.0}, 1: {"dry": 1.0}}, pack.rows):
        once = Decoder(bank.net).run(pack)
        twice = Decoder(bank.net).run(pack)
    size = len(ROWS[0].ids)
    assert not torch.allclose(once[:size], twice[:size])
    assert torch.equal(once[size:], twice[size:])
    expected, _ = alone("llama", "dry", [ROWS[1]], methods)
    torch.testing.assert_close(once[size:], expected, atol=1e-5, rtol=1e-5)
    loss(once).backward()


def test_gradients_with_dropout_are_those_of_the_function_that_ran():
    bank = Bank(tiny_net("llama").double(), {"a": Lora(rank=2, dropout=0.3, targets=("v_proj",))})
    own = bank.weights("a")
    fill(own, 0)
    for tensor in own.values():
        tensor.data = tensor.data.double()
    layer = next(part for _, part in parts(bank.net)).train()
    trained = bank.weights("a")
    x = torch.randn(5, 32, dtype=torch.float64, requires_grad=True)

    def run(x, *_):
        torch.manual_seed(5)
        with bank.using({1: {"a": 0.7}}, torch.tensor([0, 1, 1, 0, 1])):
            return layer(x)

    assert torch.autograd.gradcheck(run, (x, *trained.values()))


def test_stored_tensors_come_back_and_strangers_are_refused():
    bank = bank_of("llama")
    kept = bank.stored("small")
    fill(bank.weights("small"), 9)
    bank.load("small", kept)
    assert all(torch.equal(kept[n], t) for n, t in bank.weights("small").items())
    with pytest.raises(ModelError, match="do not map onto the bank"):
        bank.load("large", kept)
    net = METHODS["small"].attach(tiny_net("llama"))
    assert set(kept) == set(weights(net))
    everything = weights(bank.net)
    assert len(everything) == sum(len(bank.weights(name)) for name in METHODS)


def test_what_cannot_be_mixed_is_refused_and_leaves_the_base():
    net = tiny_net("llama")
    for name, method in {
        "not Hypercomplex": Compacter(width=4),
        "not HubBottleneck": HubAdapter(width=4),
        "not Intervention": Reft(rank=2),
        "frozen starting point": Lora(rank=2, start="pissa"),
        "wraps one layer twice": parse("dora(targets='ff-out')+adapter"),
        "it has a gate": parse("gated(lora+adapter(placement=houlsby))"),
    }.items():
        with pytest.raises(ConfigError, match=f"cannot be in a bank: .*{name}"):
            Bank(net, {"ok": Lora(rank=2), name: method})
        assert not any(isinstance(module, Part) for module in net.modules())
    bank = Bank(net, {"one": Lora(rank=2)})
    with pytest.raises(ConfigError, match="Did you mean"), bank.using({"onee": 1.0}):
        pass
    with pytest.raises(ConfigError, match="needs a plain base"):
        Bank(net, {"two": Lora(rank=2)})
    with pytest.raises(ConfigError, match="have a low-rank branch already"):
        Lora(rank=2).attach(net)
    with pytest.raises(ConfigError, match="cannot be merged"):
        merge(net)
    detach(net)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("few", [0, 64])
def test_adaptations_come_and_go_while_the_others_stay(kind, few, monkeypatch):
    monkeypatch.setattr(bank_layer, "FEW", few)
    names = ("small", "ia3", "neck", "dora", "beside")
    bank = Bank(tiny_net(kind), {})
    pack = build_pack(ROWS[: len(names) + 1])

    def states(served):
        uses = {n: {name: 1.0} for n, name in enumerate(served) if name}
        with torch.no_grad(), bank.using(uses, pack.rows):
            found = Decoder(bank.net).run(pack).split([len(row.ids) for row in ROWS[: len(served)]])
        for number, name in enumerate(served):
            expected, _ = alone(kind, name, [ROWS[number]])
            torch.testing.assert_close(found[number], expected, atol=1e-5, rtol=1e-5)

    for count, name in enumerate(names):
        net = tiny_net(kind)
        METHODS[name].attach(net)
        fill(weights(net), list(METHODS).index(name))
        made = dict(parts(net))
        detach(net)
        bank.admit(name, METHODS[name], made)
        states([*names[: count + 1], *[""] * (len(names) - count)])
    for name in ("ia3", "beside", "small"):
        bank.release(name)
        assert name not in bank.names
    states(["", "neck", "", "dora", "", ""])
    for name in ("neck", "dora", "unknown"):
        bank.release(name)
    assert not any(True for _ in parts(bank.net))


def test_a_change_is_put_in_place_at_once_or_not_at_all():
    bank = Bank(tiny_net("llama"), {"small": METHODS["small"]})
    net = tiny_net("llama")
    reft = Reft()
    reft.attach(net)
    with pytest.raises(ConfigError, match="cannot be in a bank"):
        bank.changed({"reft": (reft, dict(parts(net)))}, ["small"])
    assert bank.names == ("small",)
    put = bank.changed({}, ["small"])
    assert bank.names == ("small",)
    put()
    assert bank.names == ()
