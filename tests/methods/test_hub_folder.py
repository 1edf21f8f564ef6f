"""AdapterHub folders: what is exact, what is refused, and the library itself as the judge."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.adapter import Adapter
from sapwood.methods.hub_adapter import HubAdapter
from sapwood.methods.hub_folder import load_hub, read_hub, write_hub
from sapwood.methods.lora import Lora
from sapwood.methods.parts import detach, stored, weights
from sapwood.methods.prefix_tuning import Prefix
from sapwood.testing import tiny_net

PYTHON = os.environ.get("SAPWOOD_HUB_PYTHON", "")
IDS = list(range(20, 32))
KINDS = ("bert", "llama", "gpt2")


def shaken(net, method):
    method.attach(net, seed=1)
    torch.manual_seed(1)
    for tensor in weights(net).values():
        torch.nn.init.normal_(tensor, std=0.3)
    return net


def answer(net):
    with torch.no_grad():
        return net(input_ids=torch.tensor([IDS]))[0]


def written(tmp_path, kind="llama", method=None, **config):
    """Write a folder, change its configuration, and return it."""
    net = shaken(tiny_net(kind), method or HubAdapter(width=4))
    folder = tmp_path / "hub"
    write_hub(stored(net), method or HubAdapter(width=4), folder, net=tiny_net(kind))
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    content["config"] |= config
    path.write_text(json.dumps(content))
    return folder


OURS = [
    (kind, method)
    for kind in KINDS
    for method in (
        HubAdapter(width=5),
        HubAdapter(width=3, attention=True, reads="stream", activation="gelu", scale=2.0),
        HubAdapter(width=3, attention=True, output=False, reads="residual"),
        HubAdapter(width=3, reads="residual", scale=4.0),
        Adapter(width=7, placement="houlsby", activation="silu"),
        Adapter(width=48, placement="pfeiffer", scale=0.5),
        *([Adapter(width=4, placement="parallel")] if kind == "bert" else []),
    )
]


@pytest.mark.parametrize(("kind", "method"), OURS, ids=lambda x: getattr(x, "name", x))
def test_what_is_written_is_read_again(kind, method, tmp_path):
    net = shaken(tiny_net(kind), method)
    expected = answer(net)
    write_hub(stored(net), method, tmp_path / "hub", net=tiny_net(kind))
    fresh = tiny_net(kind)
    before = answer(fresh)
    found = load_hub(fresh, tmp_path / "hub")
    assert found.width == method.width
    torch.testing.assert_close(answer(fresh), expected, rtol=0, atol=1e-5)
    assert (expected - before).abs().max() > 1e-2
    assert torch.equal(answer(detach(fresh)), before)


def test_our_own_adapter_is_used_where_it_is_the_same(tmp_path):
    for number, (kind, method) in enumerate(OURS):
        net = shaken(tiny_net(kind), method)
        folder = tmp_path / str(number)
        write_hub(stored(net), method, folder, net=net)
        found, _ = read_hub(folder, tiny_net(kind))
        same = isinstance(method, Adapter) or (
            kind == "bert" and method.reads == "residual" and not method.attention
        )
        assert isinstance(found, Adapter) is same


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_gating": True}, "use_gating is True"),
        ({"ln_after": True, "phm_layer": True}, "phm_layer is True"),
        ({"inv_adapter": "nice"}, "inv_adapter is 'nice'"),
        ({"scaling": "learned"}, "scaling is 'learned', a trained one"),
        ({"reduction_factor": {"default": 2}}, "differs from layer to layer"),
        ({"leave_out": [0]}, "leave_out is [0]"),
        ({"residual_before_ln": "post_add"}, "residual_before_ln is 'post_add'"),
        ({"original_ln_after": False}, "original_ln_after is False"),
        ({"architecture": "prompt_tuning"}, "its architecture is 'prompt_tuning'"),
        ({"architecture": "lora", "r": 2, "alpha": 2, "use_dora": True}, "use_dora is True"),
    ],
)
def test_settings_that_cannot_be_reproduced_are_refused(config, words, tmp_path):
    with pytest.raises(ModelError, match="cannot be read exactly") as caught:
        load_hub(tiny_net("llama"), written(tmp_path, **config))
    assert words in str(caught.value)


def test_pickles_are_not_opened_and_the_cure_is_told(tmp_path):
    folder = written(tmp_path)
    (folder / "adapter.safetensors").rename(folder / "pytorch_adapter.bin")
    with pytest.raises(ModelError, match="a pickle can run any code") as caught:
        load_hub(tiny_net("llama"), folder)
    assert "weights_only=True" in str(caught.value)


def test_other_nets_and_other_folders_are_refused(tmp_path):
    folder = written(tmp_path)
    with pytest.raises(ModelError, match="it is for llama of width 32, the net is bert"):
        load_hub(tiny_net("bert"), folder)
    with pytest.raises(ConfigError, match="'qwen2' kind are not known"):
        HubAdapter().attach(tiny_net("qwen2"))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelError, match="it is no AdapterHub folder"):
        load_hub(tiny_net("llama"), folder)
    with pytest.raises(ModelError, match="read normalised states in llama"):
        parallel = Adapter(placement="parallel")
        write_hub({}, parallel, tmp_path / "x", net=tiny_net("llama"))
    with pytest.raises(ModelError, match="Only bottleneck adapters"):
        write_hub({}, Lora(), tmp_path / "x", net=tiny_net("llama"))


def test_a_tensor_that_is_missing_stops_the_load(tmp_path):
    folder = written(tmp_path)
    file = folder / "adapter.safetensors"
    tensors = load_file(file)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, file)
    with pytest.raises(ModelError, match="is not in the file"):
        load_hub(tiny_net("llama"), folder)


CASES = {
    "seq": ("seq_bn", {}),
    "double": ("double_seq_bn", {"reduction_factor": 5}),
    "both_stream": ("seq_bn", {"mh_adapter": True, "non_linearity": "gelu", "scaling": 2.0}),
    "parallel": ("par_bn", {}),
    "parallel_both": ("par_bn", {"mh_adapter": True}),
    "lora": ("lora", {"alpha": 16, "r": 4}),
    "lora_all": ("lora", {"attn_matrices": ["q", "k", "v"], "intermediate_lora": True,
                          "output_lora": True}),
    "prefix": ("prefix_tuning", {"prefix_length": 5, "bottleneck_size": 16}),
    "prefix_flat": ("prefix_tuning", {"prefix_length": 4, "flat": True}),
}  # fmt: skip


def theirs(verb: str, folder: Path) -> None:
    done = subprocess.run(
        [PYTHON, "-W", "ignore", str(Path(__file__).with_name("hub_side.py")), verb, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def prepared(folder: Path) -> None:
    for kind in KINDS:
        tiny_net(kind).save_pretrained(folder / f"net-{kind}")
    (folder / "ids.json").write_text(json.dumps(IDS))


hub = pytest.mark.skipif(
    not PYTHON, reason="SAPWOOD_HUB_PYTHON names no interpreter with adapters==1.3.0"
)


@hub
@pytest.mark.slow
def test_what_the_library_writes_answers_the_same_here(tmp_path):
    prepared(tmp_path)
    cases = {
        f"{kind}-{name}": {"net": f"net-{kind}", "config": config, "changes": changes}
        for kind in KINDS
        for name, (config, changes) in CASES.items()
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    theirs("make", tmp_path)
    refused = {}
    for case in cases:
        net = tiny_net(case.split("-")[0])
        before = answer(net)
        try:
            load_hub(net, tmp_path / case)
        except ModelError as error:
            refused[case] = error.details
            continue
        expected = load_file(tmp_path / case / "answer.safetensors")["answer"]
        torch.testing.assert_close(answer(net), expected, rtol=0, atol=1e-4, msg=case)
        assert (expected - before).abs().max() > 1e-2, case
    learned = {f"{kind}-{name}" for kind in ("bert", "gpt2") for name in ("prefix", "prefix_flat")}
    assert set(refused) == learned | {"gpt2-lora", "gpt2-lora_all"}
    assert all("start at position 0 there" in refused[case][0] for case in learned)


@hub
@pytest.mark.slow
def test_what_is_written_here_answers_the_same_in_the_library(tmp_path):
    prepared(tmp_path)
    names = {}
    for number, (kind, method) in enumerate(OURS):
        net = shaken(tiny_net(kind), method)
        write_hub(stored(net), method, tmp_path / f"case{number}", net=net)
        save_file({"answer": answer(net)}, tmp_path / f"case{number}.ours")
        names[f"case{number}"] = f"net-{kind}"
    (tmp_path / "written.json").write_text(json.dumps(names))
    theirs("load", tmp_path)
    for number, (kind, method) in enumerate(OURS):
        ours = load_file(tmp_path / f"case{number}.ours")["answer"]
        found = load_file(tmp_path / f"case{number}.answer.safetensors")["answer"]
        torch.testing.assert_close(found, ours, rtol=0, atol=1e-4, msg=f"{kind} {method}")


def test_a_prefix_of_theirs_is_run_out_and_moved(tmp_path):
    net = tiny_net("llama")
    folder = tmp_path / "hub"
    folder.mkdir()
    content = {"config": {"architecture": "prefix_tuning", "prefix_length": 3, "flat": True},
               "model_type": "llama", "hidden_size": 32, "name": "own"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(content))
    flat = torch.randn(3 * 4 * 2 * 8)
    at = "model.layers.{}.self_attn.prefix_tuning.pool.prefix_tunings.own.self_prefix.control_trans"
    save_file({at.format(n): flat.clone() for n in (0, 1)}, folder / "adapter.safetensors")
    method, tensors = read_hub(folder, net)
    assert method == Prefix(tokens=3, start="random")
    (table,) = tensors.values()
    assert table.shape == (3, 4, 2, 8)
    torch.testing.assert_close(table[:, 1], flat.view(3, 4, 2, 8)[:, 1])  # values stay
    assert (table[:, 0] - flat.view(3, 4, 2, 8)[:, 0]).abs().max() > 0.1  # keys are turned
    save_file({at.format(0): flat, at.format(1): flat + 1}, folder / "adapter.safetensors")
    with pytest.raises(ModelError, match="differs from its copies"):
        read_hub(folder, net)
