"""Every objective trains each of its kinds: better on new text than with its targets shuffled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sapwood.models import kinds
from sapwood.objectives import Draws, Vocabulary, objective
from sapwood.testing.corpora import Documents, tiny_documents, tiny_words_tokenizer
from sapwood.training.loop import Recipe, fit
from sapwood.training.optimisers import pretraining_optimiser
from sapwood.training.pieces import NOT_LEARNT
from sapwood.training.pretraining_setup import names_of
from sapwood.training.readings import HeldOut, Pretraining, held_out, reading_for
from sapwood.training.stream import Stream

LENGTH = 48
VOCABULARY = Vocabulary.of(tiny_words_tokenizer())
TEXT, NEW = Documents(tiny_documents(3000)), Documents(tiny_documents(200, seed=1))


class Shuffled:
    """The same examples with targets that say nothing: shuffled in place, pairs by lot."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def example(self, place: int) -> Any:
        rng = np.random.default_rng(place)
        example = dict(self.stream.example(place))
        if "labels" in example:
            labels = np.array(example["labels"])
            at = np.flatnonzero(labels != NOT_LEARNT)
            labels[at] = labels[rng.permutation(at)]
            example["labels"] = labels
        if "next_sentence_label" in example:
            example["next_sentence_label"] = np.array(rng.integers(2))
        return example


def trained(net_name: str, line: str, steps: int, rate: float, *, shuffled: bool) -> HeldOut:
    """Return the losses on new text after training a small net."""
    learns = objective(line)
    names = names_of(learns)
    net = kinds.new_net(net_name, VOCABULARY, LENGTH, names)
    reading = reading_for(net, names)
    stream = Stream(Draws(learns, TEXT, VOCABULARY, LENGTH, 0))
    supervised = Pretraining(reading, Shuffled(stream) if shuffled else stream)
    recipe = Recipe(
        learning_rate=rate, batch_size=16, warmup=0.1, schedule="stable", order="stream"
    )
    optimiser, _ = pretraining_optimiser(net, recipe, "adamw")
    for _ in fit(supervised, optimiser, recipe, total=steps):
        pass
    net.eval()
    draws = Draws(learns.evaluated(), NEW, VOCABULARY, LENGTH, 0)
    examples = [draws.draw(0, n) for n in range(min(150, draws.plan(0)))]
    return held_out(reading, examples, 2048, torch.float32)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the width, for nets that learn this language in seconds."""
    monkeypatch.setitem(kinds.SIZES, "tiny", (2, 64))  # type: ignore[arg-type]
    monkeypatch.setattr(kinds, "HEAD", 32)


@pytest.mark.parametrize(
    ("net", "line", "part", "steps"),
    [
        ("bert-tiny", "mlm", "mlm", 60),
        ("gpt-tiny", "clm", "clm", 60),
        ("decoder-tiny", "fim", "fim", 60),
        ("decoder-tiny", "prefix_lm", "prefix_lm", 60),
        ("t5-tiny", "span", "span", 60),
        ("electra-tiny", "rtd", "mlm", 60),
        pytest.param("albert-tiny", "mlm", "mlm", 60, marks=pytest.mark.slow),
        pytest.param("encoder-tiny", "mlm", "mlm", 60, marks=pytest.mark.slow),
        pytest.param("decoder-tiny", "clm", "clm", 60, marks=pytest.mark.slow),
        pytest.param("gpt-tiny", "fim", "fim", 60, marks=pytest.mark.slow),
        pytest.param("gpt-tiny", "prefix_lm", "prefix_lm", 60, marks=pytest.mark.slow),
        pytest.param("t5-tiny", "ul2", "ul2", 60, marks=pytest.mark.slow),
        pytest.param("t5-tiny", "prefix_lm(form=pair)", "prefix_lm", 60, marks=pytest.mark.slow),
        pytest.param("xlnet-tiny", "plm", "plm", 150, marks=pytest.mark.slow),
    ],
)
def test_tokens_are_learnt(net: str, line: str, part: str, steps: int) -> None:
    own = trained(net, line, steps, 4e-3, shuffled=False)
    control = trained(net, line, steps, 4e-3, shuffled=True)
    assert own.parts[part] < control.parts[part] - 0.3, (own.words(), control.words())
    if part == "clm":
        assert own.bits_per_byte is not None and control.bits_per_byte is not None
        assert 0 < own.bits_per_byte < control.bits_per_byte
    if line == "rtd":
        assert own.parts["rtd"] < control.parts["rtd"]


@pytest.mark.slow
@pytest.mark.parametrize("net", ["lstm-tiny", "gru-tiny"])
def test_recurrent_nets_learn_tokens(net: str) -> None:
    own = trained(net, "clm", 120, 1e-2, shuffled=False)
    control = trained(net, "clm", 120, 1e-2, shuffled=True)
    assert own.parts["clm"] < control.parts["clm"] - 0.5


@pytest.mark.parametrize("net", ["bert-tiny", pytest.param("albert-tiny", marks=pytest.mark.slow)])
def test_the_order_of_sentences_is_learnt(net: str) -> None:
    own = trained(net, "sop", 200, 1e-3, shuffled=False)
    control = trained(net, "sop", 60, 1e-3, shuffled=True)
    assert own.parts["sop"] < 0.4 < 0.68 < control.parts["sop"]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "most"), [("bert-tiny", 0.55), ("albert-tiny", 0.65)])
def test_what_comes_next_is_learnt(net: str, most: float) -> None:
    own = trained(net, "nsp", 500, 1e-3, shuffled=False)
    control = trained(net, "nsp", 500, 1e-3, shuffled=True)
    assert own.parts["nsp"] < most < 0.68 < control.parts["nsp"]
