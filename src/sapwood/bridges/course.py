"""One training run of a bridge: events for the caller, checkpoints, and going on after a stop."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from sapwood.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from sapwood.files import write_json
from sapwood.interfaces import Event
from sapwood.training import Recipe, Step, Supervised, fit, make_optimiser

CHECKPOINT_SECONDS = 20.0
Curve = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Course:
    """What trains, on what, and where its checkpoints lie (nowhere without a `folder`).

    `weights`: the tensors that train, by name; `identity`: anything JSON-ready that decides the
    result: checkpoints of another one are removed, not resumed.
    """

    name: str
    supervised: Supervised
    weights: Mapping[str, Tensor]
    recipe: Recipe
    folder: Path | None = None
    identity: Any = None

    def steps(self) -> Generator[Event, None, Curve]:
        """Train to the end and return the curve; closing the generator saves a checkpoint."""
        optimiser = make_optimiser(list(self.weights.values()), self.recipe)
        total = self.recipe.steps(len(self.supervised))
        curve: Curve = {"step": [], "loss": [], "lr": [], "seconds": []}
        number = 0
        if self.folder is not None:
            _claim(self.folder, digest(self.identity, repr(self.recipe), len(self.supervised)))
            number, extra, _ = load_checkpoint(
                self.folder, weights=self.weights, optimiser=optimiser
            )
            curve = extra.get("curve", curve)

        def save() -> None:
            if self.folder is not None and number:
                save_checkpoint(
                    self.folder, step=number, weights=self.weights, optimiser=optimiser,
                    extra={"curve": curve},
                )  # fmt: skip

        saved = time.monotonic()
        try:
            for step in fit(self.supervised, optimiser, self.recipe, total=total, first=number + 1):
                number = step.number
                _record(curve, step)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    save()
                    saved = time.monotonic()
                yield Event(
                    kind="progress", candidate=self.name, done=number, total=total,
                    note=_line(curve, step),
                )  # fmt: skip
        except GeneratorExit:  # the caller stops here, between two steps
            save()
            raise
        save()  # what follows training may be stopped too
        return curve


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


def _record(curve: Curve, step: Step) -> None:
    curve["step"].append(step.number)
    curve["loss"].append(step.loss)
    curve["lr"].append(step.learning_rate)
    curve["seconds"].append(step.seconds)


def _line(curve: Curve, step: Step) -> str:
    recent = curve["loss"][-10:]
    speed = step.tokens / max(step.seconds, 1e-9)
    return f"loss {sum(recent) / len(recent):.3f} · {speed:,.0f} tokens/s"
