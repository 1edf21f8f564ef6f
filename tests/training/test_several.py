"""Training several adaptations in one step is training one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sapwood.errors import ConfigError, ResourceError
from sapwood.methods import parts
from sapwood.methods.bank import Bank
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.testing import tiny_net
from sapwood.training import Recipe, Supervision, fit, make_optimiser, target
from sapwood.training.several import Member, Several

LABELS = {"a": [[10, 11], [10, 12, 13], [20]], "b": [[40], [41]], "c": [[10], [50, 51]]}
SHARED = {"a": (5, 6, 7, 8, 9), "b": (), "c": (9, 8, 7)}
METHODS = {
    "a": Lora(rank=4, alpha=8.0),
    "b": Lora(rank=2, targets=("query", "ff-in", "ff-out")),
    "c": Ia3(),
}
RECIPES = {
    "a": Recipe(batch_size=4, learning_rate=1e-3, seed=1),
    "b": Recipe(batch_size=3, learning_rate=2e-3, seed=2, clip=0.5, loss="vocabulary"),
    "c": Recipe(batch_size=1, learning_rate=5e-3, seed=3, weight_decay=0.1),
}
TOTALS = {"a": 6, "b": 4, "c": 8}


def fill(named, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(named):
            named[name].add_(0.05 * torch.randn(named[name].shape, generator=generator))


def supervision(decoder, name, scope="all"):
    trie = build_trie(LABELS[name])
    rng = np.random.default_rng(len(LABELS[name]))
    targets = [
        target(rng.integers(60, 290, rng.integers(3, 30)).tolist(),
               int(rng.integers(len(LABELS[name]))), trie)
        for _ in range(12)
    ]  # fmt: skip
    given = {"shared": SHARED[name]}
    if scope == "suffix" and SHARED[name]:
        given = {"prefix": decoder.encode(SHARED[name])}
    return Supervision(decoder, targets, trie, loss=RECIPES[name].loss, **given)


def together(kind="llama", names="abc", scope="all", **changes):
    bank = Bank(tiny_net(kind), {name: METHODS[name] for name in names})
    decoder = Decoder(bank.net)
    for name in names:
        fill(bank.weights(name), ord(name))
    members = [
        Member(name=name, supervision=supervision(decoder, name, scope),
               recipe=changes.get(name, RECIPES[name]), total=TOTALS[name])
        for name in names
    ]  # fmt: skip
    return Several(bank, members)


def alone(name, kind="llama", scope="all"):
    net = tiny_net(kind)
    decoder = Decoder(net)
    lossy = supervision(decoder, name, scope)  # a cached prefix is the plain base's
    METHODS[name].attach(net)
    weights = parts.weights(net)
    fill(weights, ord(name))
    optimiser = make_optimiser(list(weights.values()), RECIPES[name])
    steps = list(fit(lossy, optimiser, RECIPES[name], total=TOTALS[name]))
    return steps, weights


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("scope", ["all", "suffix"])
def test_losses_and_weights_are_those_of_one_after_the_other(kind, scope):
    run = together(kind, scope=scope)
    rounds = list(run.steps())
    assert len(rounds) == max(TOTALS.values())
    assert set(rounds[5].steps) == {"a", "c"}  # b is through by then
    for name in METHODS:
        expected, weights = alone(name, kind, scope)
        found = [r.steps[name] for r in rounds if name in r.steps]
        assert [s.number for s in found] == list(range(1, TOTALS[name] + 1))
        for one, other in zip(found, expected, strict=True):
            assert one.loss == pytest.approx(other.loss, abs=1e-5)
            assert one.learning_rate == other.learning_rate
            assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)
        for path, tensor in run.bank.weights(name).items():
            torch.testing.assert_close(tensor, weights[path], atol=1e-5, rtol=1e-5)


def test_one_that_diverges_is_stopped_and_the_others_go_on_undisturbed():
    run = together()
    broken = run.bank.weights("a")
    for tensor in broken.values():
        tensor.data.fill_(float("inf"))
    rounds = list(run.steps())
    assert "'a' diverged at step 1 of 6" in rounds[0].stopped["a"]
    assert "Lower its rate: 0.0003" in run.stopped["a"]
    for name in "bc":
        expected, weights = alone(name)
        losses = [r.steps[name].loss for r in rounds if name in r.steps]
        assert losses == pytest.approx([s.loss for s in expected], abs=1e-5)
        for path, tensor in run.bank.weights(name).items():
            torch.testing.assert_close(tensor, weights[path], atol=1e-5, rtol=1e-5)


def test_a_rate_that_explodes_midway_harms_nobody_else():
    run = together(a=Recipe(batch_size=4, learning_rate=1e30, seed=1))
    rounds = list(run.steps())
    assert set(run.stopped) == {"a"}
    assert not rounds[0].stopped  # its first step was still finite
    expected, _ = alone("b")
    losses = [r.steps["b"].loss for r in rounds if "b" in r.steps]
    assert losses == pytest.approx([s.loss for s in expected], abs=1e-5)


@pytest.mark.parametrize("stop", [1, 5])
def test_a_resumed_run_ends_bit_identical(tmp_path, stop):
    whole = together()
    losses = [{n: s.loss for n, s in r.steps.items()} for r in whole.steps()]
    broken = together()
    for r in broken.steps():
        if r.number == stop:
            broken.save(tmp_path, {"note": [1]})
            break
    again = together()
    assert again.resume(tmp_path / "nothing") == {}
    assert again.resume(tmp_path) == {"note": [1]}
    rest = [{n: s.loss for n, s in r.steps.items()} for r in again.steps()]
    assert rest == losses[stop:]
    for name in METHODS:
        for path, tensor in again.bank.weights(name).items():
            assert torch.equal(tensor, whole.bank.weights(name)[path])


def test_out_of_memory_makes_the_packs_smaller_and_nothing_else(monkeypatch):
    undisturbed = [r.steps["a"].loss for r in together(names="ab").steps() if "a" in r.steps]
    real = Decoder.run

    def run(self, pack):
        if pack.ids.shape[1] > 100:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return real(self, pack)

    monkeypatch.setattr(Decoder, "run", run)
    tight = [r.steps["a"].loss for r in together(names="ab").steps() if "a" in r.steps]
    assert tight == pytest.approx(undisturbed, abs=1e-5)
    monkeypatch.setattr(Decoder, "run", lambda self, pack: run(self, None))
    monkeypatch.setattr("sapwood.training.several.build_pack", _no_memory)
    with pytest.raises(ResourceError, match="not enough memory for a single example"):
        list(together().steps())


def _no_memory(*_, **__):
    raise MemoryError


def test_faster_b_of_lora_plus_is_kept():
    bank = Bank(tiny_net("llama"), {"a": Lora(rank=2, plus=4.0)})
    fill(bank.weights("a"), 0)
    before = bank.stored("a")
    member = Member(name="a", supervision=supervision(Decoder(bank.net), "a"), recipe=RECIPES["a"],
                    total=1)  # fmt: skip
    list(Several(bank, [member]).steps())
    moved = {n: float((t.detach() - before[n]).abs().max()) for n, t in bank.weights("a").items()}
    ups = [v for n, v in moved.items() if "lora_B" in n]
    downs = [v for n, v in moved.items() if "lora_A" in n]
    assert max(ups) == pytest.approx(4e-3, rel=0.05) and max(downs) == pytest.approx(1e-3, rel=0.05)


def test_what_cannot_train_together_is_refused_all_at_once():
    run = together(names="ab")
    first = run.members["a"]
    other = Member(name="b", supervision=supervision(Decoder(tiny_net("llama")), "b"),
                   recipe=RECIPES["b"], trains=("a",))  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        Several(run.bank, [first, first, other])
    words = " ".join(caught.value.details)
    assert "'a' is there twice" in words
    assert "'a' and 'b' train 'a'" in words
    assert "'b' has another net" in words
    with pytest.raises(ConfigError, match="no adaptation 'z'"):
        Several(run.bank, [Member(name="z", supervision=first.supervision, recipe=first.recipe)])
