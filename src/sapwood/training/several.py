"""Several adaptations of one bank trained in one step on their shared base.

Each has its own examples, recipe, optimiser, clipping and end; the rows of all go through the base
together (cf. mLoRA, Ye et al., arXiv 2312.02515). Losses and weights are those of training one
after the other, up to rounding: dropout draws its own masks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapwood.checkpoint import load_checkpoint, save_checkpoint
from sapwood.errors import ConfigError
from sapwood.methods.bank import Bank
from sapwood.methods.sharing import Use
from sapwood.models.decoder import Prefix
from sapwood.models.layout import Row, build_pack, split_by_budget, tokens_at_once
from sapwood.models.recomputing import recomputing
from sapwood.training.heads import scaled_optimiser
from sapwood.training.labels import Supervision
from sapwood.training.loop import (
    Recipe,
    Step,
    batch_of,
    learning_rate,
    make_optimiser,
    smaller_budget,
)
from sapwood.training.optimisers import Joined

# Examples of one adaptation behind its in-pack prefix become one row with branches, so that the
# prefix runs once; attention over such a row is quadratic, so it is cut at so many tokens.
_TREE_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Member:
    """One training among several.

    `trains`: the adaptations of the bank that its optimiser holds, by default the one of its name;
    `use`: what an example goes through, by its number, by default that one; `total`: optimiser
    steps, by default those of the recipe.
    """

    name: str
    supervision: Supervision
    recipe: Recipe
    trains: tuple[str, ...] = ()
    use: Callable[[int], Use] | None = None
    total: int = 0

    def uses(self, number: int) -> Use:
        """Return what example `number` goes through."""
        return {self.name: 1.0} if self.use is None else self.use(number)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One step of all members: its number from 1, a Step for each that made one, by name.

    `stopped`: why a member ended here for good, by name; the others go on. `tokens`: computed.
    A member's own `seconds` are its share by tokens.
    """

    number: int
    steps: Mapping[str, Step]
    stopped: Mapping[str, str]
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A row of a pack: one example of a member, or several behind its prefix."""

    member: Member
    numbers: tuple[int, ...]
    row: Row

    @property
    def use(self) -> Use:
        return self.member.uses(self.numbers[0])


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one backward pass gave a member, added up over packs."""

    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class Several:
    """Members that train together; `steps` is a generator, as `fit` is.

    Raises ConfigError (E-CONFIG-099): two members of one name or that train one adaptation, nets
    that differ, rows kept by a cache.
    """

    def __init__(self, bank: Bank, members: Sequence[Member]) -> None:
        _check(bank, members)
        self.bank, self.members = bank, {member.name: member for member in members}
        self.weights = {m.name: _weights(bank, m) for m in members}
        self.optimisers = {m.name: _optimiser(bank, self.weights[m.name], m) for m in members}
        self.totals = {m.name: m.total or m.recipe.steps(len(m.supervision)) for m in members}
        self.done = dict.fromkeys(self.members, 0)
        self.stopped: dict[str, str] = {}
        self.number = 0
        most = max(member.recipe.pack_tokens for member in members)
        self._budget = tokens_at_once(most, bank.net.get_input_embeddings().weight.device)

    @property
    def going(self) -> list[Member]:
        """Return the members that have steps left and were not stopped."""
        return [
            member
            for name, member in self.members.items()
            if self.done[name] < self.totals[name] and name not in self.stopped
        ]

    def steps(self) -> Iterator[Round]:
        """Yield after every step of all members that still train; the caller logs, saves, stops.

        Out of memory halves the tokens computed at once and repeats the step. A member whose loss
        or gradient is not finite is stopped, its weights as they were before that step. Raises
        ResourceError when one row does not fit.
        """
        while going := self.going:
            started = time.perf_counter()
            self.number += 1
            while True:
                try:
                    made, norms = self._gradients(going)
                    break
                except (RuntimeError, MemoryError) as error:
                    self._budget = smaller_budget(self._budget, error)
            stopped, rates = {}, {}
            for member in going:
                name = member.name
                loss, norm = sum(made[name].losses), norms[name]
                rate = rates[name] = self._rate(member)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    stopped[name] = self._why(member, loss, norm)
                    continue
                for group in self.optimisers[name].param_groups:
                    group["lr"] = rate
                self.optimisers[name].step()
                self.done[name] += 1
            self.stopped |= stopped
            tokens = sum(sum(found.tokens) for found in made.values())
            seconds = time.perf_counter() - started
            steps = {}
            for name in (member.name for member in going if member.name not in stopped):
                own = sum(made[name].tokens)
                steps[name] = Step(
                    number=self.done[name],
                    total=self.totals[name],
                    loss=sum(made[name].losses),
                    learning_rate=rates[name],
                    gradient_norm=norms[name],
                    tokens=own,
                    seconds=seconds * own / tokens,
                )
            yield Round(
                number=self.number, steps=steps, stopped=stopped, tokens=tokens, seconds=seconds
            )

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> Path:
        """Write ``checkpoint-N`` with the weights and optimisers of all members."""
        state = {"done": self.done, "stopped": self.stopped, "extra": dict(extra or {})}
        return save_checkpoint(
            folder,
            step=self.number,
            weights=self._named(),
            optimiser=Joined(list(self.optimisers.values())),
            extra=state,
        )

    def resume(self, folder: Path) -> dict[str, Any]:
        """Go on from the newest checkpoint of `folder`, if there is one; return its `extra`."""
        number, state, _ = load_checkpoint(
            folder,
            weights=self._named(),
            optimiser=Joined(list(self.optimisers.values())),
        )
        if not number:
            return {}
        self.number, self.done, self.stopped = number, state["done"], state["stopped"]
        found: dict[str, Any] = state["extra"]
        return found

    def _named(self) -> dict[str, Tensor]:
        return {f"{m}/{n}": t for m, own in self.weights.items() for n, t in own.items()}

    def _rate(self, member: Member) -> float:
        return learning_rate(member.recipe, self.done[member.name] + 1, self.totals[member.name])

    def _why(self, member: Member, loss: float, norm: float) -> str:
        return (
            f"'{member.name}' diverged at step {self.done[member.name] + 1} of "
            f"{self.totals[member.name]}: loss {loss}, gradient norm {norm}, learning rate "
            f"{self._rate(member):.2g}. Lower its rate: {member.recipe.learning_rate / 3:.1g}"
        )

    def _gradients(self, going: Sequence[Member]) -> tuple[dict[str, _Found], dict[str, float]]:
        """Return losses and gradient norms by member, the gradients clipped and in place.

        Where a number is not finite, 0 x inf may have carried it to others: each runs alone then.
        """
        made, norms = self._backward(going), _clip(going, self.weights)
        losses = [sum(found.losses) for found in made.values()]
        if len(going) > 1 and not all(map(math.isfinite, (*losses, *norms.values()))):
            for member in going:
                made |= self._backward([member])
                norms |= _clip([member], self.weights)
        return made, norms

    def _backward(self, going: Sequence[Member]) -> dict[str, _Found]:
        made = {member.name: _Found() for member in going}
        numbers, counts = {}, {}
        for member in going:
            name, supervision = member.name, member.supervision
            self.optimisers[name].zero_grad(set_to_none=True)
            numbers[name] = batch_of(self.done[name] + 1, len(supervision), member.recipe)
            counts[name] = supervision.supervised(numbers[name])
        for prefix, members in _by_prefix(going):
            pieces = [piece for m in members for piece in _pieces(m, numbers[m.name])]
            lengths = [len(piece.row.ids) for piece in pieces]
            for part in split_by_budget(lengths, self._budget):
                chosen = [pieces[n] for n in sorted(part)]  # a member's rows stay together
                _run(self.bank, chosen, prefix, counts, made)
        return made


