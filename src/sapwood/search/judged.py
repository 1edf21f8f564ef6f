"""A training run that development rows judge: planned by the time, ended early, the best kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import ResourceError
from sapwood.files import write_json
from sapwood.interfaces import Event, Example
from sapwood.search.marks import Marks
from sapwood.search.progress import PATIENCE, Progress
from sapwood.search.workbench import Workbench
from sapwood.training.course import Course, Trained

TIMED_STEPS = 6  # the schedule is fixed after so many steps have been timed
WATCHED_ROWS = 256  # development rows scored during training; all of them at the end


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How what trains is judged.

    `training` is called before steps, with True, and before scoring, with False; `said` gives what
    is said of rows (see `marks`); `seconds`: what training may take, asked once, when the first
    steps have been timed; `every`: steps between evaluations, or None; `marks`: how that is judged,
    by default as candidates are.
    """

    training: Callable[[bool], object]
    said: Callable[[Sequence[Example]], Any]
    seconds: Callable[[], float]
    every: int | None = None
    marks: Marks | None = None


class Judged:
    """The training run of a candidate, in its folder: `run` holds the plan and the curves.

    `pause`: seconds between checkpoints.
    """

    def __init__(self, bench: Workbench, trained: Trained, judge: Judge, *, pause: float) -> None:
        self.bench, self.trained, self.judge = bench, trained, judge
        self.run = Progress()
        folder = bench.candidate_folder(trained.name)
        self._plan = folder / "plan.json"
        if self._plan.exists():
            content = json.loads(self._plan.read_text())
            self.run.total, self.run.forecast = content["total"], content["forecast"]
        self.course = Course(trained, folder, self.run, pause=pause, saved=bench.clock.save)

    @property
    def kept(self) -> dict[str, Tensor]:
        """Return the best weights so far."""
        return self.course.kept

    def steps(self) -> Generator[Event, None, None]:
        """Train to the end of the plan, or of the patience, or of the time."""
        whole = self.trained.recipe.steps(len(self.trained.supervised))
        self.judge.training(True)
        if not self.run.total:
            yield from self._timed(whole)
        if self.run.waited < PATIENCE:  # else it had ended before it was interrupted
            yield from self.course.steps(self.run.total, ends=self._enough)

    def _timed(self, whole: int) -> Generator[Event, None, None]:
        """Time a few steps, then fix how many there will be and write that down."""
        if self.bench.job.tuning.epochs is None and whole > TIMED_STEPS:
            yield from self.course.steps(whole, last=TIMED_STEPS)
            # the first step pays for allocations that the others reuse
            a_step = float(np.median(self.run.curve["seconds"][1:]))
            fits = int(self.judge.seconds() * 0.9 / a_step)
            whole = max(TIMED_STEPS + 1, min(whole, fits))
            self.run.forecast = a_step * whole
        self.run.total = whole
        write_json(self._plan, {"total": whole, "forecast": self.run.forecast})

    def _enough(self, number: int) -> bool:
        """Evaluate where it is time to, and tell whether training ends after step `number`."""
        total, recipe = self.run.total, self.trained.recipe
        half = len(self.trained.supervised) // recipe.batch_size // 2  # of an epoch
        every = max(8, min(self.judge.every or half, total // 3))
        if number % every == 0 or number == total:
            self._evaluate(number)
            self.judge.training(True)
        late = self.bench.clock.left < self.bench.reserve and bool(self.run.curve["dev"])
        return late or self.run.waited >= PATIENCE

    def _evaluate(self, number: int) -> None:
        rows = self.bench.splits.dev[:WATCHED_ROWS]
        found = self.said(rows)
        marks = self.judge.marks or self.bench.marks
        value, loss = marks.tally(rows, found).value, marks.loss(rows, found)
        if self.run.judge(number, value, loss):
            weights = self.trained.weights
            self.course.kept = {name: t.detach().clone() for name, t in weights.items()}

    def said(self, rows: Sequence[Example]) -> Any:
        """Return what the weights as they are say of rows."""
        self.judge.training(False)
        return self.judge.said(rows)

    def put_best_back(self) -> None:
        """Let the best weights take their place; ResourceError (E-RESOURCE-011) without any."""
        if not self.kept:
            raise ResourceError("E-RESOURCE-011", "The budget ended before training did anything.")
        with torch.no_grad():
            for name, tensor in self.trained.weights.items():
                tensor.copy_(self.kept[name])
