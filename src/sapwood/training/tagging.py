"""The loss of an encoder that tags: rows of both stages under one head.

Every window of a text that is asked a question is a row; the loss is the mean over units. With
"valid" transitions it is the cross-entropy of each unit's tag among those that may answer the
question, with "learnt" ones that of the whole sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sapwood.errors import DataError
from sapwood.interfaces import Dropped, Example, Schema, Span
from sapwood.models.encoder import Encoder
from sapwood.models.windows import Framing, Pieced
from sapwood.readouts.chain import NEVER
from sapwood.readouts.scheme import Meaning, Question, Scheme, said
from sapwood.readouts.tags import Tags, barred, chained
from sapwood.training.heads import TrainedHead

CUT = 0.01  # more spans than this share end inside words: then every token is a unit
OTHERS = 2  # questions without an answer for each text, where each type is asked for
OVERLAPS = "overlaps another span, which is kept"
SEVERAL = "several labels on the same words, too rare to learn together"
INSIDE = "begins or ends inside a token, learnt as the whole token"
NOWHERE = "holds no token"
HEADLESS = "an answer without words of its own, in a task that asks for them"
SILENT = "an answer without words and without arguments"


@dataclass(frozen=True, kw_only=True)
class TagRow:
    """One row of tokens: `places` of the units that are asked, their `gold` tags, and `allowed`.

    `gold` counts within `allowed`, the tags that may answer this row's question.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]
    gold: tuple[int, ...]
    allowed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TaggingRows:
    """The training rows of both stages, and the spans that could not be written as they are."""

    rows: tuple[TagRow, ...]
    lost: tuple[Dropped, ...] = ()


def choose_scheme(
    tokenizer: Any,
    examples: Sequence[Example],
    schema: Schema,
    *,
    max_length: int,
    relations: bool = False,
) -> Scheme:
    """Return the scheme of training examples; whether spans may end inside words is counted.

    Raises DataError (E-DATA-120) when no example has anything to find.
    """
    scheme = Scheme.of(examples, schema, relations=relations)
    if not scheme.means:
        raise DataError(
            "E-DATA-120",
            "No training row holds a span to learn from.",
            fix="check the file: sapwood data check FILE",
        )
    pieced = Framing(tokenizer, max_length).pieced([e.text for e in examples])
    spans = [
        text.exact(*place) is not None
        for text, example in zip(pieced, examples, strict=True)
        for _, marked in said(example, relations, schema.heads)
        for place in marked
    ]
    return replace(scheme, pieces=spans.count(False) > CUT * len(spans))


def tagging_rows(
    tokenizer: Any, examples: Sequence[Example], scheme: Scheme, *, max_length: int, seed: int = 0
) -> TaggingRows:
    """Return the rows of `examples` under `scheme`, of at most `max_length` tokens each.

    Every word of every text is in a row. Beside the questions that examples answer there are some
    that have no answer: of relations, tails asked for as heads; where each type is asked for, two
    types that the text does not hold, drawn from `seed`.
    """
    framing = Framing(tokenizer, max_length, pieces=scheme.pieces)
    rng = np.random.default_rng(seed)
    rows: list[TagRow] = []
    lost: dict[str, list[int]] = {}
    pieced = framing.pieced([e.text for e in examples])
    for text, example in zip(pieced, examples, strict=True):
        for reason in _unasked(example, scheme):
            lost.setdefault(reason, []).append(example.row)
        for question, meant in _asked(example, scheme, rng):
            allowed = scheme.allowed(question)
            kinds = [scheme.tags[place][2:] for place in allowed[1::2]]
            runs = _runs(text, scheme, meant, kinds, lambda reason, n=example.row: (
                lost.setdefault(reason, []).append(n)
            ))  # fmt: skip
            tags = [0] * len(text.units)
            for first, end, kind in runs:
                tags[first:end] = [2 + 2 * kind] * (end - first)
                tags[first] -= 1
            words, about = "", None
            if question is not None:
                words, head = question.words(text.text), question.head
                about = None if head is None else text.covering(head.start, head.end)
            whole = [(first, end) for first, end, _ in runs]
            for window in framing.windows(text, words, about, whole):
                gold = tags[window.first : window.end]
                if gold[0] and gold[0] % 2 == 0:  # a run longer than windows share
                    gold[0] -= 1
                rows.append(
                    TagRow(ids=window.ids, places=window.places, gold=tuple(gold), allowed=allowed)
                )
    dropped = tuple(Dropped(reason=reason, rows=tuple(found)) for reason, found in lost.items())
    return TaggingRows(rows=tuple(rows), lost=dropped)


def _unasked(example: Example, scheme: Scheme) -> list[str]:
    """Return why frames of an example cannot be asked for, one reason a frame."""
    if scheme.heads:
        return [HEADLESS for frame in example.frames if frame.head is None]
    return [SILENT for frame in example.frames if not frame.arguments]


