"""Learning to read demonstrations: in-context tuning, over one task or many (MetaICL).

Chen et al. 2022 (arXiv 2110.07814) and Min et al. 2022 (arXiv 2110.15943): each example of
training is a task's demonstrations, drawn and ordered afresh, and a query of the same task. Every
demonstration's answer is a target of its own, each after one demonstration more than the last
(arXiv 2506.11103): as many lessons for one pass over the row. Tasks have label words of their own,
so each has its own tree and its own rows of the head.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.adaptation import Adaptation
from sapwood.bridges.answers import finished
from sapwood.context.prompter import Context, Prompter
from sapwood.context.select import Stratified
from sapwood.context.template import Template, default_template
from sapwood.errors import ConfigError, DataError
from sapwood.evaluation import Bases
from sapwood.interfaces import Event, Example
from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.metrics import label_indices
from sapwood.models.decoder import Decoder
from sapwood.models.labels import LabelHead
from sapwood.models.layout import Row
from sapwood.models.trie import build_trie
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer
from sapwood.training import Recipe, Seat, Target, check_trainable, make_optimiser, packed
from sapwood.training.course import Curve, Trained, completed


@dataclass(frozen=True, kw_only=True)
class Practice:
    """A task to practise on: labelled `rows`, its `labels`, and how a prompt is written."""

    name: str
    rows: tuple[Example, ...]
    labels: tuple[str, ...]
    template: Template


def practice(name: str, rows: Sequence[Example], *, instruction: str | None = None) -> Practice:
    """Return a task with the default template for its labels and language.

    Raises DataError (E-DATA-081) when rows have no label, or all the same.
    """
    labels = tuple(sorted({row.label for row in rows if row.label is not None}))
    bare = sum(row.label is None for row in rows)
    if bare or len(labels) < 2:
        raise DataError(
            "E-DATA-081",
            f"The task '{name}' cannot be practised: "
            + (f"{bare:,} rows have no label." if bare else "it has fewer than two labels."),
            fix="give labelled rows of two classes or more",
        )
    template = default_template(labels, [row.text for row in rows[:200]], instruction=instruction)
    return Practice(name=name, rows=tuple(rows), labels=labels, template=template)


@dataclass(frozen=True, kw_only=True)
class Demonstrating:
    """How reading demonstrations is learnt.

    `shots`: demonstrations before the query; `episodes`: rows drawn in all; `every`: whether each
    demonstration's answer is a target too, or the query's alone; `max_text_tokens` bounds a text.
    The recipe's batch counts rows; its epochs are over the episodes and stay at 1.
    """

    shots: int = 16
    episodes: int = 256
    every: bool = True
    rank: int = 8
    max_text_tokens: int = 64
    recipe: Recipe = field(
        default_factory=lambda: Recipe(learning_rate=5e-4, batch_size=4, epochs=1.0)
    )

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be 1 or more, got {getattr(self, name)}"
            for name in ("shots", "episodes", "rank", "max_text_tokens")
            if getattr(self, name) < 1
        ]
        if wrong:
            raise ConfigError("E-CONFIG-085", "The practice is wrong.", details=wrong)


class Script:
    """The rows of one task as token ids, so that any order of them is a prompt.

    What `write` joins is what `Prompter` makes of the same demonstrations and query wherever the
    tokenizer splits before label words and separators; each text is tokenised once.
    """

    def __init__(self, tokenizer: Any, task: Practice, max_text_tokens: int) -> None:
        context = Context(template=task.template, max_text_tokens=max_text_tokens)
        self.tokenizer, self.task, self.limit = tokenizer, task, max_text_tokens
        self.gold = label_indices([row.label for row in task.rows], task.labels).tolist()
        prompter = Prompter(tokenizer, context)
        self.opening = prompter.prefix
        self.labels = prompter.labels(task.labels)
        self.trie = build_trie(self.labels)
        self.separator = self._ids(task.template.separator)
        self._queries: dict[int, list[int]] = {}

    def _ids(self, text: str, *, start: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=start, verbose=False)["input_ids"])

    def _query(self, number: int) -> str:
        """Return one example as a query, its text cut at the limit."""
        text = self.task.rows[number].text
        coded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        if len(coded["input_ids"]) > self.limit:
            text = text[: coded["offset_mapping"][self.limit - 1][1]]
        return self.task.template.query(text)

    def _piece(self, number: int) -> list[int]:
        """Return the separator and one example as a query."""
        if number not in self._queries:
            self._queries[number] = self._ids(self.task.template.separator + self._query(number))
        return self._queries[number]

    def write(self, numbers: Sequence[int], *, every: bool) -> Target:
        """Return one row of the examples `numbers`, the last of them the query.

        Wanted are the positions of all answers with `every`, else of the last one's.
        """
        ids, wanted = list(self.opening), list[int]()
        nodes, answers = list[int](), list[int]()
        for place, number in enumerate(numbers):
            path = self.trie.paths[self.gold[number]]
            label = [token for _, token in path]
            if not ids:  # no instruction: the first text opens the prompt
                ids += self._ids(self._query(number), start=True)
            elif self.separator and ids[-len(self.separator) :] == self.separator:
                ids += self._ids(self._query(number))  # the label brought its separator
            else:
                ids += self._piece(number)
            last = place == len(numbers) - 1
            if every or last:
                wanted += range(len(ids) - 1, len(ids) - 1 + len(label))
                nodes += [node for node, _ in path]
                answers += label
            ids += label[:-1] if last else label
        return Target(row=Row(ids=ids, wanted=wanted), nodes=tuple(nodes), answers=tuple(answers))


class Episodes:
    """The answers of drawn rows: each of the tasks in turn, demonstrations and query at random.

    Row n is decided by (seed, n) alone. The loss is the mean over answer tokens.
    """

    def __init__(
        self, decoder: Decoder, scripts: Sequence[Script], settings: Demonstrating
    ) -> None:
        self.decoder, self.scripts, self.settings = decoder, scripts, settings
        self.heads = [LabelHead(decoder.net, script.trie) for script in scripts]
        self.targets = [self._drawn(number) for number in range(settings.episodes)]
        check_trainable(decoder, [target.row for target in self.targets], Seat())

    def __len__(self) -> int:
        return len(self.targets)

    def _drawn(self, number: int) -> Target:
        script = self.scripts[number % len(self.scripts)]
        rng = np.random.default_rng((self.settings.recipe.seed, number))
        rows = len(script.task.rows)
        drawn = rng.choice(rows, min(self.settings.shots + 1, rows), replace=False)
        return script.write(drawn.tolist(), every=self.settings.every)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of answer tokens."""
        return sum(len(self.targets[n].answers) for n in numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the rows `numbers`."""
        chosen = [self.targets[n] for n in numbers]
        rows = [target.row for target in chosen]
        for part, states, tokens in packed(self.decoder, rows, Seat(), budget):
            pieces = torch.split(states, [len(chosen[n].answers) for n in part])
            total = states.new_zeros(()).float()
            for place, piece in zip(part, pieces, strict=True):
                head = self.heads[numbers[place] % len(self.scripts)]
                total = total + head.loss(piece, chosen[place].nodes, chosen[place].answers)
            yield total, tokens


def demonstrate(
    bases: Bases,
    base: str,
    tasks: Sequence[Practice],
    held_out: Practice,
    *,
    settings: Demonstrating | None = None,
    folder: Path | None = None,
) -> Generator[Event, None, Adaptation]:
    """Train LoRA to read the demonstrations of `tasks`; return it set up for `held_out`.

    The adaptation shows `settings.shots` stratified demonstrations of `held_out`, whose rows are
    not trained on unless it is one of `tasks` (in-context tuning within one task); LoRA also acts
    on them. `folder` keeps checkpoints: the same call goes on there.

    Raises ConfigError (E-CONFIG-086: no task to practise on), DataError (E-DATA-082: fewer rows
    than demonstrations), ModelError when a row is longer than the base reads.
    """
    settings = settings or Demonstrating()
    _check(tasks, held_out, settings)
    decoder, tokenizer = bases.decoder(base), bases.get(base).tokenizer
    net = decoder.net
    method = Lora(rank=settings.rank, alpha=2.0 * settings.rank)
    method.attach(net, seed=settings.recipe.seed)
    try:
        net.train()
        scripts = [Script(tokenizer, task, settings.max_text_tokens) for task in tasks]
        weights = parts.weights(net)
        trained = Trained(
            name="demonstrations",
            supervised=Episodes(decoder, scripts, settings),
            weights=weights,
            optimiser=make_optimiser(list(weights.values()), settings.recipe),
            recipe=settings.recipe,
            identity=[asdict(settings), bases.get(base).sha256, [asdict(task) for task in tasks]],
        )
        curve = yield from completed(trained, folder)
        kept = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        transposed = parts.transposed(net)
    finally:
        net.eval()
        parts.detach(net)
    made = Adaptation(
        labels=held_out.labels,
        readout_name="verbalizer",
        readout=Verbalizer(
            labels=held_out.labels, bias=bias.none(len(held_out.labels)), normalise="trie"
        ),
        base=bases.reference(base),
        context=shown(held_out, settings),
        method=method,
        weights=kept,
        transposed=transposed,
    )
    texts = [row.text for row in held_out.rows[:3]]
    return finished(bases, made, texts, _evidence(tasks, settings, curve))


def shown(task: Practice, settings: Demonstrating) -> Context:
    """Return the context of stratified demonstrations of a task."""
    (numbers,) = Stratified().select(
        task.rows, [], settings.shots, settings.recipe.seed, labels=task.labels
    )
    return Context(
        template=task.template,
        demonstrations=tuple(task.rows[n] for n in numbers),
        selection="stratified",
        shots=len(numbers),
        max_text_tokens=settings.max_text_tokens,
    )


def _check(tasks: Sequence[Practice], held_out: Practice, settings: Demonstrating) -> None:
    if not tasks:
        raise ConfigError(
            "E-CONFIG-086", "There is no task to practise on.", fix="give one or more"
        )
    short = [
        f"'{task.name}' has {len(task.rows):,}"
        for task in (*tasks, held_out)
        if len(task.rows) <= settings.shots
    ]
    if short:
        raise DataError(
            "E-DATA-082",
            f"{settings.shots} demonstrations and a query need {settings.shots + 1} rows a task.",
            details=short,
            fix="fewer --shots, or more rows",
        )


def _evidence(tasks: Sequence[Practice], settings: Demonstrating, curve: Curve) -> dict[str, Any]:
    return {
        "practised": {
            "tasks": [
                {"name": t.name, "rows": len(t.rows), "labels": len(t.labels)} for t in tasks
            ],
            "settings": asdict(settings),
            "seconds": round(sum(curve["seconds"]), 3),
            "curve": curve,
        }
    }
