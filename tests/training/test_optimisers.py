"""Muon and AdamW as one, restored exactly, and the schedule that stays and then falls."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import ConfigError
from sapwood.models.kinds import new_net
from sapwood.objectives import Vocabulary
from sapwood.training import Recipe, batch_of, learning_rate
from sapwood.training.optimisers import Muon, divided, pretraining_optimiser

RECIPE = Recipe(learning_rate=1e-2, weight_decay=0.1)
WORDS = Vocabulary(size=60, pad=0, bos=1, eos=2)


def bert() -> nn.Module:
    net: nn.Module = new_net("bert-tiny", WORDS, 16, ("mlm", "nsp"))
    return net


def moved(net: nn.Module, optimiser: object, seed: int) -> None:
    """Take one step with made-up gradients."""
    drawn = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.grad = torch.randn(weight.shape, generator=drawn)
    optimiser.step()  # type: ignore[attr-defined]


def test_hidden_matrices_are_apart_from_the_rest() -> None:
    net = bert()
    hidden, others, vectors = divided(net)
    assert "bert.encoder.layer.0.attention.self.query.weight" in hidden
    assert "bert.embeddings.word_embeddings.weight" in others
    assert "cls.seq_relationship.weight" in others  # two rows are a head
    assert "cls.predictions.decoder.weight" not in {**hidden, **others}  # tied: it is there once
    assert all(weight.ndim == 1 for weight in vectors.values())
    names = {name for name, _ in net.named_parameters()}
    assert {*hidden, *others, *vectors} == names


def test_muon_is_torchs() -> None:
    drawn = torch.Generator().manual_seed(0)
    first = [torch.randn(16, 48, generator=drawn), torch.randn(40, 8, generator=drawn)]
    own, theirs = ([nn.Parameter(w.clone()) for w in first] for _ in range(2))
    mine = Muon(own, 1e-2, 0.1)
    torchs = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(own, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=drawn)
            b.grad = a.grad.clone()
        mine.step()
        torchs.step()
    for a, b, begun in zip(own, theirs, first, strict=True):
        moved = float((b - begun).abs().max().detach())
        assert float((a - b).abs().max().detach()) < 0.03 * moved  # bfloat16's rounding


def test_an_untied_head_is_no_hidden_matrix() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    net = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=False,
    ))  # fmt: skip
    hidden, others, _ = divided(net)
    assert set(others) == {"lm_head.weight", "model.embed_tokens.weight"}
    assert len(hidden) == 7


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_two_groups_are_restored_exactly(tmp_path: Path, name: str) -> None:
    one, other = bert(), bert()
    first, weights = pretraining_optimiser(one, RECIPE, name)
    assert len(first.optimisers) == (2 if name == "muon" else 1)
    for seed in range(3):
        moved(one, first, seed)
    save_checkpoint(tmp_path, step=3, weights=weights, optimiser=first, extra={})
    for seed in range(3, 6):
        moved(one, first, seed)
    again, weights = pretraining_optimiser(other, RECIPE, name)
    step, _, _ = load_checkpoint(tmp_path, weights=weights, optimiser=again)
    assert step == 3
    for seed in range(3, 6):
        moved(other, again, seed)
    for (path, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), path


def test_a_rate_reaches_all_groups_after_loading(tmp_path: Path) -> None:
    net = bert()
    optimiser, weights = pretraining_optimiser(net, RECIPE, "muon")
    moved(net, optimiser, 0)
    save_checkpoint(tmp_path, step=1, weights=weights, optimiser=optimiser, extra={})
    load_checkpoint(tmp_path, weights=weights, optimiser=optimiser)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in net.parameters()]
    moved(net, optimiser, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_vectors_do_not_decay() -> None:
    net = bert()
    optimiser, weights = pretraining_optimiser(net, RECIPE, "adamw")
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimiser.step()
    for name, weight in weights.items():
        shrinks = weight.ndim > 1
        factor = 1 - RECIPE.learning_rate * RECIPE.weight_decay if shrinks else 1.0
        assert torch.allclose(weight, before[name] * factor, atol=1e-7), name


def test_the_rate_stays_and_then_falls() -> None:
    recipe = Recipe(learning_rate=2.0, schedule="stable", warmup=0.1, decay=0.2)
    rates = [learning_rate(recipe, step, 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert set(rates[9:80]) == {2.0}
    assert rates[80:] == sorted(rates[80:], reverse=True)
    assert rates[80] == pytest.approx(2 * (1 - math.sqrt(1 / 21)))
    assert 0 < rates[-1] < 0.1


@pytest.mark.parametrize("total", range(1, 30))
def test_the_rate_is_positive_in_short_runs(total: int) -> None:
    recipe = Recipe(schedule="stable")
    rates = [learning_rate(recipe, step, total) for step in range(1, total + 1)]
    assert all(0 < rate <= recipe.learning_rate for rate in rates)


def test_a_stream_is_numbered_without_end() -> None:
    recipe = Recipe(batch_size=4, order="stream")
    assert batch_of(3, 5, recipe) == [8, 9, 10, 11]


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe(schedule="linear", order="backwards")
    assert caught.value.details == (
        "schedule must be 'cosine' or 'stable', got 'linear'",
        "order must be 'shuffled' or 'stream', got 'backwards'",
    )
