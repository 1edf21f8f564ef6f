"""The loop: `fit` is a generator of optimiser steps; a `Supervised` gives their loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sapwood.checkpoint import Stateful
from sapwood.errors import ConfigError, ModelError, ResourceError
from sapwood.models.layout import tokens_at_once

COURSE = 8  # steps whose mean loss is compared with the first ones'


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    `learning_rate` > 0, reached after a linear warm-up over `warmup` of the steps, then a cosine
    down to a tenth; `batch_size` examples a step; `clip`: largest gradient norm; `pack_tokens`:
    tokens computed at once on a CPU, more elsewhere (a step splits into as many packs as it needs,
    same loss); `loss`: "labels" (among the tokens that continue some label) or "vocabulary"
    (language modelling). `schedule`: "cosine", or "stable", the full rate until the last `decay` of
    the steps. `order`: "shuffled" epochs, or "stream": examples are numbered in the order they
    come, without end.
    """

    learning_rate: float = 1e-3
    batch_size: int = 16
    epochs: float = 3.0
    warmup: float = 0.06
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    pack_tokens: int = 2048
    loss: str = "labels"
    schedule: str = "cosine"
    decay: float = 0.2
    order: str = "shuffled"

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be above 0, got {getattr(self, name)}"
            for name in ("learning_rate", "batch_size", "epochs", "clip", "pack_tokens")
            if not getattr(self, name) > 0
        ]
        if self.loss not in ("labels", "vocabulary"):
            problems.append(f"loss must be 'labels' or 'vocabulary', got '{self.loss}'")
        if self.schedule not in ("cosine", "stable"):
            problems.append(f"schedule must be 'cosine' or 'stable', got '{self.schedule}'")
        if self.order not in ("shuffled", "stream"):
            problems.append(f"order must be 'shuffled' or 'stream', got '{self.order}'")
        if problems:
            raise ConfigError("E-CONFIG-040", "The training recipe is wrong.", details=problems)

    def steps(self, examples: int) -> int:
        """Return the number of optimiser steps for so many examples."""
        return max(1, round(self.epochs * examples / self.batch_size))


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step: its number from 1, the mean loss and what it cost."""

    number: int
    total: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


class Optimiser(Stateful, Protocol):
    """What `fit` needs of an optimiser; torch's have it, and `training.optimisers`."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Change the weights."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        ...


class Supervised(Protocol):
    """What `fit` trains on: numbered examples and their loss."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return what the summed loss of the examples `numbers` is divided by."""
        ...

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) in parts of about `budget` tokens."""
        ...


def make_optimiser(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW over `parameters` as the recipe wants it."""
    return torch.optim.AdamW(
        parameters,
        lr=recipe.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=recipe.weight_decay,
        foreach=True,
    )


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Return the rate of step `step` (from 1): linear warm-up, then a cosine down to a tenth.

    "stable": after the warm-up it stays, and falls towards 0 as 1 - sqrt(share) over the last steps
    (Hägele et al. 2024, arXiv 2405.18392).
    """
    warm = max(1, round(recipe.warmup * total))
    if step <= warm:
        return recipe.learning_rate * step / warm
    if recipe.schedule == "stable":
        falling = min(round(recipe.decay * total), total - warm)
        fallen = max(0, step - (total - falling)) / (falling + 1)
        return recipe.learning_rate * (1 - math.sqrt(fallen))
    share = (step - warm) / max(1, total - warm)
    return recipe.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def batch_of(step: int, examples: int, recipe: Recipe) -> list[int]:
    """Return the example numbers of step `step` (from 1).

    Each epoch is a permutation drawn from (seed, epoch), so any step is known without its past.
    """
    first = (step - 1) * recipe.batch_size
    if recipe.order == "stream":
        return list(range(first, first + recipe.batch_size))
    numbers: list[int] = []
    orders: dict[int, Any] = {}
    for place in range(first, first + min(recipe.batch_size, examples)):
        epoch, index = divmod(place, examples)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng((recipe.seed, epoch)).permutation(examples)
        numbers.append(int(orders[epoch][index]))
    return numbers


def fit(
    supervision: Supervised,
    optimiser: Optimiser,
    recipe: Recipe,
    *,
    total: int,
    first: int = 1,
) -> Iterator[Step]:
    """Yield after every optimiser step; the caller logs, evaluates, saves or stops in its loop.

    `first`: the step to begin with when a checkpoint was loaded. Out of memory halves the tokens
    computed at once and repeats the step: the loss stays the same. Raises ModelError
    (E-MODEL-032) when the loss is no longer finite or rises far above its start, ResourceError when
    one row does not fit.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    budget = tokens_at_once(recipe.pack_tokens, parameters[0].device)
    course: list[float] = []
    for number in range(first, total + 1):
        started = time.perf_counter()
        rate = learning_rate(recipe, number, total)
        for group in optimiser.param_groups:
            group["lr"] = rate
        numbers = batch_of(number, len(supervision), recipe)
        loss, tokens, budget = gradients(supervision, optimiser, numbers, budget)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ModelError(
                "E-MODEL-032",
                f"Training diverged at step {number} of {total}: loss {loss}, gradient norm "
                f"{norm}, learning rate {rate:.2g}.",
                fix=f"lower the rate: --learning-rate {recipe.learning_rate / 3:.1g}",
            )
        optimiser.step()
        course.append(loss)
        _check_course(course, number, total, recipe)
        yield Step(
            number=number,
            total=total,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=tokens,
            seconds=time.perf_counter() - started,
        )


