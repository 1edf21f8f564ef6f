"""A training run that development rows judge: planned by the time, ended early, the best kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sapwood.errors import ResourceError
from sapwood.files import write_json
from sapwood.interfaces import Event, Example
from sapwood.search.marks import Marks
from sapwood.search.progress import PATIENCE, Progress
from sapwood.search.workbench import Stopped, Workbench
from sapwood.training.course import Course, Trained
from sapwood.training.pace import Pace, paced

# Where time or rows are few, more steps of fewer rows: with 16, 8 and 4 a step LoRA came on 128
# rows to 71, 86 and 90 % on SST-2 and to 64, 68 and 75 % on AG News (SmolLM2), with 8 and 4 to 82
# and 84 % on ChnSentiCorp (Gemma 3); a higher rate helped the first base and harmed the second.
LEAST_STEPS, FEWEST_ROWS = 32, 4
FEWEST_STEPS = 8  # of a run that is begun at all beside others, and between evaluations
SPARE = 0.9  # of the time is planned with
READING = 0.5  # of a row's time in training, forwards and backwards, is what reading one takes
READ_MOST = 0.5  # of the time is for reading development rows, where that lets a run be watched
# Evaluations of a run that has no more steps than fit, and development rows of each: the first that
# fit, down to a glance where rows take seconds. All development rows are read at the end.
WATCHED = ((3, 256), (2, 256), (1, 256), (1, 128), (1, 64), (1, 32))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps in all, rows of each, evaluations at least, development rows that each reads.

    `forecast`: seconds the steps will take.
    """

    total: int
    rows: int
    watches: int = WATCHED[0][0]
    watched: int = WATCHED[0][1]
    forecast: float | None = None


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How what trains is judged.

    `training` is called before steps, with True, and before scoring, with False; `said` gives what
    is said of rows (see `marks`); `seconds`: what training may take, asked once, when its pace is
    known; `whole`: what it may take where that is too little; `passes`: over the training rows,
    between evaluations; `marks`: how that is judged, by default as candidates are.
    """

    training: Callable[[bool], object]
    said: Callable[[Sequence[Example]], Any]
    seconds: Callable[[], float]
    whole: Callable[[], float] | None = None
    passes: float = 0.5
    marks: Marks | None = None


class Judged:
    """The training run of a candidate, in its folder: `run` holds the plan and the curves.

    `pause`: seconds between checkpoints.
    """

    def __init__(self, bench: Workbench, trained: Trained, judge: Judge, *, pause: float) -> None:
        self.bench, self.trained, self.judge = bench, trained, judge
        self.run, (self.watches, self.watched) = Progress(), WATCHED[0]
        folder = bench.candidate_folder(trained.name)
        self._path = folder / "plan.json"
        if self._path.exists():
            self._take(Plan(**json.loads(self._path.read_text())))
        self.course = Course(self.trained, folder, self.run, pause=pause, saved=bench.clock.save)

    @property
    def kept(self) -> dict[str, Tensor]:
        """Return the best weights so far."""
        return self.course.kept

    def steps(self) -> Generator[Event, None, None]:
        """Train to the end of the plan, or of the patience, or of the time.

        Raises Stopped where the time is for too few steps to learn anything.
        """
        self.judge.training(True)
        if not self.run.total:
            self._planned()
        if self.run.waited < PATIENCE:  # else it had ended before it was interrupted
            yield from self.course.steps(self.run.total, ends=self._enough)

    def _planned(self) -> None:
        """Fix how many rows a step has and how many steps there are, and write that down."""
        trained, job = self.trained, self.bench.job
        pace = None
        if job.tuning.epochs is None:
            pace = paced(trained.supervised, trained.optimiser, trained.recipe)
        for seconds in (self.judge.seconds, self.judge.whole or self.judge.seconds):
            plan = self._smaller(pace, SPARE * seconds())
            if plan.total >= LEAST_STEPS:
                break
        least = min(FEWEST_STEPS, trained.recipe.steps(len(trained.supervised)))
        if plan.total < least and not job.only:
            left = max(self.bench.clock.left, 0.0)
            raise Stopped(f"training would have too little time ({left:.0f} s left)")
        plan = replace(plan, total=max(plan.total, least))
        write_json(self._path, asdict(plan))
        self._take(plan)
        self.course.trained = self.trained

    def _smaller(self, pace: Pace | None, seconds: float) -> Plan:
        """Return what there is time for, with smaller steps where there are few."""
        rows = self.trained.recipe.batch_size
        plan = self._plan(rows, pace, seconds)
        while plan.total < LEAST_STEPS and rows // 2 >= FEWEST_ROWS:
            rows //= 2
            plan = self._plan(rows, pace, seconds)
        return plan

    def _plan(self, rows: int, pace: Pace | None, seconds: float) -> Plan:
        """Return what there is time for with so many rows a step."""
        whole = replace(self.trained.recipe, batch_size=rows).steps(len(self.trained.supervised))
        if pace is None:
            return Plan(total=whole, rows=rows)
        dev = len(self.bench.splits.dev)
        for watches, watched in WATCHED:
            reading = READING * pace.row * (dev + watches * min(dev, watched))
            if reading < READ_MOST * seconds:
                break
        steps = max(1, min(whole, int((seconds - reading) / pace.step(rows))))
        forecast = steps * pace.step(rows)
        return Plan(total=steps, rows=rows, watches=watches, watched=watched, forecast=forecast)

    def _take(self, plan: Plan) -> None:
        """Let training go by a plan."""
        self.run.total, self.run.forecast = plan.total, plan.forecast
        self.watches, self.watched = plan.watches, plan.watched
        recipe = replace(self.trained.recipe, batch_size=plan.rows)
        self.trained = replace(self.trained, recipe=recipe)

    def _enough(self, number: int) -> bool:
        """Evaluate where it is time to, and tell whether training ends after step `number`."""
        total, recipe = self.run.total, self.trained.recipe
        usual = int(self.judge.passes * len(self.trained.supervised) / recipe.batch_size)
        every = max(FEWEST_STEPS, min(usual, -(-total // self.watches)))
        if number % every == 0 or number == total:
            self._evaluate(number)
            self.judge.training(True)
        reserve = self.bench.reserve(self.trained.name)
        late = self.bench.clock.left < reserve and bool(self.run.curve["dev"])
        return late or self.run.waited >= PATIENCE

    def _evaluate(self, number: int) -> None:
        rows = self.bench.splits.dev[: self.watched]
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
