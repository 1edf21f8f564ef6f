"""One training run, whatever trains: events for the caller, checkpoints, going on after a stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sapwood.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from sapwood.files import write_json
from sapwood.interfaces import Event
from sapwood.training.loop import Optimiser, Recipe, Step, Supervised, fit

CHECKPOINT_SECONDS = 20.0
Curve = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What trains: its `weights` by name, in the order of the `optimiser`; `name`: of its events.

    `identity`: anything JSON-ready that decides the result: checkpoints of another one are removed,
    not resumed. None where the folder belongs to one run already.
    """

    name: str
    supervised: Supervised
    weights: Mapping[str, Tensor]
    optimiser: Optimiser
    recipe: Recipe
    identity: Any = None


class Memory(Protocol):
    """What a run remembers between steps besides its weights; all of it is in every checkpoint."""

    def record(self, step: Step) -> None:
        """Add one step."""
        ...

    def line(self, step: Step) -> str:
        """Return the state in a few words for the screen."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        ...

    def restore(self, content: dict[str, Any]) -> None:
        """Take back what `to_json` gave."""
        ...


class Losses:
    """The `curve` of a run: loss, rate and seconds of each step."""

    def __init__(self) -> None:
        self.curve: Curve = {"step": [], "loss": [], "lr": [], "seconds": []}

    def record(self, step: Step) -> None:
        """Add one step."""
        self.curve["step"].append(step.number)
        self.curve["loss"].append(step.loss)
        self.curve["lr"].append(step.learning_rate)
        self.curve["seconds"].append(step.seconds)

    def line(self, step: Step) -> str:
        """Return the mean loss of the last steps, and the speed."""
        return f"{self.state()} · {step.tokens / max(step.seconds, 1e-9):,.0f} tokens/s"

    def state(self) -> str:
        """Return where the run stands, without its speed."""
        recent = self.curve["loss"][-10:]
        return f"loss {sum(recent) / len(recent):.3f}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return {"curve": self.curve}

    def restore(self, content: dict[str, Any]) -> None:
        """Take back what `to_json` gave."""
        self.curve = content["curve"]


class Course:
    """One training run, resumed where its last checkpoint in `folder` left it (nowhere if None).

    `memory` is told of every step; `pause`: seconds between checkpoints; `saved` is called after
    each. `number`: steps made; `kept`: more tensors that checkpoints hold.
    """

    def __init__(
        self,
        trained: Trained,
        folder: Path | None,
        memory: Memory,
        *,
        pause: float = CHECKPOINT_SECONDS,
        saved: Callable[[], object] = lambda: None,
    ) -> None:
        self.trained, self.folder, self.memory = trained, folder, memory
        self.pause, self.kept = pause, dict[str, Tensor]()
        self._saved = saved
        torch.manual_seed(trained.recipe.seed)  # dropout must not depend on what ran before
        self.number = self._resumed()
        self._time = time.monotonic()

    def _resumed(self) -> int:
        trained = self.trained
        if self.folder is None:
            return 0
        if trained.identity is not None:
            what = digest(trained.identity, repr(trained.recipe), len(trained.supervised))
            _claim(self.folder, what)
        number, extra, tensors = load_checkpoint(
            self.folder, weights=trained.weights, optimiser=trained.optimiser
        )
        if number:
            self.memory.restore(extra["run"])
            self.kept = tensors
        return number

    def save(self) -> None:
        """Write a checkpoint of everything, if there is a folder and anything to keep."""
        if self.folder is not None and self.number:
            save_checkpoint(
                self.folder,
                step=self.number,
                weights=self.trained.weights,
                optimiser=self.trained.optimiser,
                extra={"run": self.memory.to_json()},
                tensors=self.kept,
            )
        self._saved()
        self._time = time.monotonic()

    def steps(
        self,
        total: int,
        *,
        last: int | None = None,
        ends: Callable[[int], bool] = lambda number: False,
    ) -> Generator[Event, None, None]:
        """Train to step `last` of `total`, by default the last one; an event after each step.

        `ends` is asked after each step, before it can be saved, whether that was enough. Closing
        the generator saves a checkpoint.
        """
        trained = self.trained
        last = total if last is None else last
        steps = fit(
            trained.supervised, trained.optimiser, trained.recipe,
            total=total, first=self.number + 1,
        )  # fmt: skip
        try:
            while self.number < last:
                step = next(steps)
                self.number = step.number
                self.memory.record(step)
                enough = ends(step.number)
                if time.monotonic() - self._time > self.pause:
                    self.save()
                yield Event(
                    kind="progress", candidate=trained.name, done=step.number, total=total,
                    note=self.memory.line(step),
                )  # fmt: skip
                if enough:
                    return
        except GeneratorExit:  # the caller stops here, between two steps
            self.save()
            raise


def completed(trained: Trained, folder: Path | None = None) -> Generator[Event, None, Curve]:
    """Train all steps of the recipe and return the curve; the same call goes on in `folder`."""
    memory = Losses()
    course = Course(trained, folder, memory)
    yield from course.steps(trained.recipe.steps(len(trained.supervised)))
    course.save()  # what follows training may be stopped too
    return memory.curve


def digest(*parts: Any) -> str:
    """Return a digest of JSON-ready values."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _claim(folder: Path, identity: str) -> None:
    """Make `folder` this run's own: checkpoints of a run of another identity are removed."""
    path = folder / "course.json"
    try:
        known = json.loads(path.read_text())["identity"]
    except (OSError, ValueError, KeyError):
        known = None
    if known != identity:
        remove_checkpoints(folder)
        write_json(path, {"identity": identity})