def _check_course(losses: Sequence[float], number: int, total: int, recipe: Recipe) -> None:
    """Raise ModelError (E-MODEL-032) when the loss has risen far above where it began.

    Twice its first mean, and 2 nats above it: chance over any labels is not so far from a start.
    """
    if len(losses) < 2 * COURSE:
        return
    first, last = (sum(part) / COURSE for part in (losses[:COURSE], losses[-COURSE:]))
    if last > max(2 * first, first + 2):
        raise ModelError(
            "E-MODEL-032",
            f"Training diverged: at step {number} of {total} the loss is {last:.2f}, it began at "
            f"{first:.2f}; learning rate {learning_rate(recipe, number, total):.2g}.",
            fix=f"lower the rate: --learning-rate {recipe.learning_rate / 3:.1g}",
        )


def gradients(
    supervision: Supervised, optimiser: Optimiser, numbers: Sequence[int], budget: int
) -> tuple[float, int, int]:
    """Leave the gradients of some rows in the weights; return (mean loss, tokens, budget).

    Lack of memory halves the budget as often as it takes, and the gradients are the same. Raises
    ResourceError (E-RESOURCE-010) when one row does not fit.
    """
    while True:
        try:
            return *_backward(supervision, optimiser, numbers, budget), budget
        except (RuntimeError, MemoryError) as error:
            budget = smaller_budget(budget, error)


def _backward(
    supervision: Supervised,
    optimiser: Optimiser,
    numbers: Sequence[int],
    budget: int,
) -> tuple[float, int]:
    optimiser.zero_grad(set_to_none=True)
    count = supervision.supervised(numbers)
    loss, tokens = 0.0, 0
    for part, used in supervision.losses(numbers, budget):
        (part / count).backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach()) / count
        tokens += used
    return loss, tokens


def smaller_budget(budget: int, error: RuntimeError | MemoryError) -> int:
    """Return half of `budget`, the tokens computed at once, after an `error` for lack of memory.

    Another error is raised again; ResourceError (E-RESOURCE-010) when there is nothing to halve.
    """
    words = str(error).lower()
    if not isinstance(error, MemoryError) and "memory" not in words:
        raise error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if budget < 64:
        raise ResourceError(
            "E-RESOURCE-010",
            "There is not enough memory for a single example.",
            fix="shorter texts (--max-length 128), a smaller base, or close other programs",
        ) from None
    return budget // 2
