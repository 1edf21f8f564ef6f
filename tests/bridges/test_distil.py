"""A student learns from a teacher's answers: the loss, the lesson, and what is recorded."""

import numpy as np
import pytest
import torch

from sapwood.adaptation import Adaptation, load, save
from sapwood.bridges.answers import content_hash, probabilities
from sapwood.bridges.distil import Distillation, SoftSupervision, distil, taught
from sapwood.errors import ConfigError, DataError
from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.models.decoder import Decoder
from sapwood.models.trie import build_trie
from sapwood.readouts.majority import Majority
from sapwood.readouts.tfidf import TfIdf
from sapwood.testing import KINDS
from sapwood.training import Recipe, Seat

LABELS = [[5], [6, 7], [6, 8, 9], [10, 11]]
SHARED = (40, 41, 42)


def drained(generator):
    """Return a generator's events and its result."""
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return events, end.value


def naive_loss(net, prompts, wanted):
    """Return the summed cross-entropy, one full forward for each prompt and label."""
    total = torch.zeros(())
    for prompt, shares in zip(prompts, wanted, strict=True):
        for label, share in zip(LABELS, shares, strict=True):
            ids = torch.tensor([[*SHARED, *prompt, *label]])
            logits = net(ids).logits[0]
            for depth, token in enumerate(label):
                begun = [one for one in LABELS if one[:depth] == label[:depth] and len(one) > depth]
                known = sorted({one[depth] for one in begun})
                at = logits[len(SHARED) + len(prompt) - 1 + depth, known].log_softmax(-1)
                total = total - share * at[known.index(token)]
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradients_equal_the_naive_ones(tiny_net, kind):
    net = tiny_net(kind)
    Lora(rank=2).attach(net, seed=1)
    weights = parts.weights(net)
    for tensor in weights.values():
        torch.nn.init.normal_(tensor, std=0.1)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(20, 290, n).tolist() for n in (3, 9, 1, 14)]
    wanted = torch.tensor(rng.dirichlet(np.ones(4), 4), dtype=torch.float32)
    naive = naive_loss(net, prompts, wanted)
    expected = torch.autograd.grad(naive, list(weights.values()))
    soft = SoftSupervision(
        Decoder(net), prompts, wanted.numpy(), build_trie(LABELS), Seat(shared=SHARED)
    )
    for budget in (10_000, 20):
        shares = [loss for loss, _ in soft.losses([0, 1, 2, 3], budget)]
        assert (len(shares) > 1) == (budget == 20)
        total = torch.stack(shares).sum()
        torch.testing.assert_close(total, naive.detach(), atol=1e-4, rtol=0)
        found = torch.autograd.grad(total, list(weights.values()))
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


RECIPE = Recipe(learning_rate=2e-2, epochs=12, batch_size=8)


@pytest.fixture
def teacher(bases, prompted, reviews):
    """A teacher that knows the task: words of the text, and the context of a prompted one."""
    rows = reviews(60, seed=3)
    readout = TfIdf.fit([t for t, _ in rows], [g for _, g in rows], labels=("negative", "positive"))
    return Adaptation(labels=("negative", "positive"), readout_name="tf-idf", readout=readout)


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_a_student_learns_to_agree(bases, roomy, teacher, reviews, method, tmp_path):
    texts = [text for text, _ in reviews(240, seed=5)]
    settings = Distillation(
        method=method, rank=4, tokens=8, base=roomy("llama"), held=0.25, recipe=RECIPE
    )
    events, student = drained(distil(bases, teacher, texts, settings=settings))
    said = student.evidence["distilled"]
    assert said["agreement"]["held_out"] and said["agreement"]["value"] > 0.9
    assert said["teacher"] == {"parts": teacher.parts(), "sha256": content_hash(teacher)}
    assert {e.candidate for e in events} == {"teacher", "student", "compare"}
    assert (student.prefix is None) == (method == "lora")
    assert student.context.shots == 0
    save(student, tmp_path / "student")
    again = load(tmp_path / "student")
    np.testing.assert_allclose(
        probabilities(bases, again, texts), probabilities(bases, student, texts), atol=1e-6
    )
    assert not list(parts.parts(bases.get(roomy("llama")).net))


def test_a_prefix_student_starts_from_the_teachers_context(bases, prompted, reviews):
    made = prompted("llama")
    texts = [text for text, _ in reviews(40)]
    settings = Distillation(method="prefix", tokens=12, recipe=Recipe(epochs=1))
    _, student = drained(distil(bases, made, texts, settings=settings))
    assert student.prefix.describe() == "12 tokens, from the teacher's context, trained"
    assert student.base == made.base
    assert student.context.template == made.context.template


def test_the_teacher_is_asked_once(bases, teacher, reviews, tmp_path, monkeypatch):
    texts = [text for text, _ in reviews(20)]
    events, first = drained(taught(bases, teacher, texts, folder=tmp_path))
    assert events[-1].done == 20
    again, second = drained(taught(bases, teacher, texts, folder=tmp_path))
    assert again == []
    np.testing.assert_array_equal(first, second)
    other, _ = drained(taught(bases, teacher, texts[:10], folder=tmp_path))
    assert other[-1].done == 10


def test_a_stopped_student_goes_on_to_the_same_weights(bases, roomy, teacher, reviews, tmp_path):
    texts = [text for text, _ in reviews(40)]
    settings = Distillation(
        base=roomy("llama"), rank=2, held=0, recipe=Recipe(epochs=2, batch_size=8)
    )
    _, whole = drained(distil(bases, teacher, texts, settings=settings))
    events = distil(bases, teacher, texts, settings=settings, folder=tmp_path)
    while True:
        event = next(events)
        if event.candidate == "student" and event.done == 3:
            break
    events.close()
    rest, student = drained(distil(bases, teacher, texts, settings=settings, folder=tmp_path))
    assert rest[0].candidate == "student" and rest[0].done == 4
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, student.weights[name])


def test_what_cannot_be_learnt_says_why(bases):
    readout = Majority.fit(["a", "b"], ["x", "y"], labels=("x", "y"))
    made = Adaptation(labels=("x", "y"), readout_name="majority", readout=readout)
    with pytest.raises(DataError, match="at least 8 different texts, got 1"):
        drained(distil(bases, made, ["same"] * 20))
    with pytest.raises(ConfigError, match="the base of the teacher is none"):
        drained(distil(bases, made, [str(n) for n in range(20)]))
    with pytest.raises(ConfigError, match="distillation is wrong") as caught:
        Distillation(method="magic", rank=0, held=1.0)
    assert len(caught.value.details) == 3
