"""Candidates that train: LoRA on the plain prompt, and LoRA under a context."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch

from sapwood.adaptation import Adaptation
from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.context.prompter import Context
from sapwood.context.select import Stratified
from sapwood.errors import ResourceError
from sapwood.evaluation import Reader
from sapwood.files import write_json
from sapwood.interfaces import Event, Floats
from sapwood.methods import parts
from sapwood.methods.lora import Lora
from sapwood.methods.parts import Method
from sapwood.metrics import log_loss
from sapwood.readouts import bias
from sapwood.readouts.verbalizer import Verbalizer
from sapwood.search.contexts import best_context
from sapwood.search.progress import PATIENCE, Progress
from sapwood.search.workbench import Made, Making, Workbench
from sapwood.training import Recipe, Supervision, fit, make_optimiser, target

MOST_EPOCHS = 3.0  # a fourth epoch gained nothing on any set tried, and over-fitted small ones
FALLBACK_SHOTS = 4  # demonstrations to tune under when no few-shot candidate finished
TIMED_STEPS = 6  # the schedule is fixed after so many steps have been timed
CHECKPOINT_SECONDS = 20.0
WATCHED_ROWS = 256  # development rows scored during training; all of them at the end


def tuned(bench: Workbench, name: str, *, under_context: bool) -> Making:
    """Make `lora`, or `lora+context` under the best demonstrations found before."""
    context = bench.context()
    scope = "all"
    if under_context:
        context, scope = _demonstrated(bench), bench.job.tuning.scope
    method = Lora(rank=bench.job.tuning.rank, alpha=2.0 * bench.job.tuning.rank,
                  dropout=bench.job.tuning.dropout)  # fmt: skip
    net = bench.bases.decoder(bench.job.model).net
    method.attach(net, seed=bench.job.seed)
    try:
        training = Training(bench, name, bench.reader(context, scope=scope))
        yield from training.steps()
        return (yield from training.made(context, method))
    finally:
        net.eval()
        parts.detach(net)


def _demonstrated(bench: Workbench) -> Context:
    """Return the context of the best few-shot candidate, or of one draw when none finished."""
    found = best_context(bench)
    if found is not None:
        return found
    train = bench.splits.train
    shots = min(FALLBACK_SHOTS, len(train) // 2)
    (numbers,) = Stratified().select(train, [], shots, bench.job.seed, labels=bench.labels)
    shown = [train[n] for n in numbers]
    return bench.context(shown, selection="stratified", shots=shots)


class Training:
    """One training run: steps, evaluation, checkpoints, resuming."""

    def __init__(self, bench: Workbench, name: str, reader: Reader) -> None:
        self.bench, self.name, self.reader = bench, name, reader
        self.folder: Path = bench.candidate_folder(name)
        self.net = reader.decoder.net
        self.weights = parts.weights(self.net)
        settings = bench.job.tuning
        self.recipe = Recipe(
            learning_rate=settings.learning_rate,
            batch_size=min(settings.batch_size, len(bench.splits.train)),
            epochs=settings.epochs or MOST_EPOCHS,
            seed=bench.job.seed,
        )
        self.optimiser = make_optimiser(list(self.weights.values()), self.recipe)
        self.run = Progress()
        self.kept: dict[str, torch.Tensor] = {}
        self.number, self.saved = 0, time.monotonic()
        self.supervision = self._supervision()
        self._resume()

    def _supervision(self) -> Supervision:
        train, reader = self.bench.splits.train, self.reader
        prompts, prefix = reader.prompts([e.text for e in train])
        gold = self.bench.index(train)
        targets = [target(p, int(g), reader.trie) for p, g in zip(prompts, gold, strict=True)]
        if reader.scope == "suffix":
            return Supervision(reader.decoder, targets, reader.trie, prefix=prefix)
        return Supervision(reader.decoder, targets, reader.trie, shared=reader.prompter.prefix)

    def _resume(self) -> None:
        self.number, extra, tensors = load_checkpoint(
            self.folder, weights=self.weights, optimiser=self.optimiser
        )
        plan = self.folder / "plan.json"
        if plan.exists():
            content = json.loads(plan.read_text())
            self.run.total, self.run.forecast = content["total"], content["forecast"]
        if self.number:
            self.run.restore(extra["run"])
            self.kept = tensors

    def save(self) -> None:
        """Write a checkpoint of everything."""
        save_checkpoint(
            self.folder,
            step=self.number,
            weights=self.weights,
            optimiser=self.optimiser,
            extra={"run": self.run.to_json()},
            tensors=self.kept,
        )
        self.bench.clock.save()
        self.saved = time.monotonic()

    def steps(self) -> Generator[Event, None, None]:
        """Train to the end of the plan, or of the patience, or of the time."""
        whole = self.recipe.steps(len(self.supervision))
        try:
            if not self.run.total:
                yield from self._timed(whole)
            yield from self._loop(self.run.total)
        except GeneratorExit:  # the caller stops here, between two steps
            self.save()
            raise

    def _timed(self, whole: int) -> Generator[Event, None, None]:
        """Time a few steps, then fix how many there will be and write that down."""
        if self.bench.job.tuning.epochs is None and whole > TIMED_STEPS:
            yield from self._loop(whole, last=TIMED_STEPS)
            # the first step pays for allocations that the others reuse
            a_step = float(np.median(self.run.curve["seconds"][1:]))
            fits = int(self.bench.tuning_seconds(self.name) * 0.9 / a_step)
            whole = max(TIMED_STEPS + 1, min(whole, fits))
            self.run.forecast = a_step * whole
        self.run.total = whole
        write_json(self.folder / "plan.json", {"total": whole, "forecast": self.run.forecast})

    def _loop(self, total: int, last: int | None = None) -> Generator[Event, None, None]:
        every = max(8, min(len(self.supervision) // self.recipe.batch_size // 2, total // 3))
        self.net.train()
        for step in fit(
            self.supervision, self.optimiser, self.recipe, total=total, first=self.number + 1
        ):
            self.number = step.number
            self.run.record(step)
            if (step.number % every == 0 or step.number == total) and self.run.total:
                self._evaluate()
                self.net.train()
            if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                self.save()
            yield Event(
                kind="progress", candidate=self.name, done=step.number, total=total,
                note=self.run.line(step),
            )  # fmt: skip
            late = self.bench.clock.left < self.bench.reserve and bool(self.run.curve["dev"])
            if step.number == last or self.run.waited >= PATIENCE or late:
                return

    def _evaluate(self) -> None:
        rows = self.bench.splits.dev[:WATCHED_ROWS]
        found = self._probabilities([e.text for e in rows])
        accuracy = float(self.bench.rows_correct(found).mean())
        loss = log_loss(found, np.maximum(self.bench.index(rows), 0))
        if self.run.judge(self.number, accuracy, loss):
            self.kept = {n: t.detach().clone() for n, t in self.weights.items()}

    def _probabilities(self, texts: list[str]) -> Floats:
        self.net.eval()
        scores = self.reader.read(texts, normalise="trie").scores
        return np.exp(bias.none(len(self.bench.labels)).apply(scores))

    def made(self, context: Context, method: Method) -> Making:
        """Put the best weights back, score all development rows, return the candidate."""
        if not self.kept:
            raise ResourceError("E-RESOURCE-011", "The budget ended before training did anything.")
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(self.kept[name])
        dev = self.bench.splits.dev
        self.net.eval()
        self.reader.prefix()
        started, before = time.perf_counter(), self.reader.decoder.tokens_run
        probabilities = self._probabilities([e.text for e in dev])
        seconds = (time.perf_counter() - started) / len(dev)
        yield Event(kind="progress", candidate=self.name, done=self.run.total, total=self.run.total)
        made = Adaptation(
            labels=self.bench.labels,
            readout_name="verbalizer",
            readout=Verbalizer(
                labels=self.bench.labels, bias=bias.none(len(self.bench.labels)), normalise="trie"
            ),
            base=self.bench.bases.reference(self.bench.job.model),
            context=context,
            facts=self.bench.facts,
            method=method,
            weights=parts.stored(self.net),
            transposed=parts.transposed(self.net),
            scope=self.reader.scope,
        )
        return Made(
            adaptation=made,
            dev=probabilities,
            trainable=sum(t.numel() for t in self.weights.values()),
            query_seconds=seconds,
            query_tokens=(self.reader.decoder.tokens_run - before) / len(dev),
            curve=self.run.curve,
            forecast_seconds=self.run.forecast,
        )
