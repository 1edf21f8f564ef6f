"""Context distillation: weights learn from unlabelled texts what a context makes the base answer.

Askell et al. 2021 (arXiv 2112.00861) and Snell et al. 2022 (arXiv 2209.15189): the teacher reads
its context before each text, the student does not; the student's loss is its cross-entropy to the
teacher's distribution over the labels, computed at every node of the label tree.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.adaptation import Adaptation
from sapwood.bridges.answers import (
    attached,
    content_hash,
    finished,
    reader_of,
)
from sapwood.bridges.compress import Compression, prefix_tensor, seated, shortened
from sapwood.context.prompter import Context
from sapwood.context.template import default_template
from sapwood.errors import ConfigError, DataError
from sapwood.evaluation import CHUNK, Bases, Predictor, Reader
from sapwood.interfaces import Event, Floats
from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.methods.prefix import StoredPrefix
from sapwood.models.decoder import Decoder
from sapwood.models.labels import LabelHead
from sapwood.models.trie import LabelTrie
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer
from sapwood.training import Recipe, Seat, check_trainable, make_optimiser, packed
from sapwood.training.course import Curve, Trained, completed, digest

LEAST_TEXTS = 8  # fewer teach nothing and leave none to compare teacher and student on


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a student learns.

    `method`: "lora" (of `rank`) or "prefix" (of `tokens`, starting from the teacher's own context
    where it has one that all queries share, else from the student's prompt); `base`: the student's
    base, None for the teacher's; `held`: share of the texts kept to compare the two on.
    """

    method: str = "lora"
    rank: int = 8
    tokens: int = 32
    base: str | None = None
    held: float = 0.1
    recipe: Recipe = field(default_factory=lambda: Recipe(learning_rate=5e-4, epochs=3.0))

    def __post_init__(self) -> None:
        problems = []
        if self.method not in ("lora", "prefix"):
            problems.append(f"method must be lora or prefix, got '{self.method}'")
        if self.rank < 1 or self.tokens < 1:
            problems.append("rank and tokens must be 1 or more")
        if not 0 <= self.held < 1:
            problems.append(f"held must be in [0, 1), got {self.held}")
        if problems:
            raise ConfigError("E-CONFIG-083", "The distillation is wrong.", details=problems)


