"""Objectives put together: two targets in one example (a sum), or one by turns (a mix)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from sapwood.errors import ConfigError
from sapwood.interfaces import Integers
from sapwood.objectives.nsp import Pairwise, target
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import Arrays, Measure, Objective, Window


@dataclass(frozen=True, kw_only=True)
class Sum(Objective):
    """An objective on tokens and one on pairs, in one example: mlm+nsp, mlm+sop, plm+nsp.

    `tokens` hides tokens of the pairs that `pair` makes; the loss is the sum of both. Raises
    ConfigError (E-CONFIG-203) when the two cannot be in one example.
    """

    name: ClassVar[str] = "sum"
    layout: ClassVar[str] = "pairs"
    tokens: Objective
    pair: Pairwise

    def __post_init__(self) -> None:
        if not self.tokens.joins or not isinstance(self.pair, Pairwise):
            raise ConfigError(
                "E-CONFIG-203",
                f"'{self.tokens}' and '{self.pair}' cannot be in one example.",
                fix="add nsp or sop to mlm, rtd or plm, as mlm+nsp; others take turns: mix(a+b)",
            )

    def __str__(self) -> str:
        return f"{self.tokens}+{self.pair}"

    @property
    def trains(self) -> str:
        """Return the kind of net of the tokens' objective."""
        return self.tokens.trains

    def check(self, vocabulary: Vocabulary) -> None:
        """See `Objective`."""
        vocabulary.require(str(self), (*self.tokens.needs, *self.pair.needs))

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: the frame is that of the tokens' objective."""
        frame = self.tokens.frame(vocabulary)
        return Measure(capacity=length, overhead=frame.overhead(pair=True))

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return the arrays of the tokens' objective, and next_sentence_label ()."""
        return self.tokens.example(window, rng, vocabulary) | target(window)

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`."""
        return self.tokens.original(example, vocabulary)

    def evaluated(self) -> Self:
        """See `Objective`."""
        return replace(self, tokens=self.tokens.evaluated(), pair=self.pair.evaluated())


def pair_of(objective: Objective) -> Pairwise:
    """Return the part of an objective on pairs that makes them."""
    pair = objective.pair if isinstance(objective, Sum) else objective
    assert isinstance(pair, Pairwise)
    return pair


@dataclass(frozen=True, kw_only=True)
class Mix(Objective):
    """Objectives that take turns: each example is made by one of them, drawn by its share.

    `members`: two or more for one kind of net, none on pairs; a decoder's may stand beside those of
    a prefix decoder, which then sees no prefix. `weights`: their shares, of any sum. Raises
    ConfigError: E-CONFIG-202 for wrong weights, E-CONFIG-203 for members that do not go together.
    """

    name: ClassVar[str] = "mix"
    members: tuple[Objective, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        problems = []
        if len(self.weights) != len(self.members):
            problems.append(f"{len(self.members)} members have {len(self.weights)} weights")
        problems += [f"a weight must be above 0, not {w}" for w in self.weights if not w > 0]
        if problems:
            fix = "write it as mix(0.7*clm+0.3*fim)"
            what = "The weights of the mix are wrong."
            raise ConfigError("E-CONFIG-202", what, details=problems, fix=fix)
        nets = {member.trains for member in self.members}
        if nets == {"decoder", "prefix"}:
            nets = {"prefix"}
        problems = [f"'{m}' makes pairs" for m in self.members if m.placed == "pairs"]
        problems += [f"'{m}' is a mix itself" for m in self.members if isinstance(m, Mix)]
        if len(nets) > 1:
            problems.append(f"they train different nets: {', '.join(sorted(nets))}")
        if len(self.members) < 2:
            problems.append("a mix has two members or more")
        if problems:
            fix = "write it as mix(0.7*span+0.3*prefix_lm(form=pair))"
            raise ConfigError(
                "E-CONFIG-203", "These objectives cannot take turns.", details=problems, fix=fix
            )

    def __str__(self) -> str:
        rows = zip(self.weights, self.members, strict=True)
        return f"mix({'+'.join(f'{weight:g}*{member}' for weight, member in rows)})"

    @property
    def trains(self) -> str:
        """Return the kind of net that all members train."""
        nets = {member.trains for member in self.members}
        return "prefix" if "prefix" in nets else nets.pop()

    @property
    def placed(self) -> str:
        """Return "single" when a member asks for it, else "packed"."""
        alone = any(member.placed == "single" for member in self.members)
        return "single" if alone else "packed"

    def check(self, vocabulary: Vocabulary) -> None:
        """See `Objective`."""
        for member in self.members:
            member.check(vocabulary)

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """See `Objective`: what fits every member."""
        return tightest([member.measure(length, vocabulary) for member in self.members])

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return the arrays of one member, and its number `member` ()."""
        number = drawn(self.weights, rng)
        made = self.members[number].example(window, rng, vocabulary)
        if self.trains == "prefix":
            made.setdefault("prefix", np.array(0))
        return made | {"member": np.array(number)}

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """See `Objective`."""
        return self.members[int(example["member"])].original(example, vocabulary)

    def evaluated(self) -> Self:
        """See `Objective`."""
        return replace(self, members=tuple(member.evaluated() for member in self.members))


def tightest(measures: list[Measure]) -> Measure:
    """Return a measure whose pieces fit all of `measures`."""
    tail = max(m.tail for m in measures)
    overhead = max(m.overhead for m in measures)
    return Measure(capacity=min(m.room for m in measures) + overhead, overhead=overhead, tail=tail)


def drawn(weights: tuple[float, ...], rng: np.random.Generator) -> int:
    """Return the number of a member, drawn by its weight."""
    steps = np.cumsum(weights)
    return min(int(np.searchsorted(steps, rng.random() * steps[-1], "right")), len(weights) - 1)
