"""A base with adaptations of many kinds over it, and what each of them says alone."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sapwood.adaptation import Adaptation, save
from sapwood.context.prompter import Context
from sapwood.context.template import Template, default_template
from sapwood.evaluation import Bases, sealed
from sapwood.interfaces import Example, Schema
from sapwood.launch import Runtime
from sapwood.methods import parts
from sapwood.methods.folder import write_method
from sapwood.methods.together import parse
from sapwood.models.choosing import Sampling
from sapwood.pool.pool import Pool, open_pool
from sapwood.pool.wish import Update, Wish
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer
from sapwood.readouts.written import Written

RUNTIME = Runtime(device="cpu", dtype="float32", threads=1)
# Methods alone, as folders that PEFT would read too where it has the method.
METHODS = {
    "lora-8": "lora(rank=8)",
    "lora-16": "lora(rank=16)",
    "prefix": "prefix(tokens=7)",
    "neck": "adapter(width=6)",
    "prompt": "prompt(tokens=5)",
    "dora": "dora(rank=4)",
    "both": "prefix(tokens=3)+lora(rank=4)",
}
LABELS = ("bad", "good")
ROWS = [("a fine film", "good"), ("a dull film", "bad"), ("fine music", "good"),
        ("dull music", "bad")]  # fmt: skip


def attach(net: Any, name: str) -> Any:
    """Attach a method with tensors far from where they start, the same for the same name."""
    method = parse(METHODS[name])
    method.attach(net, seed=1)
    generator = torch.Generator().manual_seed(sorted(METHODS).index(name))
    with torch.no_grad():
        for _, tensor in sorted(parts.weights(net).items()):
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return method


@pytest.fixture(scope="session")
def folders(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of adaptations of `small_base`: METHODS, and one of LoRA under demonstrations."""
    root = tmp_path_factory.mktemp("adaptations")
    bases = Bases(RUNTIME)
    net = bases.get(str(small_base)).net
    found = {}
    for name in METHODS:
        method = attach(net, name)
        write_method(parts.stored(net), method, root / name, base="small", transposed=False)
        parts.detach(net)
        found[name] = root / name
    found["context"] = in_context(bases, str(small_base), root / "context")
    return found


def in_context(bases: Bases, base: str, folder: Path) -> Path:
    """Save LoRA under four demonstrations."""
    net = bases.get(base).net
    method = attach(net, "lora-16")
    weights = parts.stored(net)
    parts.detach(net)
    made = Adaptation(
        labels=LABELS,
        readout_name="verbalizer",
        readout=Verbalizer(labels=LABELS, bias=bias.none(2), normalise="trie"),
        base=bases.reference(base),
        context=Context(
            template=default_template(LABELS, [text for text, _ in ROWS]),
            demonstrations=tuple(
                Example(text=text, label=label, row=n + 1) for n, (text, label) in enumerate(ROWS)
            ),
            selection="given", shots=4,
        ),
        method=method,
        weights=weights,
        scope="all",
    )  # fmt: skip
    save(sealed(made, bases, [Example(text="a sour film")]), folder)
    return folder


def finding(bases: Bases, base: str, folder: Path) -> Path:
    """Save an adaptation that writes the entities of a text under its grammar."""
    schema = Schema(types=("PER", "LOC"))
    made = Adaptation(
        task="entities",
        labels=schema.types,
        readout_name="generate",
        readout=Written(task="entities", schema=schema, tokens=40),
        base=bases.reference(base),
        context=Context(template=Template(instruction="", before="Text: ", between="\nFound:")),
    )
    save(sealed(made, bases, [Example(text="Anna in Rome")]), folder)
    return folder


class Asker:
    """Asks a pool and waits."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def begin(self, model: str, text: str = "", **wish: Any) -> queue.SimpleQueue[Update]:
        """Ask, and return where the updates come."""
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        wish.setdefault("sampling", Sampling(tokens=8))
        self.pool.write(Wish(model=model, text=text, **wish), updates.put)
        return updates

    def end(self, updates: queue.SimpleQueue[Update], samples: int = 1) -> list[list[Update]]:
        """Return the updates of each sample, once all are finished."""
        found: list[list[Update]] = [[] for _ in range(samples)]
        while not all(own and own[-1].finish for own in found):
            update = updates.get(timeout=60)
            found[update.sample].append(update)
        return found

    def say(self, model: str, text: str = "", **wish: Any) -> str:
        """Return a whole answer."""
        (updates,) = self.end(self.begin(model, text, **wish))
        if updates[-1].error is not None:
            raise updates[-1].error
        return "".join(update.text for update in updates)


@pytest.fixture(scope="session")
def pool(small_base: Path, folders: dict[str, Path]) -> Iterator[Pool]:
    """A pool with all of them in memory."""
    made = open_pool(str(small_base), folders, runtime=RUNTIME, slots=6, resident=16, queue=64)
    yield made
    made.stop(5)


@pytest.fixture(scope="session")
def asker(pool: Pool) -> Asker:
    """An asker of that pool."""
    return Asker(pool)


@pytest.fixture
def opened(small_base: Path) -> Iterator[Callable[..., Pool]]:
    """Opener of pools of their own; they are stopped at the end."""
    made: list[Pool] = []

    def open_one(served: dict[str, Path], **settings: Any) -> Pool:
        made.append(open_pool(str(small_base), served, runtime=RUNTIME, **settings))
        return made[-1]

    yield open_one
    for pool in made:
        pool.stop(1)
