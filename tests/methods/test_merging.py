"""Merging: exact sums, TIES and DARE against installed PEFT, what a cut loses, refusals."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import nn

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.bitfit import LayerNorm
from sapwood.methods.folder import attach_trained, load_trained
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.merging import (
    Branch,
    Combining,
    average,
    branches,
    combine,
    cut,
    cut_branch,
    mask_seed,
)
from sapwood.methods.parts import detach, stored
from sapwood.testing import tiny_net

IDS = torch.arange(20, 32)[None]
DOWN = "model.layers.1.mlp.down_proj"


def trained(method, seed, kind="llama"):
    """Return a method's tensors, all random."""
    net = tiny_net(kind)
    method.attach(net, seed=seed)
    tensors = stored(net)
    torch.manual_seed(seed)
    for tensor in tensors.values():
        nn.init.normal_(tensor, std=0.1)
    return tensors


def deltas(method, tensors):
    return {path: branch.delta() for path, branch in branches(method, tensors).items()}


def logits(method, tensors, kind="llama"):
    net = tiny_net(kind)
    attach_trained(net, method, tensors, where="here")
    return net(IDS).logits


def two():
    """Two LoRAs of other ranks, targets and scales."""
    one = Lora(rank=3, alpha=5.0, targets=("q_proj", "down_proj"), rslora=True)
    other = Lora(rank=5, alpha=7.0, targets=("down_proj", "up_proj"), alpha_pattern={DOWN: 2.0})
    return [(one, trained(one, 1)), (other, trained(other, 2))]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_linear_is_the_exact_sum_of_deltas(kind):
    names = ("c_attn", "c_fc") if kind == "gpt2" else ("q_proj", "down_proj")
    pairs = []
    for n, name in enumerate(names):
        method = Lora(rank=3 + n, alpha=4.0, targets=(name, names[1]), rslora=bool(n))
        pairs.append((method, trained(method, n, kind)))
    given = [branches(*pair) for pair in pairs]
    made, tensors = combine(given, Combining(weights=(0.7, -0.3))).as_method()
    net = tiny_net(kind)
    with torch.no_grad():
        for (method, found), weight in zip(pairs, (0.7, -0.3), strict=True):
            for path, delta in deltas(method, found).items():
                module = net.get_submodule(path)
                module.weight += weight * (delta.t() if kind == "gpt2" else delta)
    torch.testing.assert_close(logits(made, tensors, kind), net(IDS).logits, rtol=0, atol=2e-4)
    assert made.rank == 3 + 4


def test_sums_of_factors_are_something_else():
    given = [branches(m, t) for m, t in two()]
    given = [{DOWN: Branch(a=g[DOWN].a[:3], b=g[DOWN].b[:, :3])} for g in given]
    exact = combine(given, Combining()).branches[DOWN].delta()
    rough = combine(given, Combining(on="factors")).branches[DOWN].delta()
    assert (exact - rough).norm() > 0.3 * exact.norm()


def test_svd_of_all_ranks_is_exact_and_a_cut_says_what_it_lost():
    given = [branches(m, t) for m, t in two()]
    exact = combine(given, Combining())
    whole = combine(given, Combining(how="svd", rank=8))
    for path, branch in exact.branches.items():
        torch.testing.assert_close(whole.branches[path].delta(), branch.delta())
    less = combine(given, Combining(how="svd", rank=2))
    for path, branch in less.branches.items():
        full = exact.branches[path].delta()
        found = float((full - branch.delta()).norm() / full.norm())
        assert less.lost[path] == pytest.approx(found, abs=1e-5)
        best, lost = cut(full, 2)
        torch.testing.assert_close(branch.delta(), best.delta())
        assert lost == pytest.approx(found, abs=1e-5)
    assert less.lost[DOWN] > 0.1
    assert less.rank == 2


