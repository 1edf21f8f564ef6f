"""The loss of answers in words: that of transformers with labels -100, whatever the packing."""

import numpy as np
import pytest
import torch

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import ConfigError, DataError
from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.models.decoder import Decoder
from sapwood.tasks.supervised import SupervisedRow
from sapwood.training import Recipe, fit, make_optimiser
from sapwood.training.answers import (
    AnswerSupervision,
    answer_target,
    answer_targets,
    bounded_loss,
)

SHARED = (5, 6, 7, 8, 9)
KINDS = ["llama", "qwen2", "gemma3_text", "gpt2"]


def supervised_rows(count=12, seed=3, shared=SHARED):
    """Return rows of random tokens with one to three learnt stretches each."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        ids, learnt = list(shared), []
        for _ in range(int(rng.integers(1, 4))):
            ids += rng.integers(30, 290, rng.integers(2, 9)).tolist()
            answer = rng.integers(30, 290, rng.integers(1, 9)).tolist()
            learnt += range(len(ids), len(ids) + len(answer))
            ids += answer
        ids += rng.integers(30, 290, rng.integers(0, 3)).tolist()
        rows.append(
            SupervisedRow(row=number + 1, ids=tuple(ids), learnt=tuple(learnt), shared=len(shared))
        )
    return rows


def with_lora(tiny_net, kind="llama"):
    net = tiny_net(kind)
    Lora(rank=4, alpha=8.0).attach(net, seed=1)
    for name, tensor in parts.weights(net).items():
        if "lora_B" in name:
            generator = torch.Generator().manual_seed(len(name))
            tensor.data = 0.05 * torch.randn(tensor.shape, generator=generator)
    return net


def naive(net, rows, mean="tokens"):
    """Return the loss that transformers computes of padded rows with labels -100."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = torch.tensor(row.ids)
        mask[n, : len(row.ids)] = 1
        labels[n, list(row.learnt)] = ids[n, list(row.learnt)]
    if mean == "tokens":
        return net(input_ids=ids, attention_mask=mask, labels=labels).loss
    each = [
        net(input_ids=i[None], attention_mask=m[None], labels=x[None]).loss
        for i, m, x in zip(ids, mask, labels, strict=True)
    ]
    return torch.stack(each).mean()


def ours(supervision, numbers, budget=4096):
    count = supervision.supervised(numbers)
    for part, _ in supervision.losses(numbers, budget):
        (part / count).backward()
    return sum(float(p.detach()) for p, _ in supervision.losses(numbers, budget)) / count


def gradients(weights):
    found = {name: tensor.grad.clone() for name, tensor in weights.items()}
    for tensor in weights.values():
        tensor.grad = None
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean", ["tokens", "rows"])
def test_the_loss_is_that_of_transformers_on_padded_rows(tiny_net, kind, mean):
    net, rows = with_lora(tiny_net, kind), supervised_rows()
    weights = parts.weights(net)
    naive_loss = naive(net, rows, mean)
    naive_loss.backward()
    wanted = gradients(weights)
    shared, targets = answer_targets(rows)
    assert shared == SHARED
    numbers = list(range(len(rows)))
    for logit_bytes in (4 * 300 * 7, 1 << 20):  # seven positions at a time, and all at once
        for budget in (4096, 30):
            supervision = AnswerSupervision(
                Decoder(net), targets, shared=shared, mean=mean, logit_bytes=logit_bytes
            )
            assert ours(supervision, numbers, budget) == pytest.approx(
                float(naive_loss.detach()), abs=1e-5
            )
            for name, gradient in gradients(weights).items():
                torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)


def test_rows_behind_an_encoded_prefix_learn_the_same(tiny_net):
    """Scope "suffix" before anything is trained: the same loss, and gradients on the rows only."""
    net, rows = tiny_net("llama"), supervised_rows()
    Lora(rank=4, alpha=8.0).attach(net, seed=1)  # changes nothing yet
    shared, targets = answer_targets(rows)
    numbers = list(range(len(rows)))
    decoder = Decoder(net)
    with parts.disabled(net):
        prefix = decoder.encode(shared)
    behind = AnswerSupervision(decoder, targets, prefix=prefix)
    wanted = float(naive(net, rows).detach())
    assert ours(behind, numbers) == pytest.approx(wanted, abs=1e-5)