def _weights(bank: Bank, member: Member) -> dict[str, Tensor]:
    """Return what a member's optimiser holds, by name."""
    trains = member.trains or (member.name,)
    return {f"{a}/{path}": tensor for a in trains for path, tensor in bank.weights(a).items()}


def _run(
    bank: Bank,
    pieces: Sequence[_Piece],
    prefix: Prefix,
    counts: Mapping[str, int],
    made: Mapping[str, _Found],
) -> None:
    """Run one pack forward and backward."""
    decoder = pieces[0].member.supervision.decoder
    pack = build_pack([piece.row for piece in pieces], device=decoder.device, **prefix.seat)
    uses = {n: piece.use for n, piece in enumerate(pieces)}
    less = any(piece.member.supervision.lean.checkpointing for piece in pieces)
    with bank.using(uses, pack.rows), recomputing(decoder.net, less):
        states = decoder.run(pack)
        total = torch.zeros((), device=states.device)
        at = 0
        for member in dict.fromkeys(piece.member.name for piece in pieces):
            own = [piece for piece in pieces if piece.member.name == member]
            supervision = own[0].member.supervision
            size = sum(len(piece.row.wanted) for piece in own)
            targets = [supervision.targets[n] for piece in own for n in piece.numbers]
            mean = supervision.answer_loss(states[at : at + size], targets) / counts[member]
            at += size
            made[member].losses.append(float(mean.detach()))
            made[member].tokens.append(sum(len(piece.row.ids) for piece in own))
            total = total + mean
        total.backward()  # type: ignore[no-untyped-call]


