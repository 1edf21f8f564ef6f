"""Training: the same loss however it is cut, the same weights however it is interrupted."""

import math
import signal

import numpy as np
import pytest
import torch

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import ConfigError, ModelError, ResourceError
from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.training import (
    Recipe,
    Supervision,
    batch_of,
    fit,
    learning_rate,
    make_optimiser,
    target,
)

LABELS = [[10, 11], [10, 12, 13], [20]]
PREFIX = (5, 6, 7, 8, 9)


def make(tiny_net, count=24, kind="llama", scope="all", loss="labels", dropout=0.0):
    """Return a supervision of random prompts on a net with LoRA, its weights and optimiser."""
    net = tiny_net(kind)
    Lora(rank=4, alpha=8.0, dropout=dropout).attach(net, seed=1)
    for name, tensor in parts.weights(net).items():
        if "lora_B" in name:
            tensor.data = 0.05 * torch.randn(
                tensor.shape, generator=torch.Generator().manual_seed(len(name))
            )
    decoder = Decoder(net)
    trie = build_trie(LABELS)
    rng = np.random.default_rng(3)
    targets = [
        target(rng.integers(30, 290, rng.integers(3, 40)).tolist(), int(rng.integers(3)), trie)
        for _ in range(count)
    ]
    if scope == "suffix":
        with parts.disabled(net):
            prefix = decoder.encode(PREFIX)
        supervision = Supervision(decoder, targets, trie, prefix=prefix, loss=loss)
    else:
        supervision = Supervision(decoder, targets, trie, shared=PREFIX, loss=loss)
    return net, supervision, parts.weights(net)


def gradients(supervision, weights, numbers, budget):
    """Return the mean loss of `numbers` and the gradients, computed within a token budget."""
    for tensor in weights.values():
        tensor.grad = None
    count = supervision.supervised(numbers)
    total, packs = 0.0, 0
    for part, _ in supervision.losses(numbers, budget):
        (part / count).backward()
        total += float(part.detach()) / count
        packs += 1
    return total, {n: t.grad.clone() for n, t in weights.items()}, packs


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("scope", ["all", "suffix"])
@pytest.mark.parametrize("loss", ["labels", "vocabulary"])
def test_micro_batches_give_the_loss_and_gradients_of_one_batch(tiny_net, kind, scope, loss):
    _, supervision, weights = make(tiny_net, kind=kind, scope=scope, loss=loss)
    numbers = list(range(16))
    whole, expected, one = gradients(supervision, weights, numbers, 10_000)
    assert one == 1
    for budget in (200, 64, 1):
        found, got, packs = gradients(supervision, weights, numbers, budget)
        assert packs > 1
        assert found == pytest.approx(whole, rel=1e-6)
        for name, gradient in got.items():
            torch.testing.assert_close(gradient, expected[name], atol=3e-6, rtol=1e-4)


def test_the_loss_is_the_mean_of_single_examples(tiny_net):
    _, supervision, weights = make(tiny_net)
    whole, _, _ = gradients(supervision, weights, list(range(8)), 10_000)
    alone = [gradients(supervision, weights, [n], 10_000)[0] for n in range(8)]
    assert whole == pytest.approx(float(np.mean(alone)), abs=1e-6)


def test_the_label_loss_is_the_cross_entropy_of_the_scores(tiny_net):
    _, supervision, weights = make(tiny_net)
    numbers = list(range(6))
    whole, _, _ = gradients(supervision, weights, numbers, 10_000)
    decoder, trie = supervision.decoder, supervision.trie
    targets = [supervision.targets[n] for n in numbers]
    prompts = [list(t.row.ids[: t.row.wanted[0] + 1]) for t in targets]
    scores = decoder.label_scores(prompts, trie, decoder.encode(PREFIX), normalise="trie")
    answers = [LABELS.index(list(t.answers)) for t in targets]
    assert whole == pytest.approx(-float(np.mean(scores[range(6), answers])), abs=1e-5)


