"""Prompted adaptations of tiny bases."""

import json
import random

import numpy as np
import pytest

from sapwood.adaptation import Adaptation
from sapwood.context.prompter import Context
from sapwood.context.template import default_template
from sapwood.evaluation import Bases, Reader
from sapwood.interfaces import Example
from sapwood.launch import choose_runtime
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer

LABELS = ("negative", "positive")
TELLS = {"positive": ["great", "lovely", "superb"], "negative": ["awful", "weak", "dull"]}


@pytest.fixture(scope="session")
def reviews():
    """Maker of film reviews of three short words, one of which decides between two labels."""

    def make(count, seed=0):
        rng = random.Random(seed)
        rows = []
        for number in range(count):
            label = LABELS[number % 2]
            words = [rng.choice(TELLS[label]), *rng.sample(["film", "cast", "plot", "end"], 2)]
            rng.shuffle(words)
            rows.append((" ".join(words), label))
        return rows

    return make


@pytest.fixture(scope="session")
def bases():
    return Bases(choose_runtime("cpu", "float32"))


@pytest.fixture(scope="session")
def roomy(tmp_path_factory, tiny_tokenizer):
    """Maker of tiny checkpoints with room for 2,048 tokens."""
    from sapwood.testing import tiny_net

    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(f"roomy_{kind}") / kind
            tiny_net(kind).save_pretrained(made[kind])
            tiny_tokenizer.save_pretrained(made[kind])
            key = "max_position_embeddings"
            if kind != "gpt2":
                path = made[kind] / "config.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), key: 2048}))
        return str(made[kind])

    return folder


@pytest.fixture
def prompted_on(reviews):
    """Maker of an adaptation of a base that shows demonstrations and has a fitted bias."""

    def make(bases, name, shots=4):
        rows = [Example(text=t, label=g, row=n) for n, (t, g) in enumerate(reviews(40, seed=1))]
        context = Context(
            template=default_template(LABELS, ["a film"]),
            demonstrations=tuple(rows[:shots]),
            selection="stratified",
            shots=shots,
        )
        scores = Reader(bases, name, context, LABELS).read([e.text for e in rows[4:]]).scores
        gold = np.array([LABELS.index(e.label) for e in rows[4:]])
        return Adaptation(
            labels=LABELS,
            readout_name="verbalizer",
            readout=Verbalizer(labels=LABELS, bias=bias.labels(scores, gold)),
            base=bases.reference(name),
            context=context,
        )

    return make


@pytest.fixture
def prompted(bases, roomy, prompted_on):
    """Maker of such an adaptation of a tiny base: `prompted("llama")`."""

    def make(kind, shots=4):
        return prompted_on(bases, roomy(kind), shots)

    return make
