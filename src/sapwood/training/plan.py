"""How many steps fit into a time budget: measured, written down, and kept when a run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapwood.errors import ConfigError, ResourceError
from sapwood.files import write_json
from sapwood.training.loop import Recipe, Supervised, fit

TRIAL_STEPS, TRIAL_SHARE, TRIAL_SECONDS = 3, 0.02, 10.0
# Of the time that is left: evaluations, checkpoints, and steps that take longer than the first.
SPARE = 0.12
# A forecast so far off changes the plan, as long as the rate is still constant.
OFF = 0.2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`steps` to train, of which `warm` warm up; `seconds`: the budget, 0 where steps were given.

    `step_seconds`: what one was measured to take; `revised`: earlier numbers of steps.
    """

    steps: int
    warm: int
    seconds: float = 0.0
    step_seconds: float = 0.0
    revised: tuple[int, ...] = ()

    @classmethod
    def of(cls, steps: int, warmup: float, **more: Any) -> Plan:
        """Return the plan of so many steps, a share of `warmup` of them for the warm-up."""
        return cls(steps=steps, warm=max(1, round(warmup * steps)), **more)

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this plan's warm-up."""
        return replace(recipe, warmup=self.warm / self.steps)


def read_plan(folder: Path, identity: str) -> Plan | None:
    """Return the plan that a run in `folder` began with, or None.

    Raises ConfigError (E-CONFIG-243) when the folder holds a run of other settings.
    """
    path = folder / "plan.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if known.pop("identity", None) != identity:
        raise ConfigError(
            "E-CONFIG-243",
            f"{folder.parent} holds a run with other settings, another corpus or another budget.",
            fix="repeat its command to go on with it, add --fresh to forget it, or choose another "
            "--out",
        )
    return Plan(**{**known, "revised": tuple(known["revised"])})


def write_plan(folder: Path, identity: str, plan: Plan) -> None:
    """Write the plan of the run in `folder`."""
    write_json(folder / "plan.json", {"identity": identity, **asdict(plan)})


def measured(
    supervised: Supervised, make: Any, weights: Mapping[str, Tensor], recipe: Recipe, seconds: float
) -> float:
    """Return the seconds of a step; the weights are afterwards what they were.

    `make()` gives an optimiser for the trial alone; `seconds`: the budget, of which it takes about
    2 %, at least 3 steps.
    """
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    state = torch.random.get_rng_state()
    began = time.perf_counter()
    taken: list[float] = []
    most = min(TRIAL_SHARE * seconds, TRIAL_SECONDS)
    for step in fit(supervised, make(), recipe, total=1000):
        taken.append(step.seconds)
        if len(taken) > TRIAL_STEPS and time.perf_counter() - began > most:
            break
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(before[name])
            weight.grad = None
    torch.random.set_rng_state(state)
    later = taken[1:]  # the first one allocates
    return sum(later) / len(later)


def planned(step_seconds: float, left: float, seconds: float, warmup: float) -> Plan:
    """Return the plan for `left` of a budget of `seconds`.

    Raises ResourceError (E-RESOURCE-045) when not even ten steps fit.
    """
    steps = int(left * (1 - SPARE) / step_seconds)
    if steps < 10:
        raise ResourceError(
            "E-RESOURCE-045",
            f"A step takes {step_seconds:.2g} s here, so {max(0, steps)} fit into what is left of "
            f"{seconds:.0f} s.",
            fix="a larger --budget, a smaller --model, or a smaller --batch-size",
        )
    return Plan.of(steps, warmup, seconds=seconds, step_seconds=step_seconds)


def revised(plan: Plan, done: int, step_seconds: float, left: float, decay: float) -> Plan:
    """Return the plan with the steps that the budget really has, where that is far from planned.

    `step_seconds`: what a step took so far; `left`: of the budget. It stays as it is without a
    budget, and once the rate has begun to fall.
    """
    falls = plan.steps - round(decay * plan.steps)
    if not plan.seconds or done <= plan.warm or done >= falls:
        return plan
    steps = done + max(0, int(left * (1 - SPARE) / step_seconds))
    if abs(steps - plan.steps) <= OFF * plan.steps:
        return plan
    steps = max(steps, int(done / (1 - decay)) + 2)
    return replace(plan, steps=steps, revised=(*plan.revised, plan.steps))
