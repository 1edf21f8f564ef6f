"""`sapwood merge`: one adaptation out of several, with its origin, or every reason why not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from sapwood.adaptation import Adaptation, BaseRef, load, save
from sapwood.context.prompter import Context
from sapwood.context.template import default_template
from sapwood.methods.folder import attach_trained
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import stored
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer

LABELS = ("bad", "good")
IDS = torch.arange(20, 32)[None]


@pytest.fixture
def make(tiny_net):
    def build(method, seed, *, labels=LABELS, **changes):
        net = tiny_net("llama")
        method.attach(net, seed=seed)
        torch.manual_seed(seed)
        tensors = stored(net)
        for tensor in tensors.values():
            nn.init.normal_(tensor, std=0.1)
        made = Adaptation(
            labels=labels,
            readout_name="verbalizer",
            readout=Verbalizer(labels=labels, bias=bias.none(len(labels)), normalise="trie"),
            base=BaseRef(name="tiny", sha256="1" * 64, kind="decoder"),
            context=Context(template=default_template(labels, ["a fine film"])),
            method=method,
            weights=tensors,
            evidence={"seed": seed},
        )
        return replace(made, **changes)

    return build


@pytest.fixture
def two(make, tmp_path):
    """Two runs with LoRAs of other ranks, targets and scales."""
    one = make(Lora(rank=3, targets=("q_proj", "down_proj"), rslora=True), 1)
    other = make(Lora(rank=5, alpha=2.0, targets=("down_proj",)), 2)
    save(one, tmp_path / "one" / "adaptation")
    save(other, tmp_path / "other")
    return [tmp_path / "one", tmp_path / "other"], [one, other]


def logits(made, tiny_net):
    net = tiny_net("llama")
    attach_trained(net, made.method, made.weights, where="here")
    return net(IDS).logits.detach()


def test_the_weights_are_summed_and_the_origin_is_told(two, sapwood, tmp_path, tiny_net):
    folders, made = two
    ran = sapwood("merge", *folders, "--weights", "1,-0.5", "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["merged"]["weights"] == [1.0, -0.5]
    assert told["merged"]["relative_error"] == 0
    result = load(tmp_path / "out" / "adaptation")
    assert result.method.rank == 8
    origin = result.evidence["merged"]
    assert [one["evidence"] for one in origin["from"]] == [{"seed": 1}, {"seed": 2}]
    assert all(len(one["sha256"]) == 64 for one in origin["from"])
    net = tiny_net("llama")
    for one, weight in zip(made, (1.0, -0.5), strict=True):
        side = tiny_net("llama")
        attach_trained(side, one.method, one.weights, where="here")
        merged = dict(one.method.merge(side).named_parameters())
        base = dict(tiny_net("llama").named_parameters())
        with torch.no_grad():
            for name, held in net.named_parameters():
                held += weight * (merged[name] - base[name])
    torch.testing.assert_close(logits(result, tiny_net), net(IDS).logits, rtol=0, atol=2e-4)
    assert result.readout_name == "verbalizer"
    assert result.golden.texts == ()


@pytest.mark.parametrize("how", ["svd", "ties", "dare", "dare-ties"])
def test_a_cut_says_what_it_loses(two, sapwood, tmp_path, how):
    folders, _ = two
    density = () if how == "svd" else ("--density", "0.5")
    out = tmp_path / "out"
    ran = sapwood("merge", *folders, "--how", how, *density, "--rank", 2, "-o", out)
    assert ran.code == 0, ran.err
    assert "relative error of the change" in ran.out
    made = load(out / "adaptation")
    assert made.method.rank == 2
    assert 0.05 < made.evidence["merged"]["relative_error"] < 1


def test_average_of_another_method(make, sapwood, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        save(make(Ia3(), seed), tmp_path / name)
    out = tmp_path / "out"
    ran = sapwood("merge", tmp_path / "a", tmp_path / "b", "--how", "average", "-o", out)
    assert ran.code == 0, ran.err
    made, one, other = (load(p) for p in (out / "adaptation", tmp_path / "a", tmp_path / "b"))
    assert isinstance(made.method, Ia3)
    assert set(made.weights) == set(one.weights)
    for name, tensor in made.weights.items():
        torch.testing.assert_close(tensor, (one.weights[name] + other.weights[name]) / 2)
    ran = sapwood("merge", tmp_path / "a", tmp_path / "b", "-o", out)
    assert ran.code == 5
    assert "ia3 is no low-rank delta" in ran.err


def test_every_difference_is_named(two, make, sapwood, tmp_path):
    folders, _ = two
    odd = make(
        Lora(rank=2), 3, labels=("a", "b"), scope="suffix",
        base=BaseRef(name="another", sha256="2" * 64, kind="decoder"),
    )  # fmt: skip
    save(odd, tmp_path / "odd")
    save(replace(odd, method=None, weights={}), tmp_path / "bare")
    ran = sapwood("merge", folders[0], tmp_path / "odd", tmp_path / "bare", "-o", tmp_path / "out")
    assert ran.code == 5
    for words in (
        "odd is for the base another (222222222222), the first for tiny (111111111111)",
        "labels is ('a', 'b'), the first has ('bad', 'good')",
        "scope is suffix, the first has all",
        "odd has another context",
        "bare has no method",
    ):
        assert words in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Name two adaptations or more"),
        (("--weights", "1"), "1 weights for 2 adaptations"),
        (("--weights", "1,x"), "not numbers with commas"),
        (("--density", "0.5"), "density means nothing with 'linear'"),
        (("--rank", "4"), "'svd' cuts to one"),
    ],
)
def test_settings_that_mean_nothing_are_refused(two, sapwood, tmp_path, arguments, words):
    folders = two[0] if arguments else two[0][:1]
    ran = sapwood("merge", *folders, *arguments, "-o", tmp_path / "out")
    assert ran.code == 2
    assert words in ran.err
