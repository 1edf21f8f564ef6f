"""`sapwood check`: one line a finding with its cure, an exit code, and a folded folder."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sapwood.adaptation import Adaptation, BaseRef, save
from sapwood.context.prompter import Context
from sapwood.context.template import default_template
from sapwood.interfaces import Example
from sapwood.methods.dora import Dora
from sapwood.methods.folder import load_trained
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import stored
from sapwood.models.weights import weights_hash
from sapwood.readouts import bias
from sapwood.readouts.tfidf import TfIdf
from sapwood.readouts.verbalizer import Verbalizer

LABELS = ("bad", "good")
IDS = torch.arange(20, 32)[None]


@pytest.fixture
def make(tiny_net, tiny_checkpoint, tmp_path):
    """Maker of saved adaptations of a tiny Llama: returns the folder and the expected logits."""

    def build(method, *, shots=0, scope="all"):
        folder = tiny_checkpoint("llama")
        net = tiny_net("llama")
        method.attach(net, seed=1)
        torch.manual_seed(1)
        for name, tensor in net.named_parameters():
            if tensor.requires_grad and "magnitude" not in name:
                nn.init.normal_(tensor, 1.0 if "ia3" in name else 0.0, std=0.1)
        shown = tuple(Example(text="a", label=LABELS[n % 2], row=n) for n in range(shots))
        template = default_template(LABELS, ["a fine film"])
        made = Adaptation(
            labels=LABELS,
            readout_name="verbalizer",
            readout=Verbalizer(labels=LABELS, bias=bias.none(2), normalise="trie"),
            base=BaseRef(name=str(folder), sha256=weights_hash(folder), kind="decoder"),
            context=Context(template=template, demonstrations=shown, shots=shots),
            method=method,
            weights=stored(net),
            scope=scope,
        )
        save(made, tmp_path / "run" / "adaptation")
        return tmp_path / "run", net(IDS).logits.detach()

    return build


def folded_logits(folder, tiny_net):
    net = tiny_net("llama")
    load_trained(net, folder)
    return net(IDS).logits.detach()


@pytest.mark.parametrize("consumer", ["vllm", "llamacpp", "peft"])
def test_a_plain_lora_loads_exactly_and_the_prompt_is_named(make, sapwood, consumer):
    folder, _ = make(Lora(rank=4))
    ran = sapwood("check", folder, "--for", consumer)
    assert ran.code == 0, ran.out + ran.err
    assert f"{consumer}: would load exactly" in ran.out
    assert "only the weights travel, not the prompt (no demonstrations) or the readout" in ran.out
    told = json.loads(sapwood("check", folder, "--for", consumer, "--json").out)
    assert (told["exact"], told["folded"]) == (True, None)
    assert {f["effect"] for f in told["findings"]} == {"note"}


def test_an_rslora_is_folded_for_llamacpp(make, sapwood, tmp_path, tiny_net):
    folder, expected = make(Lora(rank=4, rslora=True, rank_pattern={"up_proj": 2}))
    ran = sapwood("check", folder, "--for", "llamacpp")
    assert ran.code == 5
    assert "ignored  use_rslora" in ran.out
    assert "Cure: add --fold OUT" in ran.out
    out = tmp_path / "out"
    ran = sapwood("check", folder, "--for", "llamacpp", "--fold", out)
    assert ran.code == 0, ran.out + ran.err
    assert "14 modules to rank 4: exact." in ran.out
    torch.testing.assert_close(folded_logits(out, tiny_net), expected, rtol=0, atol=1e-4)
    assert sapwood("check", out, "--for", "vllm").code == 0


@pytest.mark.parametrize("method", [Dora(rank=2), Ia3(targets=("value",))], ids=lambda m: m.name)
def test_other_methods_are_folded_with_their_error(make, sapwood, tmp_path, tiny_net, method):
    folder, expected = make(method)
    assert sapwood("check", folder, "--for", "vllm").code == 5
    low, whole = tmp_path / "low", tmp_path / "whole"
    ran = sapwood("check", folder, "--for", "vllm", "--fold", low, "--rank", 2)
    assert ran.code == 0, ran.out + ran.err
    assert "relative error of the change" in ran.out
    ran = sapwood("check", folder, "--for", "vllm", "--fold", whole, "--rank", 32, "--json")
    told = json.loads(ran.out)["folded"]
    assert told["relative_error"] < 1e-5
    torch.testing.assert_close(folded_logits(whole, tiny_net), expected, rtol=0, atol=5e-4)
    assert (folded_logits(low, tiny_net) - expected).abs().max() > 1e-3


def test_a_base_with_other_weights_is_refused(make, sapwood, tmp_path, tiny_checkpoint):
    folder, _ = make(Ia3())
    ran = sapwood(
        "check", folder, "--for", "vllm", "--fold", tmp_path / "out", "--model",
        tiny_checkpoint("qwen2"),
    )  # fmt: skip
    assert ran.code == 5
    assert "is not the one this adaptation was made for" in ran.err


def test_a_method_that_acts_on_the_suffix_only_is_not_exact(make, sapwood):
    folder, _ = make(Lora(rank=4), shots=2, scope="suffix")
    ran = sapwood("check", folder, "--for", "peft")
    assert ran.code == 5
    assert "ignored  its scope is 'suffix'" in ran.out


def test_an_adaptation_without_weights(sapwood, tmp_path):
    readout = TfIdf.fit(["a", "b"] * 5, ["good", "bad"] * 5, labels=LABELS, seed=0)
    save(Adaptation(labels=LABELS, readout_name="tf-idf", readout=readout), tmp_path / "a")
    ran = sapwood("check", tmp_path / "a", "--for", "vllm")
    assert ran.code == 5
    assert "it has no trained weights" in ran.out


def test_a_folder_whose_base_is_not_here_says_what_was_not_checked(make, sapwood, tmp_path):
    folder, _ = make(Lora(rank=4))
    path = folder / "adaptation" / "adapter_config.json"
    plain = tmp_path / "plain"
    plain.mkdir()
    content = json.loads(path.read_text()) | {"base_model_name_or_path": "someone/base"}
    (plain / path.name).write_text(json.dumps(content))
    weights = path.with_name("adapter_model.safetensors").read_bytes()
    (plain / "adapter_model.safetensors").write_bytes(weights)
    ran = sapwood("check", plain, "--for", "vllm")
    assert ran.code == 0, ran.out + ran.err
    assert "names were not checked against it (--model BASE does)" in ran.out


def test_wrong_calls(sapwood, tmp_path):
    assert "is no folder" in sapwood("check", tmp_path / "x", "--for", "vllm").err
    ran = sapwood("check", tmp_path, "--for", "vllm")
    assert ran.code == 5
    assert "this is no PEFT adapter" in ran.err
    ran = sapwood("check", tmp_path, "--for", "vllm", "--rank", 3)
    assert ran.code == 2
    assert "add --fold OUT" in ran.err