def _clip(going: Sequence[Member], weights: Mapping[str, Any]) -> dict[str, float]:
    """Clip each member's gradients to its recipe's norm; return the norms they had."""
    clip = torch.nn.utils.clip_grad_norm_
    return {m.name: float(clip(weights[m.name].values(), m.recipe.clip)) for m in going}


def _optimiser(bank: Bank, weights: Mapping[str, Tensor], member: Member) -> torch.optim.Optimizer:
    """Return a member's optimiser; some methods let some tensors learn faster."""
    times = {
        f"{a}/{path}": bank.methods[a].rate(path)
        for a in member.trains or (member.name,)
        for path in bank.weights(a)
    }
    if all(factor == 1 for factor in times.values()):
        return make_optimiser(list(weights.values()), member.recipe)
    return scaled_optimiser(weights, member.recipe, times)


def _by_prefix(members: Sequence[Member]) -> Iterator[tuple[Prefix, list[Member]]]:
    """Yield the members that follow one encoded prefix, together; most follow none."""
    found: dict[int, tuple[Prefix, list[Member]]] = {}
    for member in members:
        prefix = member.supervision.seat.prefix()
        key = id(prefix) if prefix.layers else 0
        found.setdefault(key, (prefix, []))[1].append(member)
    yield from found.values()


def _pieces(member: Member, numbers: Sequence[int]) -> Iterator[_Piece]:
    """Yield the rows of a member's batch; what runs before all of them runs once in each."""
    shared, targets = member.supervision.seat.shared, member.supervision.targets
    part: list[int] = []
    for number in numbers:
        size = sum(len(targets[n].row.ids) for n in (*part, number))
        alike = not part or member.uses(number) == member.uses(part[0])
        if part and (not shared or not alike or len(shared) + size > _TREE_TOKENS):
            yield _piece(member, part)
            part = []
        part.append(number)
    if part:
        yield _piece(member, part)


def _piece(member: Member, numbers: Sequence[int]) -> _Piece:
    """Return examples as one row: the shared tokens, and each example as a branch after them."""
    shared = member.supervision.seat.shared
    rows = [member.supervision.targets[n].row for n in numbers]
    ids, parents, wanted = list(shared), list(range(-1, len(shared) - 1)), []
    for row in rows:
        first = len(ids)
        ids += row.ids
        own = row.parents or range(-1, len(row.ids) - 1)
        parents += [first + parent if parent >= 0 else len(shared) - 1 for parent in own]
        wanted += [first + place for place in row.wanted]
    plain = len(rows) == 1 and rows[0].parents is None
    whole = Row(ids=ids, wanted=wanted, parents=None if plain else parents)
    return _Piece(member=member, numbers=tuple(numbers), row=whole)


def _check(bank: Bank, members: Sequence[Member]) -> None:
    """Raise ConfigError (E-CONFIG-099) naming all that is wrong."""
    problems = [] if members else ["there is nothing to train"]
    seen: dict[str, str] = {}
    names = [member.name for member in members]
    problems += [f"'{name}' is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    for member in members:
        for adaptation in member.trains or (member.name,):
            bank.weights(adaptation)
            if adaptation in seen:
                problems.append(f"'{seen[adaptation]}' and '{member.name}' train '{adaptation}'")
            seen[adaptation] = member.name
        if member.supervision.decoder.net is not bank.net:
            problems.append(f"'{member.name}' has another net than the bank")
        if member.supervision.below is not None:
            problems.append(f"'{member.name}' keeps lower states on disk, which are one method's")
    if problems:
        raise ConfigError("E-CONFIG-099", "These cannot train together.", details=problems)
