"""What users of other tools suffer with light fine-tuning, and cannot suffer here.

Each test names the thread it comes from; the details of each mechanism are tested beside its code.
"""

import json
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sapwood.errors import ConfigError, ModelError
from sapwood.methods import parts
from sapwood.methods.folder import load_trained
from sapwood.methods.lora import Lora
from sapwood.methods.peft_folder import write_peft
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.training import Recipe, Supervision, fit, make_optimiser, target


def tuned(net, *, seed=0, **settings):
    """Attach a LoRA whose B is not zero."""
    method = Lora(rank=4, alpha=8.0, **settings)
    method.attach(net, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in parts.weights(net).items():
        if "lora_B" in name:
            tensor.data = 0.1 * torch.randn(tensor.shape, generator=generator)
    return method


def test_trl_6688_merge_and_unmerge_in_bfloat16_do_not_drift(tiny_net):
    """bf16 merge/unmerge drift accumulates: 16.9 % of weights change after 100 cycles."""
    net = tiny_net("llama").to(torch.bfloat16)
    before = {n: p.clone() for n, p in net.named_parameters()}
    tuned(net)
    for _ in range(100):
        for _, layer in parts.parts(net):
            layer.merge()
        for _, layer in parts.parts(net):
            layer.unmerge()
    parts.detach(net)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_peft_1388_and_2502_merged_and_unmerged_answers_are_equal(tiny_net, kind):
    """Merged outputs differ from unmerged ones."""
    net = tiny_net(kind)
    method = tuned(net)
    ids = torch.arange(10, 60).view(2, 25)
    with torch.no_grad():
        attached = net(ids).logits
        merged = method.merge(net)(ids).logits
    torch.testing.assert_close(merged, attached, atol=2e-3, rtol=1e-3)


def test_peft_1959_and_3603_a_target_that_matches_nothing_is_no_success(tiny_net):
    """Unmatched target_modules are silently skipped if any matched."""
    net = tiny_net("llama")
    with pytest.raises(ConfigError) as caught:
        Lora(targets=("q_proj", "qkv_proj", "down_prj")).attach(net)
    assert len(caught.value.details) == 2
    assert "'down_prj' matches no linear layer. Did you mean 'down_proj'?" in caught.value.details
    assert not parts.weights(net)


def test_peft_2566_and_vllm_34186_an_adapter_of_other_names_never_loads_without_effect(
    tiny_net, tmp_path
):
    """Adapter loads but has no effect: a key mismatch is only a warning, or a 200 OK."""
    net = tiny_net("llama")
    method = tuned(net)
    write_peft(parts.weights(net), method, tmp_path, base="tiny", transposed=False)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    prefixed = {
        n.replace("model.layers", "model.language_model.layers"): t for n, t in tensors.items()
    }
    save_file(prefixed, path)
    fresh = tiny_net("llama")
    ids = torch.arange(20)[None]
    expected = fresh(ids).logits
    with pytest.raises(ModelError, match="do not map onto the base"):
        load_trained(fresh, tmp_path)
    assert torch.equal(fresh(ids).logits, expected)  # nothing stayed attached


def test_peft_2018_and_2898_an_adapter_holds_its_own_weights_and_nothing_of_the_base(
    tiny_net, tmp_path
):
    """Huge adapter files: embeddings and heads saved along with a few trained weights."""
    net = tiny_net("llama")
    method = tuned(net)
    write_peft(parts.weights(net), method, tmp_path, base="tiny", transposed=False)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert all(".lora_A." in n or ".lora_B." in n for n in names)
    trained = sum(t.numel() for t in parts.weights(net).values())
    assert sum(t.numel() for t in names.values()) == trained


def test_peft_3580_and_137_what_is_attached_is_what_trains_and_all_of_it(tiny_net):
    """requires_grad coupled to activation; some layers silently untrained."""
    net = tiny_net("llama")
    tuned(net)
    weights = parts.weights(net)
    assert {id(p) for p in net.parameters() if p.requires_grad} == {id(t) for t in weights.values()}
    with parts.disabled(net):
        assert all(t.requires_grad for t in weights.values())
    trie = build_trie([[10, 11], [20]])
    targets = [target([30 + n, 40, 50], n % 2, trie) for n in range(8)]
    supervision = Supervision(Decoder(net), targets, trie)
    before = {n: t.detach().clone() for n, t in weights.items()}
    recipe = Recipe(batch_size=8, learning_rate=1e-2)
    list(fit(supervision, make_optimiser(list(weights.values()), recipe), recipe, total=2))
    stuck = [n for n, t in weights.items() if torch.equal(t.detach(), before[n])]
    assert stuck == []


def test_transformers_34191_accumulated_gradients_are_those_of_one_batch(tiny_net):
    """Gradient-accumulation loss wrong for years, later again per model."""
    trie = build_trie([[10, 11, 12, 13], [20]])
    targets = [target([30] * (3 + 5 * n), n % 2, trie) for n in range(12)]  # 4 answer tokens, or 1
    found = []
    for budget in (100_000, 40):
        net = tiny_net("llama")
        tuned(net)
        weights = parts.weights(net)
        supervision = Supervision(Decoder(net), targets, trie, loss="vocabulary")
        recipe = Recipe(batch_size=12, pack_tokens=budget)
        optimiser = make_optimiser(list(weights.values()), recipe)
        (step,) = fit(supervision, optimiser, recipe, total=1)
        found.append((step.loss, step.gradient_norm))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


RUN = """
import sys
import sapwood.report
from sapwood.search import tuning
tuning.CHECKPOINT_SECONDS = 0.0
sapwood.report.write_html = lambda *given: None
from sapwood.cli import main
main(sys.argv[1:])
"""


def test_axolotl_1134_and_lf_7085_resuming_goes_on_at_the_step_where_it_stopped(
    live, small_base, write_rows, tmp_path
):
    """Resume restarts at epoch 0, skips straight to eval, or is not supported."""
    out = tmp_path / "out"
    trained = out / "run" / "candidates" / "lora"
    arguments = (
        "tune", write_rows(tmp_path / "d.csv"), "--model", small_base, "--encoder", "none",
        "--epochs", "6", "--device", "cpu", "--dtype", "float32", "--out", out,
    )  # fmt: skip
    when = str(trained / "checkpoint-[5-9]")
    life = live(RUN, *arguments, signal=signal.SIGKILL, when=when)
    assert life.code == -9, life.text
    times = {}
    for path in trained.glob("checkpoint-*/state.json"):
        state = json.loads(path.read_text())
        times[state["step"]] = state["run"]["curve"]["seconds"]
    kept = times[max(times)]
    assert live(RUN, *arguments).code == 0
    curve = json.loads((trained / "result.json").read_text())["curve"]
    assert curve["seconds"][: len(kept)] == kept  # measured before the kill, not made again
    assert curve["step"] == list(range(1, len(curve["step"]) + 1))
    assert len(curve["step"]) > len(kept) >= 5


def test_vllm_30931_a_prefix_is_never_reused_under_other_weights(tiny_net):
    """Same adapter name, different weights, stale prefix cache: "8 hours of debugging"."""
    net = tiny_net("llama")
    tuned(net, seed=1)
    decoder = Decoder(net, weights_key=lambda: parts.weights_key(net))
    trie = build_trie([[10, 11], [20]])
    context, prompts = list(range(30, 70)), [[5, 6, 7], [8, 9]]

    def scores():
        return decoder.label_scores(prompts, trie, decoder.encode(context))

    first = scores()
    for tensor in parts.weights(net).values():
        tensor.data.mul_(1.5)  # the same names, other weights
    changed = scores()
    fresh = Decoder(net).label_scores(
        [[*context, *prompt] for prompt in prompts], trie
    )  # fmt: skip
    np.testing.assert_allclose(changed, fresh, atol=1e-4)
    assert np.abs(changed - first).max() > 1e-2
    with parts.disabled(net):
        plain = scores()
    assert np.abs(plain - changed).max() > 1e-2