def test_a_large_matrix_takes_the_randomised_way_and_finds_its_rank(monkeypatch):
    monkeypatch.setattr("sapwood.methods.merging._FULL_SVD", 32)
    torch.manual_seed(0)
    branch = Branch(a=torch.randn(4, 60), b=torch.randn(50, 4), scale=0.5)
    found, lost = cut(branch.delta(), 4)
    torch.testing.assert_close(found.delta(), branch.delta(), rtol=1e-3, atol=1e-4)
    assert lost < 1e-5
    assert cut_branch(branch, 9) == (branch, 0.0)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # peft's own
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("theirs", "settings"),
    [
        ("cat", Combining()),
        ("svd", Combining(how="svd", rank=4)),
        ("ties_svd", Combining(how="ties", density=0.4, rank=4)),
        ("dare_linear_svd", Combining(how="dare", density=0.4, rank=4, seed=3)),
        ("dare_ties_svd", Combining(how="dare-ties", density=0.4, rank=32, seed=3)),
        ("linear", Combining(on="factors")),
        ("ties", Combining(how="ties", density=0.4, on="factors")),
        ("dare_linear", Combining(how="dare", density=0.4, on="factors", seed=4)),
        ("dare_ties", Combining(how="dare-ties", density=0.4, on="factors", seed=4)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_peft_merges_to_the_same(theirs, settings):
    peft = pytest.importorskip("peft", reason="peft comes with the dev extra")
    weights = (0.6, 0.9)
    first = peft.LoraConfig(r=4, lora_alpha=6, target_modules=[DOWN])
    net = peft.get_peft_model(tiny_net("llama"), first, "one")
    second = peft.LoraConfig(r=4, lora_alpha=3, target_modules=[DOWN], use_rslora=True)
    net.add_adapter("two", second)
    torch.manual_seed(0)
    for name, tensor in net.named_parameters():
        if "lora_" in name:
            nn.init.normal_(tensor, std=0.1)
    layer = net.get_submodule("base_model.model." + DOWN)
    given = [
        {DOWN: Branch(a=layer.lora_A[n].weight, b=layer.lora_B[n].weight, scale=layer.scaling[n])}
        for n in ("one", "two")
    ]
    real = type(net.base_model).inject_adapter

    def inject(self, *args, **named):  # the new branch starts at random: not from our stream
        real(self, *args, **named)
        torch.manual_seed(mask_seed(DOWN, settings.seed))

    with patch.object(type(net.base_model), "inject_adapter", inject):
        net.add_weighted_adapter(
            ["one", "two"], list(weights), "both", combination_type=theirs,
            density=settings.density, svd_rank=settings.rank,
        )  # fmt: skip
    expected = layer.get_delta_weight("both")
    with torch.no_grad():
        found = combine(given, Combining(**{**vars(settings), "weights": weights}))
    torch.testing.assert_close(found.branches[DOWN].delta(), expected, rtol=0, atol=1e-4)
    assert expected.abs().max() > 1e-2


def test_dare_keeps_the_sum_on_average():
    given = [branches(m, t) for m, t in two()]
    exact = combine(given, Combining()).branches[DOWN].delta()
    mean = torch.zeros_like(exact)
    for seed in range(200):
        settings = Combining(how="dare", density=0.5, rank=32, seed=seed)
        mean += combine(given, settings).branches[DOWN].delta() / 200
    assert (mean - exact).norm() < 0.12 * exact.norm()  # one mask is off by about the norm itself


def test_the_order_of_tensors_changes_nothing():
    given = [branches(m, t) for m, t in two()]
    settings = Combining(how="dare-ties", density=0.5)
    turned = [dict(reversed(list(one.items()))) for one in given]
    for path, branch in combine(given, settings).branches.items():
        assert torch.equal(branch.a, combine(turned, settings).branches[path].a)


def test_ties_leaves_out_the_minority():
    one = Branch(a=torch.eye(2), b=torch.tensor([[3.0, 1.0], [0.0, 2.0]]))
    other = Branch(a=torch.eye(2), b=torch.tensor([[-1.0, 2.0], [0.0, -4.0]]))
    found = combine([{"m": one}, {"m": other}], Combining(how="ties", rank=2)).branches["m"].delta()
    torch.testing.assert_close(found, torch.tensor([[3.0, 1.5], [0.0, -4.0]]))
    half = Combining(how="ties", density=0.5, rank=2)
    found = combine([{"m": one}, {"m": other}], half).branches["m"].delta()
    torch.testing.assert_close(found, torch.tensor([[3.0, 2.0], [0.0, -4.0]]))


@pytest.mark.parametrize(
    "method", [Lora(rank=3), Ia3(), LayerNorm()], ids=lambda method: method.name
)
def test_average_is_the_mean_of_trained_tensors(method):
    found = [trained(method, seed) for seed in (1, 2)]
    made, mean = average([(method, found[0]), (method, found[1])], (0.25, 0.75))
    assert made == method
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.25 * found[0][name] + 0.75 * found[1][name])
    assert logits(made, mean).isfinite().all()


def test_what_cannot_be_averaged_is_named():
    pairs = two()
    with pytest.raises(ModelError) as caught:
        average(pairs)
    assert "number 2 is Lora(rank=5" in str(caught.value)
    assert "number 2 has other tensors" in str(caught.value)


def test_refusals_name_everything():
    with pytest.raises(ConfigError) as caught:
        Combining(how="sum", density=0, rank=0, on="b")
    for words in ("how is 'sum'", "on is 'b'", "density must be", "rank must be"):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="3 weights for 2 adaptations"):
        combine([branches(m, t) for m, t in two()], Combining(weights=(1, 1, 1)))
    with pytest.raises(ModelError, match="ia3 is no low-rank delta"):
        branches(Ia3(), {})
    small = {"m": Branch(a=torch.ones(1, 2), b=torch.ones(2, 1))}
    large = {"m": Branch(a=torch.ones(2, 3), b=torch.ones(2, 2))}
    with pytest.raises(ModelError, match="m has other sizes"):
        combine([small, large], Combining())
    wide = {"m": Branch(a=torch.ones(2, 2), b=torch.ones(2, 2))}
    with pytest.raises(ModelError, match="other ranks, so factors have no sum"):
        combine([small, wide], Combining(on="factors"))


def test_a_merged_lora_is_written_and_read(tmp_path):
    from sapwood.methods.folder import write_method

    made, tensors = combine([branches(m, t) for m, t in two()], Combining()).as_method()
    write_method(tensors, made, tmp_path, base="tiny", transposed=False)
    net = tiny_net("llama")
    load_trained(net, tmp_path)
    torch.testing.assert_close(net(IDS).logits, logits(made, tensors))
    detach(net)
