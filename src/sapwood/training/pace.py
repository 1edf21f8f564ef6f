"""How long training takes, found by a step that changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from sapwood.models.layout import tokens_at_once
from sapwood.training.loop import Optimiser, Recipe, Supervised, batch_of, gradients

FEW, MANY = 4, 16  # rows of the two steps that are timed; between them lies what a step costs
SLOW, OF_SLOW = 0.5, (2, 6)  # seconds of a row from which so few rows of each tell enough


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that one row takes, forwards and backwards, and what a step takes besides."""

    row: float
    besides: float

    def step(self, rows: int) -> float:
        """Return the seconds of an optimiser step over so many rows.

        >>> Pace(row=0.5, besides=0.25).step(4)
        2.25
        """
        return rows * self.row + self.besides


def paced(supervision: Supervised, optimiser: Optimiser, recipe: Recipe) -> Pace:
    """Measure the pace of training; weights, optimiser and random state are then as before.

    Raises ResourceError (E-RESOURCE-010) when one row does not fit the memory.
    """
    device = optimiser.param_groups[0]["params"][0].device
    budget = tokens_at_once(recipe.pack_tokens, device)
    rows = batch_of(1, len(supervision), replace(recipe, batch_size=2 * FEW + MANY))
    first, rest = rows[:FEW], rows[FEW:]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # the first rows pay for allocations that the others reuse
        seconds, begun = _seconds(partial(_tokens, supervision, optimiser, first, budget), device)
        less, more = OF_SLOW if seconds > SLOW * len(first) else (FEW, MANY)
        groups = rest[:less] or rows, rest[less : less + more] or rows
        few, many = (
            _seconds(partial(_tokens, supervision, optimiser, own, budget), device)
            for own in groups
        )
    before = optimiser.state_dict()
    _seconds(partial(_still, optimiser), device)
    change, _ = _seconds(partial(_still, optimiser), device)
    optimiser.load_state_dict(before)
    optimiser.zero_grad(set_to_none=True)
    tokens = many[1] - few[1]
    token = (many[0] - few[0]) / tokens if tokens > 0 else 0.0
    if token <= 0:  # too noisy to tell what a step costs from what its tokens cost
        token = many[0] / many[1]
    mean = (begun + few[1] + many[1]) / sum(map(len, (first, *groups)))
    return Pace(row=token * mean, besides=change + max(0.0, few[0] - few[1] * token))


def _tokens(
    supervision: Supervised, optimiser: Optimiser, numbers: Sequence[int], budget: int
) -> int:
    """Run some rows forwards and backwards; return the tokens computed."""
    _, tokens, _ = gradients(supervision, optimiser, numbers, budget)
    return tokens


def _still(optimiser: Optimiser) -> int:
    """Make a step of no size."""
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    optimiser.step()
    return 0


def _seconds(work: Callable[[], int], device: torch.device) -> tuple[float, int]:
    """Return the seconds that `work` takes, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, found