def tight(monkeypatch, tokens):
    """Make packs of more than `tokens` run out of memory; return the sizes that were tried."""
    real, tried = Supervision.losses, []

    def losses(self, numbers, budget):
        for part, used in real(self, numbers, budget):
            tried.append(used)
            if used > tokens:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory")
            yield part, used

    monkeypatch.setattr(Supervision, "losses", losses)
    return tried


def run(supervision, weights, recipe, total, first=1, optimiser=None):
    optimiser = optimiser or make_optimiser(list(weights.values()), recipe)
    return list(fit(supervision, optimiser, recipe, total=total, first=first))


def test_out_of_memory_halves_the_pack_and_changes_nothing_else(tiny_net, monkeypatch):
    recipe = Recipe(batch_size=12, learning_rate=1e-2)
    _, supervision, weights = make(tiny_net)
    undisturbed = run(supervision, weights, recipe, 5)
    expected = {n: t.detach().clone() for n, t in weights.items()}
    _, supervision, weights = make(tiny_net)
    tried = tight(monkeypatch, 120)
    disturbed = run(supervision, weights, recipe, 5)
    assert max(tried) > 120
    assert sum(used > 120 for used in tried) <= 6  # the smaller budget is remembered
    for one, two in zip(undisturbed, disturbed, strict=True):
        assert one.loss == pytest.approx(two.loss, abs=1e-5)
        assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor.detach(), expected[name], atol=1e-4, rtol=1e-3)


def test_memory_for_not_even_one_row_ends_in_advice(tiny_net, monkeypatch):
    _, supervision, weights = make(tiny_net)
    tight(monkeypatch, 2)
    with pytest.raises(ResourceError, match="not enough memory for a single example") as caught:
        run(supervision, weights, Recipe(), 1)
    assert "--max-length" in caught.value.fix


def test_other_runtime_errors_are_not_taken_for_memory(tiny_net, monkeypatch):
    _, supervision, weights = make(tiny_net)

    def losses(self, numbers, budget):
        raise RuntimeError("size mismatch")
        yield

    monkeypatch.setattr(Supervision, "losses", losses)
    with pytest.raises(RuntimeError, match="size mismatch"):
        run(supervision, weights, Recipe(), 1)


def test_a_loss_that_is_not_finite_ends_training_with_the_rate_to_try(tiny_net):
    _, supervision, weights = make(tiny_net)
    next(iter(weights.values())).data.fill_(float("nan"))
    with pytest.raises(ModelError, match="diverged at step 1 of 3") as caught:
        run(supervision, weights, Recipe(learning_rate=3e-3), 3)
    assert "--learning-rate 0.001" in caught.value.fix


def test_training_lowers_the_loss_and_leaves_the_base_alone(tiny_net):
    net, supervision, weights = make(tiny_net)
    base = {n: p.detach().clone() for n, p in net.named_parameters() if "lora_" not in n}
    steps = run(supervision, weights, Recipe(batch_size=24, learning_rate=1e-2), 30)
    assert steps[-1].loss < 0.5 * steps[0].loss
    for name, parameter in net.named_parameters():
        if "lora_" not in name:
            assert torch.equal(parameter, base[name]) and parameter.grad is None, name


def test_rows_longer_than_the_base_reads_are_refused_before_training(tiny_net):
    net = tiny_net("llama")
    trie = build_trie(LABELS)
    long = target([30] * 600, 0, trie)
    with pytest.raises(ModelError, match="602 tokens; this base reads at most 512"):
        Supervision(Decoder(net), [long], trie, shared=(1,))


@pytest.mark.parametrize("examples, size", [(10, 4), (3, 16), (7, 7), (100, 16)])
def test_batches_visit_every_example_once_an_epoch(examples, size):
    recipe = Recipe(batch_size=size, seed=5)
    seen = [n for step in range(1, 200) for n in batch_of(step, examples, recipe)]
    assert all(0 <= n < examples for n in seen)
    if size <= examples:
        for epoch in range(len(seen) // examples):
            part = seen[epoch * examples : (epoch + 1) * examples]
            assert sorted(part) == list(range(examples))
    assert batch_of(17, examples, recipe) == batch_of(17, examples, recipe)


def test_the_rate_warms_up_then_falls_to_a_tenth():
    recipe = Recipe(learning_rate=1e-3, warmup=0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(1, 101)]
    assert rates[9] == pytest.approx(1e-3) == max(rates)
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)
    assert learning_rate(recipe, 1, 1) == pytest.approx(1e-3)


