"""Training: `fit` is a generator of steps, a `Supervised` turns examples into a loss.

Rows are packed without padding over one shared prefix; the head is computed at supervised
positions only, and for a verbalizer over the rows of the label words only. `Supervision` is the
one with a label a row; soft labels and rows with many targets are in `bridges`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sapwood.errors import ConfigError, ModelError, ResourceError
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix
from sapwood.models.labels import LabelHead
from sapwood.models.layout import Row, build_pack, split_by_budget
from sapwood.models.trie import LabelTrie


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    `learning_rate` > 0, reached after a linear warm-up over `warmup` of the steps, then a cosine
    down to a tenth; `batch_size` examples a step; `clip`: largest gradient norm; `pack_tokens`:
    tokens computed at once (a step splits into as many packs as it needs, same loss); `loss`:
    "labels" (among the tokens that continue some label) or "vocabulary" (language modelling).
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

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be above 0, got {getattr(self, name)}"
            for name in ("learning_rate", "batch_size", "epochs", "clip", "pack_tokens")
            if not getattr(self, name) > 0
        ]
        if self.loss not in ("labels", "vocabulary"):
            problems.append(f"loss must be 'labels' or 'vocabulary', got '{self.loss}'")
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


@dataclass(frozen=True, kw_only=True)
class Target:
    """One example ready for training.

    `row`: prompt and answer tokens, wanted where an answer token is predicted; `nodes`: the trie
    node of each wanted position; `answers`: the token to predict there.
    """

    row: Row
    nodes: tuple[int, ...]
    answers: tuple[int, ...]


def target(prompt: Sequence[int], label: int, trie: LabelTrie) -> Target:
    """Return the training target of one prompt whose answer is label number `label`."""
    path = trie.paths[label]
    answers = tuple(token for _, token in path)
    ids = [*prompt, *answers[:-1]]
    wanted = range(len(prompt) - 1, len(ids))
    return Target(row=Row(ids=ids, wanted=wanted), nodes=tuple(n for n, _ in path), answers=answers)


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


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What all rows of a training run follow: one of the two, or nothing.

    `shared`: token ids that are computed in every pack and carry gradients (the method acts on
    everything); `prefix` returns an encoded prefix: the method acts on the rows only, and gradients
    reach the keys and values if they are what is trained. It is called once a pack.
    """

    shared: tuple[int, ...] = ()
    prefix: Callable[[], Prefix] = lambda: NO_PREFIX

    @property
    def length(self) -> int:
        """Return the position at which rows begin."""
        return len(self.shared) or self.prefix().next_position


def packed(
    decoder: Decoder, rows: Sequence[Row], seat: Seat, budget: int
) -> Iterator[tuple[list[int], Tensor, int]]:
    """Yield (row numbers, states of their wanted tokens (wanted, hidden), tokens) a pack at a time.

    States are in the order of the row numbers and keep the graph for a backward pass.
    """
    room = max(1, budget - len(seat.shared))
    for part in split_by_budget([len(row.ids) for row in rows], room):
        pack = build_pack(
            [rows[n] for n in part],
            shared=seat.shared,
            device=decoder.device,
            **seat.prefix().seat,
        )
        yield part, decoder.run(pack), pack.ids.shape[1]


def check_trainable(decoder: Decoder, rows: Sequence[Row], seat: Seat) -> None:
    """Raise ModelError: E-MODEL-031 the base cannot be packed, E-MODEL-030 a row is too long."""
    if decoder.why_padded:
        raise ModelError(
            "E-MODEL-031",
            f"This base cannot be tuned yet: {decoder.why_padded}.",
            fix="prompt it instead, or choose a Llama, Qwen, Gemma 3 or GPT-2 kind",
        )
    decoder.check_length([len(row.ids) for row in rows], seat.length)


class Supervision:
    """The loss of examples, each with one label, under one prefix.

    `shared`, `prefix`: see Seat; `prefix` may be encoded already or a function that returns it.
    """

    def __init__(
        self,
        decoder: Decoder,
        targets: Sequence[Target],
        trie: LabelTrie,
        *,
        shared: Sequence[int] = (),
        prefix: Prefix | Callable[[], Prefix] = NO_PREFIX,
        loss: str = "labels",
    ) -> None:
        given = prefix
        self.seat = Seat(
            shared=tuple(shared), prefix=(lambda: given) if isinstance(given, Prefix) else given
        )
        check_trainable(decoder, [t.row for t in targets], self.seat)
        self.decoder, self.targets, self.trie, self.loss = decoder, targets, trie, loss
        self.head = LabelHead(decoder.net, trie)

    def __len__(self) -> int:
        return len(self.targets)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return what the loss is averaged over: examples, or answer tokens for "vocabulary"."""
        if self.loss == "labels":
            return len(numbers)
        return sum(len(self.targets[n].answers) for n in numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the examples `numbers`."""
        chosen = [self.targets[n] for n in numbers]
        rows = [target.row for target in chosen]
        for part, states, tokens in packed(self.decoder, rows, self.seat, budget):
            yield self._loss(states, [chosen[n] for n in part]), tokens

    def _loss(self, states: Tensor, targets: Sequence[Target]) -> Tensor:
        answers = [token for t in targets for token in t.answers]
        if self.loss == "labels":
            return self.head.loss(states, [node for t in targets for node in t.nodes], answers)
        logits = self.decoder.net.get_output_embeddings()(states).float()
        wanted = torch.tensor(answers, device=states.device)
        return functional.cross_entropy(logits, wanted, reduction="sum")


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
    """Return the rate of step `step` (from 1): linear warm-up, then a cosine down to a tenth."""
    warm = max(1, round(recipe.warmup * total))
    if step <= warm:
        return recipe.learning_rate * step / warm
    share = (step - warm) / max(1, total - warm)
    return recipe.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def batch_of(step: int, examples: int, recipe: Recipe) -> list[int]:
    """Return the example numbers of step `step` (from 1).

    Each epoch is a permutation drawn from (seed, epoch), so any step is known without its past.
    """
    first = (step - 1) * recipe.batch_size
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
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    total: int,
    first: int = 1,
) -> Iterator[Step]:
    """Yield after every optimiser step; the caller logs, evaluates, saves or stops in its loop.

    `first`: the step to begin with when a checkpoint was loaded. Out of memory halves the tokens
    computed at once and repeats the step: the loss stays the same. Raises ModelError
    (E-MODEL-032) when the loss is no longer finite, ResourceError when one row does not fit.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    budget = recipe.pack_tokens
    for number in range(first, total + 1):
        started = time.perf_counter()
        rate = learning_rate(recipe, number, total)
        for group in optimiser.param_groups:
            group["lr"] = rate
        numbers = batch_of(number, len(supervision), recipe)
        while True:
            try:
                loss, tokens = _backward(supervision, optimiser, numbers, budget)
                break
            except (RuntimeError, MemoryError) as error:
                budget = _smaller(budget, error)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ModelError(
                "E-MODEL-032",
                f"Training diverged at step {number} of {total}: loss {loss}, gradient norm "
                f"{norm}, learning rate {rate:.2g}.",
                fix=f"lower the rate: --learning-rate {recipe.learning_rate / 3:.1g}",
            )
        optimiser.step()
        yield Step(
            number=number,
            total=total,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=tokens,
            seconds=time.perf_counter() - started,
        )


def _backward(
    supervision: Supervised,
    optimiser: torch.optim.Optimizer,
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


def _smaller(budget: int, error: RuntimeError | MemoryError) -> int:
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