class SoftSupervision:
    """Cross-entropy of label scores, taken among the label words, to given distributions.

    `prompts`: token ids; `wanted`: (prompts, labels), rows summing to 1. One row of a pack holds
    all nodes of the label tree, so that every label is scored in one pass.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        wanted: Floats,
        trie: LabelTrie,
        seat: Seat,
    ) -> None:
        self.rows = [trie.row(prompt) for prompt in prompts]
        check_trainable(decoder, self.rows, seat)
        self.decoder, self.seat, self.nodes = decoder, seat, len(trie.tokens)
        self.wanted = torch.tensor(np.asarray(wanted), dtype=torch.float32, device=decoder.device)
        self.head = LabelHead(decoder.net, trie)

    def __len__(self) -> int:
        return len(self.rows)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of rows: the loss is their mean."""
        return len(numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the rows `numbers`."""
        rows = [self.rows[n] for n in numbers]
        for part, states, tokens in packed(self.decoder, rows, self.seat, budget):
            grouped = states.view(len(part), self.nodes, states.shape[-1])
            scores = self.head.scores(grouped, "trie")  # (rows, labels), log-probabilities
            yield -(self.wanted[[numbers[n] for n in part]] * scores).sum(), tokens


def distil(
    bases: Bases,
    teacher: Adaptation,
    texts: Sequence[str],
    *,
    settings: Distillation | None = None,
    folder: Path | None = None,
) -> Generator[Event, None, Adaptation]:
    """Train a student without a context to answer `texts` as `teacher` does.

    No label is read. The student's evidence says who taught it and how often both give the same
    label on texts that were held out. `folder` keeps the teacher's answers and checkpoints: the
    same call goes on there.

    Raises ConfigError (E-CONFIG-084: the teacher names no language model and no base is given),
    DataError (E-DATA-080: too few texts).
    """
    settings = settings or Distillation()
    unique = list(dict.fromkeys(texts))
    if len(unique) < LEAST_TEXTS:
        raise DataError(
            "E-DATA-080",
            f"Distillation needs at least {LEAST_TEXTS} different texts, got {len(unique)}.",
            fix="give more; they need no labels",
        )
    answers = yield from taught(bases, teacher, unique, folder=folder)
    held = np.zeros(len(unique), dtype=bool)
    order = np.random.default_rng(settings.recipe.seed).permutation(len(unique))
    held[order[: round(settings.held * len(unique))]] = True
    kept = [text for text, away in zip(unique, held, strict=True) if not away]
    lesson = _lesson(bases, teacher, texts=kept, answers=answers[~held], settings=settings)
    learn = _learnt_lora if settings.method == "lora" else _learnt_prefix
    student, curve = yield from learn(lesson, bases, teacher, folder)
    asked = [text for text, away in zip(unique, held, strict=True) if away] or kept
    said = yield from _asked(bases, student, asked, "compare")
    theirs = answers[held] if held.any() else answers
    agreement = float((said.argmax(1) == theirs.argmax(1)).mean())
    evidence = {
        "teacher": {"parts": teacher.parts(), "sha256": content_hash(teacher)},
        "agreement": {
            "value": round(agreement, 4), "rows": len(asked), "held_out": bool(held.any()),
        },
        "texts": len(kept),
        "settings": asdict(settings),
        "seconds": round(sum(curve["seconds"]), 3),
        "curve": curve,
    }  # fmt: skip
    return finished(bases, student, asked, {"distilled": evidence})


def taught(
    bases: Bases, teacher: Adaptation, texts: Sequence[str], *, folder: Path | None = None
) -> Generator[Event, None, Floats]:
    """Return the teacher's probabilities, (texts, labels), computed once and kept in `folder`."""
    path = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"teacher-{digest(content_hash(teacher), list(texts))[:16]}.npy"
        if path.exists():
            return np.asarray(np.load(path))
    answers = yield from _asked(bases, teacher, texts, "teacher")
    if path is not None:
        part = path.with_suffix(".part.npy")
        np.save(part, answers)
        part.replace(path)
    return answers


def _asked(
    bases: Bases, made: Adaptation, texts: Sequence[str], name: str
) -> Generator[Event, None, Floats]:
    """Return an adaptation's probabilities, (texts, labels), with progress."""
    found: list[Floats] = []
    with Predictor(made, bases) as predictor:
        for part in predictor.stream(texts):
            found.append(part)
            done = min(len(found) * CHUNK, len(texts))
            yield Event(kind="progress", candidate=name, done=done, total=len(texts))
    return np.concatenate(found)


@dataclass(frozen=True, kw_only=True)
class _Lesson:
    """What a student learns from, and the student before it has."""

    reader: Reader
    prompts: list[list[int]]
    answers: Floats
    settings: Distillation
    student: Adaptation
    identity: Any

    def course(
        self, seat: Seat, weights: Mapping[str, Tensor], folder: Path | None
    ) -> Generator[Event, None, Curve]:
        """Train `weights` under `seat`."""
        reader = self.reader
        supervised = SoftSupervision(reader.decoder, self.prompts, self.answers, reader.trie, seat)
        recipe = self.settings.recipe
        trained = Trained(
            name="student",
            supervised=supervised,
            weights=weights,
            optimiser=make_optimiser(list(weights.values()), recipe),
            recipe=recipe,
            identity=self.identity,
        )
        return completed(trained, folder)


def _lesson(
    bases: Bases,
    teacher: Adaptation,
    *,
    texts: Sequence[str],
    answers: Floats,
    settings: Distillation,
) -> _Lesson:
    name = settings.base or (teacher.base.name if teacher.base else None)
    if name is None or bases.get(name).kind != "decoder":
        raise ConfigError(
            "E-CONFIG-084",
            f"The student needs a language model; {name or 'the base of the teacher'} is none.",
            fix="name one: --base smollm2-135m",
        )
    context = _bare(teacher, texts)
    reader = Reader(bases, name, context, teacher.labels)
    prompts, _ = reader.prompts(texts)
    student = Adaptation(
        labels=teacher.labels,
        readout_name="verbalizer",
        readout=Verbalizer(
            labels=teacher.labels, bias=bias.none(len(teacher.labels)), normalise="trie"
        ),
        base=bases.reference(name),
        context=context,
    )
    identity = [content_hash(teacher), asdict(settings), list(texts)]
    return _Lesson(
        reader=reader, prompts=prompts, answers=answers, settings=settings, student=student,
        identity=identity,
    )  # fmt: skip


Learnt = Generator[Event, None, tuple[Adaptation, Curve]]


def _learnt_lora(lesson: _Lesson, bases: Bases, teacher: Adaptation, folder: Path | None) -> Learnt:
    rank = lesson.settings.rank
    method = Lora(rank=rank, alpha=2.0 * rank)
    net = lesson.reader.decoder.net
    method.attach(net, seed=lesson.settings.recipe.seed)
    try:
        net.train()
        seat = Seat(shared=lesson.reader.opening())
        curve = yield from lesson.course(seat, parts.weights(net), folder)
        weights = parts.stored(net)
        transposed = parts.transposed(net)
        made = replace(lesson.student, method=method, weights=weights, transposed=transposed)
        return made, curve
    finally:
        net.eval()
        parts.detach(net)


def _learnt_prefix(
    lesson: _Lesson, bases: Bases, teacher: Adaptation, folder: Path | None
) -> Learnt:
    decoder = lesson.reader.decoder
    tensor, origin = _start(bases, teacher, lesson)
    tensor = tensor.float().clone().requires_grad_()
    seat = Seat(prefix=lambda: seated(tensor, decoder))
    curve = yield from lesson.course(seat, {"prefix": tensor}, folder)
    stored = StoredPrefix(tensor=tensor.detach().cpu(), origin=origin, trained=True)
    return replace(lesson.student, prefix=stored), curve


def _start(bases: Bases, teacher: Adaptation, lesson: _Lesson) -> tuple[Tensor, str]:
    """Return the tensor that a student's prefix starts from, and where it comes from."""
    decoder, ours = lesson.reader.decoder, lesson.student.base
    kept = Compression(tokens=lesson.settings.tokens)
    same = teacher.base is not None and ours is not None and teacher.base.sha256 == ours.sha256
    if same and teacher.prefix is not None:
        return shortened(teacher.prefix.tensor, decoder, kept), "the teacher's prefix"
    if same and teacher.context is not None and teacher.context.sharing == "all":
        with attached(bases, teacher):
            encoded = reader_of(bases, teacher).prefix()
            if len(encoded.ids) >= lesson.settings.tokens:
                tensor = prefix_tensor(decoder, encoded)
                return shortened(tensor, decoder, kept), "the teacher's context"
    ids = list(lesson.reader.opening())
    for prompt in lesson.prompts:  # a short instruction is followed by texts, up to the length
        ids += prompt if len(ids) < lesson.settings.tokens else []
    tensor = prefix_tensor(decoder, decoder.encode(ids))
    return shortened(tensor, decoder, kept), "the instruction and texts"


def _bare(teacher: Adaptation, texts: Sequence[str]) -> Context:
    """Return the teacher's context without its demonstrations."""
    if teacher.context is None:
        return Context(template=default_template(teacher.labels, texts))
    limit = teacher.context.max_text_tokens
    return Context(template=teacher.context.template, max_text_tokens=limit)