def _asked(
    example: Example, scheme: Scheme, rng: np.random.Generator
) -> Iterator[tuple[Question | None, Mapping[tuple[int, int], tuple[Meaning, ...]]]]:
    """Yield the questions for one example with their answers, those without one at the end."""
    known = dict(said(example, scheme.relations, bool(scheme.heads)))
    heads = known.get(None, {})
    for question, meant in known.items():
        if question is None or question.label in scheme.asked:
            yield question, meant
    if scheme.relations:
        tails = {span for f in example.frames for span in f.arguments}
        for span in sorted(tails):
            if (span.start, span.end) not in heads and span.label in scheme.asked:
                yield Question(label=span.label, head=Span(**vars(span))), {}
    if not scheme.heads:
        held = {question.label for question in known if question is not None}
        others = [label for label in scheme.asked if label not in held]
        for n in rng.permutation(len(others))[:OTHERS]:
            yield Question(label=others[n]), {}


def _runs(
    text: Pieced,
    scheme: Scheme,
    meant: Mapping[tuple[int, int], tuple[Meaning, ...]],
    kinds: Sequence[str],
    lose: Any,
) -> list[tuple[int, int, int]]:
    """Return (first unit, end, place among `kinds`) of spans, longest first where they overlap."""
    taken = [False] * len(text.units)
    runs = []
    for (start, end), meanings in sorted(meant.items(), key=lambda m: (m[0][0] - m[0][1], m[0])):
        kind = scheme.kind_of(meanings, kinds)
        units = text.covering(start, end)
        if units is None or not kind:
            lose(NOWHERE if units is None else SEVERAL)
            continue
        if any(taken[slice(*units)]):
            lose(OVERLAPS)
            continue
        if scheme.means[kind] != tuple(meanings):
            lose(SEVERAL)
        if text.characters(*units) != (start, end):
            lose(INSIDE)
        taken[slice(*units)] = [True] * (units[1] - units[0])
        runs.append((*units, kinds.index(kind)))
    return sorted(runs)


class TrainedTags(TrainedHead[Tags]):
    """Tags while they train; with learnt transitions `between` is a parameter too."""

    def __init__(self, start: Tags, *, device: str | torch.device = "cpu") -> None:
        super().__init__(start, device=device)
        count = len(start.labels) + 1
        between = np.zeros((count, count), np.float32) if start.between is None else start.between
        learnt = start.transitions == "learnt"
        self.between = nn.Parameter(torch.tensor(between, device=device), requires_grad=learnt)
        self.barred = barred(start.labels).to(device)

    def weights(self) -> dict[str, nn.Parameter]:
        """Return what trains, by name."""
        learnt = {"head.between": self.between} if self.between.requires_grad else {}
        return {**super().weights(), **learnt}

    def readout(self) -> Tags:
        """Return the head as it is now."""
        made = super().readout()
        if not self.between.requires_grad:
            return made
        return replace(made, between=self.between.detach().cpu().numpy().copy())

    def losses(self, logits: Sequence[Tensor], rows: Sequence[TagRow]) -> Tensor:
        """Return the summed loss of rows; `logits`: (units, labels) of each."""
        allowed = [row.allowed for row in rows]
        own = [one[:, list(places)] for one, places in zip(logits, allowed, strict=True)]
        gold = [torch.tensor(row.gold, device=self.weight.device) for row in rows]
        if not self.between.requires_grad:
            width = max(map(len, allowed))
            even = [functional.pad(x, (0, width - x.shape[1]), value=NEVER) for x in own]
            return functional.cross_entropy(torch.cat(even), torch.cat(gold), reduction="sum")
        chain = chained(own, allowed, self.between.masked_fill(self.barred, NEVER))
        paths = nn.utils.rnn.pad_sequence(gold, batch_first=True)
        return (chain.total() - chain.score(paths)).sum()


class TaggingSupervision:
    """The loss of tagging rows under a head, for `fit`.

    Raises ModelError (E-MODEL-030) when a row is longer than the base reads.
    """

    def __init__(self, encoder: Encoder, rows: Sequence[TagRow], head: TrainedTags) -> None:
        encoder.check_length([row.ids for row in rows])
        self.encoder, self.rows, self.head = encoder, rows, head

    def __len__(self) -> int:
        return len(self.rows)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of units that are asked about: the loss is their mean."""
        return max(1, sum(len(self.rows[n].gold) for n in numbers))

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) pack by pack for the rows `numbers`."""
        ids = [self.rows[n].ids for n in numbers]
        for part, states in self.encoder.packs(ids, budget=budget, gradient=True):
            rows = [self.rows[numbers[n]] for n in part]
            asked = [own[list(row.places)] for own, row in zip(states, rows, strict=True)]
            logits = self.head(torch.cat(asked)).split([len(row.places) for row in rows])
            yield self.head.losses(logits, rows), sum(map(len, states))