def test_a_head_that_trains_gets_its_gradients(tiny_net):
    net, rows = tiny_net("llama"), supervised_rows()
    head = net.get_output_embeddings().weight.requires_grad_()
    naive(net, rows).backward()
    wanted = head.grad.clone()
    head.grad = None
    shared, targets = answer_targets(rows)
    supervision = AnswerSupervision(Decoder(net), targets, shared=shared, logit_bytes=4 * 300 * 7)
    ours(supervision, list(range(len(rows))))
    torch.testing.assert_close(head.grad, wanted, atol=1e-5, rtol=1e-4)


def test_no_more_logits_exist_at_a_time_than_allowed(tiny_net, monkeypatch):
    net = tiny_net("llama")
    seen = []
    net.get_output_embeddings().register_forward_hook(
        lambda module, given, out: seen.append(out.numel() * 4)
    )
    states = torch.randn(200, 32, requires_grad=True)
    bound = 4 * 300 * 16
    bounded_loss(net, states, torch.arange(200), torch.ones(200), bound).backward()
    assert len(seen) == 13 and max(seen) <= bound
    assert states.grad is not None and bool(states.grad.ne(0).any())


def test_what_follows_the_last_learnt_token_is_not_computed():
    row = SupervisedRow(row=1, ids=(1, 2, 3, 4, 5, 6), learnt=(3, 4), shared=1)
    target = answer_target(row)
    assert (list(target.row.ids), list(target.row.wanted)) == ([2, 3, 4], [1, 2])
    assert target.answers == (4, 5)
    assert list(answer_target(row, 0).row.ids) == [1, 2, 3, 4]


def test_the_step_is_weighted_by_tokens_over_its_packs(tiny_net):
    found = []
    for budget in (100_000, 20):
        net = with_lora(tiny_net)
        weights = parts.weights(net)
        shared, targets = answer_targets(supervised_rows())
        supervision = AnswerSupervision(Decoder(net), targets, shared=shared)
        recipe = Recipe(batch_size=12, pack_tokens=budget)
        optimiser = make_optimiser(list(weights.values()), recipe)
        (step,) = fit(supervision, optimiser, recipe, total=1)
        found.append((step.loss, step.gradient_norm))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][0] == pytest.approx(
        float(naive(with_lora(tiny_net), supervised_rows()).detach()), abs=1e-5
    )


def test_training_goes_on_from_a_checkpoint_with_the_same_weights(tiny_net, tmp_path):
    recipe = Recipe(batch_size=4, learning_rate=5e-3)
    shared, targets = answer_targets(supervised_rows())

    def run(first, last, save=True, resume=False):
        net = with_lora(tiny_net)
        weights = parts.weights(net)
        optimiser = make_optimiser(list(weights.values()), recipe)
        if resume:
            load_checkpoint(tmp_path, weights=weights, optimiser=optimiser)
        supervision = AnswerSupervision(Decoder(net), targets, shared=shared)
        losses = []
        for step in fit(supervision, optimiser, recipe, total=6, first=first):
            losses.append(step.loss)
            if step.number == last and save:
                save_checkpoint(tmp_path, step=last, weights=weights, optimiser=optimiser, extra={})
                break
        return losses, weights

    whole, wanted = run(1, 6, save=False)
    run(1, 3)
    rest, got = run(4, 6, save=False, resume=True)
    assert rest == pytest.approx(whole[3:], abs=1e-6)
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, wanted[name])


def test_a_tiny_net_learns_an_answer_and_its_end(tiny_net):
    net = with_lora(tiny_net)
    weights = parts.weights(net)
    rows = [SupervisedRow(row=1, ids=(40, 41, 42, 50, 51, 1), learnt=(3, 4, 5), ended=1)]
    shared, targets = answer_targets(rows)
    recipe = Recipe(batch_size=1, learning_rate=2e-2)
    supervision = AnswerSupervision(Decoder(net), targets, shared=shared)
    steps = list(fit(supervision, make_optimiser(list(weights.values()), recipe), recipe, total=60))
    assert steps[-1].loss < 1 < steps[0].loss  # so small a head cannot be surer
    said = net(input_ids=torch.tensor([[40, 41, 42, 50, 51]])).logits[0].argmax(-1)
    assert said[2:].tolist() == [50, 51, 1]


def test_what_cannot_be_trained_is_refused(tiny_net):
    nothing = [SupervisedRow(row=1, ids=(1, 2, 3), learnt=())]
    with pytest.raises(DataError, match="No token of 1 rows would be learnt"):
        answer_targets(nothing)
    with pytest.raises(DataError):
        AnswerSupervision(Decoder(tiny_net("llama")), [])
    _, targets = answer_targets(supervised_rows(2))
    with pytest.raises(ConfigError, match="mean must be one of"):
        AnswerSupervision(Decoder(tiny_net("llama")), targets, mean="row")