def test_a_wrong_recipe_names_every_mistake():
    with pytest.raises(ConfigError) as caught:
        Recipe(learning_rate=-1, batch_size=0, epochs=math.nan, loss="squares")
    assert len(caught.value.details) == 4
    assert Recipe(epochs=2, batch_size=16).steps(40) == 5
    assert Recipe(epochs=0.01).steps(3) == 1


@pytest.mark.parametrize("stop", [1, 5, 11])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_has_the_weights_of_an_undisturbed_one(tiny_net, tmp_path, stop, dropout):
    recipe = Recipe(batch_size=5, learning_rate=1e-2, seed=4)
    torch.manual_seed(0)
    net, supervision, weights = make(tiny_net, dropout=dropout)
    net.train()
    losses = [step.loss for step in run(supervision, weights, recipe, 12)]
    expected = {n: t.detach().clone() for n, t in weights.items()}

    torch.manual_seed(0)
    net, supervision, weights = make(tiny_net, dropout=dropout)
    net.train()
    optimiser = make_optimiser(list(weights.values()), recipe)
    for step in fit(supervision, optimiser, recipe, total=12):
        if step.number == stop:
            save_checkpoint(
                tmp_path, step=stop, weights=weights, optimiser=optimiser, extra={"x": [1]}
            )
            break

    torch.manual_seed(99)
    net, supervision, weights = make(tiny_net, dropout=dropout)
    net.train()
    optimiser = make_optimiser(list(weights.values()), recipe)
    number, extra, _ = load_checkpoint(tmp_path, weights=weights, optimiser=optimiser)
    assert (number, extra) == (stop, {"x": [1]})
    again = run(supervision, weights, recipe, 12, first=number + 1, optimiser=optimiser)
    assert [step.loss for step in again] == losses[stop:]
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name


SCRIPT = """
import sys, numpy as np, torch
from pathlib import Path
from safetensors.torch import save_file
from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.testing import tiny_net
from sapwood.training import Recipe, Supervision, fit, make_optimiser, target
folder = Path(sys.argv[1])
net = Lora(rank=4, dropout=0.1).attach(tiny_net("llama"), seed=1).train()
trie = build_trie([[10, 11], [10, 12, 13], [20]])
rng = np.random.default_rng(3)
targets = [target(rng.integers(30, 290, 12).tolist(), n % 3, trie) for n in range(30)]
weights = parts.weights(net)
recipe = Recipe(batch_size=6, learning_rate=1e-2)
optimiser = make_optimiser(list(weights.values()), recipe)
torch.manual_seed(0)
step, _, _ = load_checkpoint(folder, weights=weights, optimiser=optimiser)
supervision = Supervision(Decoder(net), targets, trie, shared=(5, 6))
for step in fit(supervision, optimiser, recipe, total=60, first=step + 1):
    save_checkpoint(folder, step=step.number, weights=weights, optimiser=optimiser, extra={})
save_file({n: t.detach().contiguous() for n, t in weights.items()}, folder / "weights.safetensors")
"""


def test_training_killed_again_and_again_ends_bit_identical(live, tmp_path):
    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    quiet.mkdir(), loud.mkdir()
    life = live(SCRIPT, quiet)
    assert life.code == 0, life.text
    rng, hits = np.random.default_rng(0), 0
    for moment in rng.uniform(0, 0.4 * life.seconds, 10):
        life = live(SCRIPT, loud, after=float(moment), signal=signal.SIGKILL)
        assert life.code in (-9, 0), life.text
        hits += life.code == -9
    assert hits >= 3
    assert live(SCRIPT, loud).code == 0
    names = [(folder / "weights.safetensors").read_bytes() for folder in (quiet, loud)]
    assert names[0] == names[1]
    assert sorted(p.name for p in loud.iterdir()) == [
        "checkpoint-59", "checkpoint-60", "weights.safetensors"
    ]  # fmt: skip
