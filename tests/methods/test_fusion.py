"""AdapterFusion: trained adapters read from folders, frozen, mixed by a trained attention."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.adapter import Adapter
from sapwood.methods.compacter import Compacter
from sapwood.methods.dora import Dora
from sapwood.methods.folder import load_trained, write_method
from sapwood.methods.fusion import Fusion, FusionLayer
from sapwood.methods.hub_adapter import HubAdapter
from sapwood.methods.hub_folder import write_hub
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import (
    detach,
    disabled,
    parts,
    stored,
    transposed,
    weights,
    weights_key,
)
from sapwood.methods.settings import from_settings, settings
from sapwood.methods.together import Together, parse
from sapwood.methods.vera import Vera
from sapwood.testing import EVERY_KIND, check_method, run_tiny, tiny_net
from sapwood.training.start import as_trained


def trained(kind, method, *, seed=0):
    """Return a tiny net with a method away from its start."""
    net = method.attach(tiny_net(kind))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in weights(net).values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return net


def write(folder, kind, method, *, seed=0, base="tiny"):
    net = trained(kind, method, seed=seed)
    write_method(stored(net), method, folder, base=base, transposed=transposed(net))
    return str(folder)


def shake(net):
    with torch.no_grad():
        for tensor in weights(net).values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize(
    "method",
    [
        Adapter(width=5, activation="gelu", scale=2.0),
        Adapter(width=5, placement="houlsby"),
        Adapter(width=5, placement="parallel"),
        Compacter(width=4, placement="pfeiffer"),
        Lora(rank=3, targets=("ff-out",)),
        Vera(rank=6, targets=("ff-in",)),
    ],
    ids=lambda m: f"{m.name}-{getattr(m, 'placement', 'low')}",
)
def test_equal_adapters_fused_are_that_adapter(kind, method, tmp_path):
    if (kind, getattr(method, "placement", "")) == ("xlnet", "houlsby"):
        pytest.skip("its attention has no linear layers")
    one = write(tmp_path / "one", kind, method)
    net = Fusion(adapters=(one, one)).attach(tiny_net(kind))
    with torch.no_grad():  # whatever the attention says, its shares are 1 together
        for name, tensor in weights(net).items():
            if not name.endswith("fusion_value"):
                tensor.add_(torch.randn(tensor.shape))
        wanted = run_tiny(trained(kind, method))
        scale = float(wanted.abs().max())
        torch.testing.assert_close(run_tiny(net) / scale, wanted / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reads", ["stream", "residual", "output"])
@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_adapterhub_folders_are_fused_and_kept_without_them(kind, reads, tmp_path):
    method = HubAdapter(width=4, attention=True, reads=reads)
    net = trained(kind, method)
    for name in ("a", "b"):
        write_hub(stored(net), method, tmp_path / name, net=tiny_net(kind))
    fusion = Fusion(adapters=(str(tmp_path / "a"), str(tmp_path / "b")))
    fused = fusion.attach(tiny_net(kind))
    with torch.no_grad():
        found, wanted = run_tiny(fused), run_tiny(net)
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=1e-5)
    kept = as_trained(fused, fusion)
    write_method(stored(fused), kept, tmp_path / "out", base="tiny", transposed=False)
    shutil.rmtree(tmp_path / "a")
    again = tiny_net(kind)
    assert load_trained(again, tmp_path / "out") == kept
    assert torch.equal(run_tiny(again), found)


def test_a_layer_is_the_paper_s_formula():
    torch.manual_seed(0)
    methods = (Adapter(width=3), Adapter(width=5, activation="tanh"))
    net = Fusion(members=methods).attach(tiny_net("llama"))
    for tensor in weights(net).values():
        nn.init.normal_(tensor, std=0.2)
    layer = net.model.layers[1].mlp.down_proj
    x = torch.randn(2, 7, 64)
    h = layer.base_layer(x)
    outputs = []
    for part, act in zip(layer.adapters, (torch.relu, torch.tanh), strict=True):
        outputs.append(part.adapter_up(act(part.adapter_down(h))))
    z = torch.stack(outputs, -2)
    query = h @ layer.fusion_query.weight.t() + layer.fusion_query.bias
    scores = torch.einsum("bth,btnh->btn", query, z @ layer.fusion_key.weight.t())
    value = torch.eye(32) + layer.fusion_value
    mixed = torch.einsum("btn,btnh->bth", scores.softmax(-1), z @ value.t())
    torch.testing.assert_close(layer(x), h + mixed)


def test_only_the_attention_trains_and_it_loads_alone(tmp_path):
    """Folders of one adapter, its weights and places: ours, and an adaptation inside a run."""
    one = write(tmp_path / "one", "llama", Adapter(width=4), seed=1)
    inner = tmp_path / "run" / "adaptation"
    write(inner, "llama", Adapter(width=6, activation="gelu"), seed=2)
    base = {"name": "tiny", "sha256": "0" * 64, "kind": "llama"}
    (inner / "adaptation.json").write_text(json.dumps({"base": base}))
    fusion = Fusion(adapters=(one, str(tmp_path / "run")))
    net = fusion.attach(tiny_net("llama"), seed=3)
    assert {name.rsplit("down_proj.", 1)[1] for name in weights(net)} == {
        "fusion_query.weight", "fusion_query.bias", "fusion_key.weight", "fusion_value",
    }  # fmt: skip
    assert sum(p.requires_grad for p in net.parameters()) == 4 * 2
    before = {n: t for n, t in stored(net).items() if "fusion" not in n}
    shake(net)
    optimiser = torch.optim.AdamW(weights(net).values(), lr=1e-2)
    run_tiny(net).square().mean().backward()
    optimiser.step()
    held = stored(net)
    assert len(before) == 2 * 2 * 4
    assert all(torch.equal(held[name], tensor) for name, tensor in before.items())
    made = as_trained(net, fusion)
    assert made == fusion.kept()
    assert made == Fusion(members=(Adapter(width=4), Adapter(width=6, activation="gelu")))
    write_method(held, made, tmp_path / "fused", base="tiny", transposed=False)
    output = run_tiny(net)
    shutil.rmtree(tmp_path / "one")
    shutil.rmtree(tmp_path / "run")
    other = tiny_net("llama")
    assert load_trained(other, tmp_path / "fused") == made
    assert torch.equal(run_tiny(other), output)
    assert stored(other).keys() == held.keys()
    assert from_settings("fusion", json.loads(json.dumps(settings(made)))) == made
    with disabled(net):
        assert torch.equal(run_tiny(net), run_tiny(tiny_net("llama")))
    detach(net)
    assert not list(parts(net))
    assert torch.equal(run_tiny(net), run_tiny(tiny_net("llama")))


def test_folders_keep_every_promise_of_a_method(tmp_path):
    folders = [write(tmp_path / str(n), "llama", Lora(rank=n, targets=("ff-out",)), seed=n)
               for n in (2, 3)]  # fmt: skip
    found = check_method(
        Fusion(adapters=tuple(folders)), tiny_net("llama"), run_tiny, starts_unchanged=False
    )
    assert not found.merges
    assert found.trained == 2 * (3 * 32 * 32 + 32)


def test_the_content_of_frozen_adapters_is_part_of_the_key(tmp_path):
    folders = [write(tmp_path / str(n), "llama", Adapter(width=4), seed=n) for n in range(3)]
    keys = {
        weights_key(Fusion(adapters=pair).attach(tiny_net("llama")))
        for pair in ((folders[0], folders[1]), (folders[0], folders[2]))
    }
    assert len(keys) == 2


def test_the_attention_learns_which_adapter_a_row_needs(tmp_path):
    folders = tuple(write(tmp_path / str(n), "llama", Adapter(width=8), seed=n) for n in range(2))
    rows = [torch.arange(20 + 5 * n, 32 + 5 * n)[None] for n in range(6)]
    with torch.no_grad():
        wanted = [
            trained("llama", Adapter(width=8), seed=n % 2)(ids).logits for n, ids in enumerate(rows)
        ]
    net = Fusion(adapters=folders).attach(tiny_net("llama"))
    optimiser = torch.optim.AdamW(weights(net).values(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        pairs = zip(rows, wanted, strict=True)
        loss = sum((net(ids).logits - logits).square().mean() for ids, logits in pairs)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_it_acts_beside_other_methods(tmp_path):
    folders = tuple(
        write(tmp_path / str(n), "llama", Adapter(width=4, placement="parallel"), seed=n)
        for n in range(2)
    )
    method = Together(methods=(Lora(rank=2, targets=("query", "ff-out")), Fusion(adapters=folders)))
    check_method(method, tiny_net("llama"), run_tiny, starts_unchanged=False)
    line = parse(f"lora(rank=2) + fusion(adapters=('{folders[0]}', '{folders[1]}'))")
    assert line.methods[1] == Fusion(adapters=folders)


def test_what_cannot_be_fused_is_named_and_leaves_the_net(tmp_path):
    good = write(tmp_path / "good", "llama", Adapter(width=4))
    bad = {
        "houlsby": (Adapter(width=4, placement="houlsby"), {}, "houlsby also has .*o_proj"),
        "low": (Lora(rank=2, targets=("query",)), {}, "lacks .*down_proj.* also has|q_proj"),
        "dora": (Dora(rank=2, targets=("ff-out",)), {}, "DoraLayer scales the whole output"),
        "ia3": (Ia3(), {}, "Ia3Layer at .* is neither a bottleneck"),
        "twice": (parse("lora(targets='ff-out')+adapter"), {}, "two parts at one place"),
        "gated": (parse("gated(adapter)"), {}, "it has gates"),
        "base": (Adapter(width=4), {"base": "org/other"}, "is for other, .* for tiny"),
    }
    net = tiny_net("llama")
    for name, (method, other, why) in bad.items():
        folder = write(tmp_path / name, "llama", method, **other)
        with pytest.raises((ConfigError, ModelError), match=f"(?s)cannot be fused.*{why}"):
            Fusion(adapters=(good, folder)).attach(net)
        assert not list(parts(net))
    write(tmp_path / "hash", "llama", Adapter(width=4))
    for name, digest in (("good", "a" * 64), ("hash", "b" * 64)):
        said = json.dumps({"base": {"sha256": digest}})
        (tmp_path / name / "adaptation.json").write_text(said)
    with pytest.raises(ModelError, match="bases differ"):
        Fusion(adapters=(good, str(tmp_path / "hash"))).attach(net)
    gpt = write(tmp_path / "gpt", "gpt2", Adapter(width=4))
    with pytest.raises(ModelError, match="do not map onto the base"):
        Fusion(adapters=(good, gpt)).attach(net)
    with pytest.raises(ModelError, match="is missing"):
        Fusion(adapters=(good, str(tmp_path / "nothing"))).attach(net)
    with pytest.raises(ConfigError, match="two adapters or more, got 1"):
        Fusion(adapters=(good,)).attach(net)
    for method in (Lora(start="pissa"), Lora(start="eva")):
        with pytest.raises(ConfigError, match="cannot be fused"):
            Fusion(members=(method, replace(method, rank=4))).attach(net)
    for wrong in ({"members": ("lora",)}, {"adapters": ("a",), "members": (Lora(),)},
                  {"members": (Fusion(), Lora())}):  # fmt: skip
        with pytest.raises(ConfigError, match="The fusion is wrong"):
            Fusion(**wrong)
    assert not any(isinstance(module, FusionLayer) for module in net.modules())


def test_two_runs_are_fused_from_the_command_line(
    sapwood, small_base, write_rows, tmp_path, monkeypatch
):
    """What was fused is checked against its golden probe, with the runs it came from gone."""
    monkeypatch.setattr("sapwood.report.write_html", lambda *given: None)
    monkeypatch.chdir(tmp_path)
    data = write_rows(tmp_path / "d.csv")

    def tune(method, out):
        ran = sapwood(
            "tune", data, "--model", small_base, "--encoder", "none", "--epochs", "0.5",
            "--method", method, "--device", "cpu", "--dtype", "float32", "--out", out, "--json",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        (made,) = [c for c in json.loads(ran.out)["candidates"] if c["name"] == method]
        assert made["status"] == "finished", made["why"]
        return tmp_path / out / "run" / "candidates" / method.replace("/", "_") / "adaptation"

    for width in (3, 4):
        shutil.copytree(tune(f"adapter(width={width})", f"r{width}"), f"a{width}")
    folder = tune("fusion(adapters=('a3','a4'))", "fused")
    for gone in ("r3", "r4", "a3", "a4"):
        shutil.rmtree(gone)
    done = sapwood("predict", folder, "--data", data, "--json", "--device", "cpu",
                   "--dtype", "float32")  # fmt: skip
    assert done.code == 0, done.err
    said = json.loads((folder / "adaptation.json").read_text())["parts"]["method"]
    assert said == "fusion of pfeiffer adapter, width 3; pfeiffer adapter, width 4"
