"""Tags: a linear head over each unit's state, read as the best valid sequence, and spans of it.

Transitions are "valid": an I only follows a B or I of its kind, and nothing else is known of them;
or "learnt": each pair of neighbours also has a score that trains with the head (Lample et al. 2016,
arXiv 1603.01360). Either way the tags are the best path under those rules, and a span's probability
is that of all paths that hold just this span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sapwood.errors import ConfigError
from sapwood.interfaces import Floats
from sapwood.readouts.chain import NEVER, Chain
from sapwood.readouts.head import TokenHead
from sapwood.readouts.scheme import Scheme
from sapwood.registry import did_you_mean

TRANSITIONS = ("valid", "learnt")
ROWS = 64  # decoded at once


@dataclass(frozen=True, kw_only=True)
class Found:
    """The units `start` to `end` are of this `kind`; `probability`: of all paths that say so."""

    start: int
    end: int
    kind: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Tags(TokenHead):
    """A head whose labels are the tags of `scheme`, with what may follow what.

    `transitions` is one of TRANSITIONS; `between`: (labels + 1, labels + 1) scores of a tag (rows)
    and the next one (columns), the last row for the start and the last column for the end; None
    for all zero. Raises ConfigError (E-CONFIG-001) for other transitions.
    """

    scheme: Scheme
    transitions: str = "valid"
    between: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transitions not in TRANSITIONS:
            raise ConfigError(
                "E-CONFIG-001",
                f"Unknown transitions '{self.transitions}'."
                f"{did_you_mean(self.transitions, TRANSITIONS)}",
                fix=f"use one of: {', '.join(TRANSITIONS)}",
            )
        assert self.labels == self.scheme.tags, "the labels are the scheme's"

    @classmethod
    def start(
        cls, scheme: Scheme, width: int, *, transitions: str = "valid", seed: int = 0
    ) -> Self:
        """Return an untrained head over states of `width` numbers."""
        return cls.random(scheme.tags, width, seed=seed, scheme=scheme, transitions=transitions)

    @property
    def reads(self) -> str:
        """Return "states": of an encoder, one a unit."""
        return "states"

    def found(
        self, logits: Sequence[Tensor], allowed: Sequence[Sequence[int]]
    ) -> list[list[Found]]:
        """Return the spans of each sequence, in order.

        `logits`: (units, labels) of each; `allowed`: the labels that may answer it, as
        `Scheme.allowed` gives them.
        """
        answers: list[list[Found]] = [[] for _ in logits]
        order = sorted((n for n in range(len(logits)) if len(logits[n])),
                       key=lambda n: (len(logits[n]), len(allowed[n])))  # fmt: skip
        between = torch.zeros(len(self.labels) + 1, len(self.labels) + 1, dtype=torch.double)
        if self.between is not None:
            between += torch.tensor(self.between)
        between[barred(self.labels)] = NEVER
        for at in range(0, len(order), ROWS):
            part = order[at : at + ROWS]
            chosen = [list(allowed[n]) for n in part]
            # normalised, so that sums over long texts stay small
            emitted = [
                functional.log_softmax(logits[n].detach().cpu().double()[:, own], 1)
                for n, own in zip(part, chosen, strict=True)
            ]
            chain = chained(emitted, chosen, between)
            for n, found in zip(part, _spans(chain), strict=True):
                answers[n] = [
                    Found(start=s, end=e, kind=self.labels[allowed[n][tag]][2:], probability=p)
                    for s, e, tag, p in found
                ]
        return answers

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        settings, arrays = super().state()
        settings |= {"scheme": self.scheme.state(), "transitions": self.transitions}
        return settings, arrays if self.between is None else {**arrays, "between": self.between}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        between = arrays.get("between")
        return cls(
            labels=tuple(settings["labels"]),
            weight=np.asarray(arrays["weight"], np.float32),
            bias=np.asarray(arrays["bias"], np.float32),
            dropout=float(settings["dropout"]),
            scheme=Scheme.from_state(settings["scheme"]),
            transitions=str(settings["transitions"]),
            between=None if between is None else np.asarray(between, np.float32),
        )


def barred(tags: Sequence[str]) -> Tensor:
    """Return which tag (rows, then the start) may not be followed by which (columns, the end).

    >>> barred(["O", "B-a", "I-a"]).int().tolist()
    [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    """
    count = len(tags)
    wrong = torch.zeros(count + 1, count + 1, dtype=torch.bool)
    for after, tag in enumerate(tags):
        if tag[:2] == "I-":
            wrong[:, after] = True
            wrong[after - 1 : after + 1, after] = False  # each I stands after its B
    return wrong


def chained(emitted: Sequence[Tensor], allowed: Sequence[Sequence[int]], between: Tensor) -> Chain:
    """Return sequences of their own labels as one chain.

    `emitted`: (units, own labels) of each, at least one unit; `allowed`: which labels these are;
    `between`: see Tags, with NEVER where a step is barred.
    """
    rows, device = len(emitted), between.device
    steps, width = max(map(len, emitted)), max(map(len, allowed))
    places = torch.zeros(rows, width, dtype=torch.long)
    emissions = [
        functional.pad(
            functional.pad(one, (0, width - one.shape[1]), value=NEVER),
            (0, 0, 0, steps - len(one)),
        )
        for one in emitted
    ]
    for row, own in enumerate(allowed):
        places[row, : len(own)] = torch.tensor(own)
    places = places.to(device)
    outside = between.shape[0] - 1
    return Chain(
        emissions=torch.stack(emissions),
        starts=between[outside][places],
        pairs=between[places[:, :, None], places[:, None, :]],
        ends=between[:, outside][places],
        lengths=torch.tensor([len(one) for one in emitted], device=device),
    )


def _spans(chain: Chain) -> list[list[tuple[int, int, int, float]]]:
    """Return (start, end, place of the B, probability) of the spans of each row's best path."""
    ahead, behind = chain.forward(), chain.backward()
    whole = torch.logsumexp(ahead[:, -1] + chain.ends, 1)
    found = []
    for row, path in enumerate(chain.best()):
        own = []
        start = 0
        while start < len(path):
            tag, end = path[start], start + 1
            if tag == 0:
                start = end
                continue
            while end < len(path) and path[end] == tag + 1:
                end += 1
            log = ahead[row, start, tag]
            for step in range(start + 1, end):
                log = log + chain.pairs[row, path[step - 1], tag + 1]
                log = log + chain.emissions[row, step, tag + 1]
            last = path[end - 1]
            if end < len(path):
                leaves = chain.pairs[row, last] + chain.emissions[row, end] + behind[row, end]
                leaves[tag + 1] = NEVER
                log = log + torch.logsumexp(leaves, 0)
            else:
                log = log + chain.ends[row, last]
            own.append((start, end, tag, min(1.0, float((log - whole[row]).exp()))))
            start = end
        found.append(own)
    return found
