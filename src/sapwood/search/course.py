"""The course of one training run, whatever trains: steps, evaluation, checkpoints, resuming."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import ResourceError
from sapwood.files import write_json
from sapwood.interfaces import Event, Floats
from sapwood.metrics import log_loss
from sapwood.search.progress import PATIENCE, Progress
from sapwood.search.workbench import Workbench
from sapwood.training import Recipe, Supervised, fit

TIMED_STEPS = 6  # the schedule is fixed after so many steps have been timed
CHECKPOINT_SECONDS = 20.0
WATCHED_ROWS = 256  # development rows scored during training; all of them at the end


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What trains: its `weights` by name, in the order of the `optimiser`, and how it is judged.

    `training` is called before steps, with True, and before scoring, with False; `probabilities`
    gives class probabilities of texts, (texts, labels); `seconds`: what training may take, asked
    once, when the first steps have been timed; `every`: steps between evaluations, or None.
    """

    weights: Mapping[str, Tensor]
    supervision: Supervised
    optimiser: torch.optim.Optimizer
    recipe: Recipe
    training: Callable[[bool], object]
    probabilities: Callable[[Sequence[str]], Floats]
    seconds: Callable[[], float]
    every: int | None = None


class Course:
    """One training run of the candidate `name`, resumed where its last checkpoint left it.

    `pause`: seconds between checkpoints. The best weights so far are `kept`; `run` holds the plan
    and the curves.
    """

    def __init__(
        self, bench: Workbench, name: str, trained: Trained, *, pause: float = CHECKPOINT_SECONDS
    ) -> None:
        self.bench, self.name, self.trained, self.pause = bench, name, trained, pause
        self.folder: Path = bench.candidate_folder(name)
        self.run = Progress()
        self.kept: dict[str, Tensor] = {}
        self.number, self.saved = 0, time.monotonic()
        torch.manual_seed(trained.recipe.seed)  # dropout must not depend on what ran before
        self._resume()

    def _resume(self) -> None:
        trained = self.trained
        self.number, extra, tensors = load_checkpoint(
            self.folder, weights=trained.weights, optimiser=trained.optimiser
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
            weights=self.trained.weights,
            optimiser=self.trained.optimiser,
            extra={"run": self.run.to_json()},
            tensors=self.kept,
        )
        self.bench.clock.save()
        self.saved = time.monotonic()

    def steps(self) -> Generator[Event, None, None]:
        """Train to the end of the plan, or of the patience, or of the time."""
        whole = self.trained.recipe.steps(len(self.trained.supervision))
        try:
            if not self.run.total:
                yield from self._timed(whole)
            if self.run.waited < PATIENCE:  # else it had ended before it was interrupted
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
            fits = int(self.trained.seconds() * 0.9 / a_step)
            whole = max(TIMED_STEPS + 1, min(whole, fits))
            self.run.forecast = a_step * whole
        self.run.total = whole
        write_json(self.folder / "plan.json", {"total": whole, "forecast": self.run.forecast})

    def _loop(self, total: int, last: int | None = None) -> Generator[Event, None, None]:
        trained = self.trained
        half = len(trained.supervision) // trained.recipe.batch_size // 2  # of an epoch
        every = max(8, min(trained.every or half, total // 3))
        trained.training(True)
        for step in fit(
            trained.supervision, trained.optimiser, trained.recipe,
            total=total, first=self.number + 1,
        ):  # fmt: skip
            self.number = step.number
            self.run.record(step)
            if (step.number % every == 0 or step.number == total) and self.run.total:
                self._evaluate()
                trained.training(True)
            if time.monotonic() - self.saved > self.pause:
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
        found = self.probabilities([e.text for e in rows])
        accuracy = float(self.bench.rows_correct(found).mean())
        loss = log_loss(found, np.maximum(self.bench.index(rows), 0))
        if self.run.judge(self.number, accuracy, loss):
            self.kept = {n: t.detach().clone() for n, t in self.trained.weights.items()}

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Return class probabilities of texts with the weights as they are, (texts, labels)."""
        self.trained.training(False)
        return self.trained.probabilities(texts)

    def put_best_back(self) -> None:
        """Let the best weights take their place; ResourceError (E-RESOURCE-011) without any."""
        if not self.kept:
            raise ResourceError("E-RESOURCE-011", "The budget ended before training did anything.")
        with torch.no_grad():
            for name, tensor in self.trained.weights.items():
                tensor.copy_(self.kept[name])
