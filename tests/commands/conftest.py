"""What tests of commands on written answers share: small adaptations of a tiny base."""

from __future__ import annotations

import json

import pytest

from sapwood.adaptation import Adaptation, save
from sapwood.context.prompter import Context
from sapwood.context.wording import template_for
from sapwood.evaluation import Bases
from sapwood.interfaces import Example, Schema
from sapwood.launch import Runtime
from sapwood.readouts.written import Written

STORIES = [
    ("a cat sat on the mat", "then it ran away over the sea"),
    ("a dog ate the bone", "and he sang a song of the town"),
    ("the lamp was old", "so they set it on the road"),
    ("rain fell all day", "the play was cut and the cast went home"),
    ("she had a plan", "it was a plan to see the sea"),
]


@pytest.fixture(scope="session")
def writing(tmp_path_factory, small_base):
    """Maker of folders with an adaptation that writes: `writing("story", tokens=8)`."""
    bases = Bases(Runtime(device="cpu", dtype="float32", threads=1))

    def make(task="story", shown=0, tokens=8):
        texts = [text for text, _ in STORIES]
        pool = [Example(text=t, label=a, row=n) for n, (t, a) in enumerate(STORIES, 1)]
        context = Context(
            template=template_for(task, (), texts), max_text_tokens=64,
            demonstrations=tuple(pool[:shown]), shots=shown, selection="random",
        )  # fmt: skip
        made = Adaptation(
            labels=(), task=task, readout_name="generate", context=context,
            readout=Written(task=task, schema=Schema(types=()), tokens=tokens),
            base=bases.reference(str(small_base)),
        )  # fmt: skip
        folder = tmp_path_factory.mktemp(task) / "adaptation"
        save(made, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def story(writing):
    """An adaptation that continues stories, without demonstrations."""
    return writing()


@pytest.fixture
def stories(tmp_path):
    """A file of five stories."""
    path = tmp_path / "stories.jsonl"
    rows = [{"prompt": text, "text": rest} for text, rest in STORIES]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path
