"""Requests that wait for whole answers: labels with probabilities, what is in a text, vectors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from sapwood.adaptation import Adaptation
from sapwood.errors import ConfigError, SapwoodError
from sapwood.evaluation import Bases, answers_of
from sapwood.interfaces import Answer, Example
from sapwood.models.layout import Row
from sapwood.models.prefixes import NO_PREFIX, Prefix
from sapwood.pool.batch import Seat
from sapwood.pool.prompts import Prompts
from sapwood.pool.resident import Resident, label_inputs
from sapwood.pool.running import Runner
from sapwood.pool.shelf import Shelf
from sapwood.pool.wish import Found


class Place(Protocol):
    """Where questions are asked; see `Pool`."""

    base: str
    source: str
    bases: Bases
    shelf: Shelf
    prompts: Prompts | None
    runner: Runner


class Answers:
    """Asks the adaptations of a pool, in its batch where they can be mixed, else one alone."""

    def __init__(self, pool: Place) -> None:
        self.pool = pool

    def classify(self, model: str, texts: Sequence[str]) -> Found[dict[str, float]]:
        """See `Engine`."""
        resident = self._held(model, "labels no texts")
        try:
            made = resident.adaptation
            if made is None or answers_of(made):
                raise _unable(model, "labels no texts", made)
            found = self._label_rows(resident, made, texts)
            self.pool.shelf.count(model, 0, queries=len(texts))
            named = [dict(zip(made.labels, map(float, row), strict=True)) for row in found.values]
            return Found(values=named, prompt=found.prompt, cached=found.cached)
        finally:
            self.pool.shelf.memory.let_go(resident)

    def extract(self, model: str, texts: Sequence[str]) -> Found[Answer]:
        """See `Engine`."""
        resident = self._held(model, "finds nothing in texts")
        try:
            made = resident.adaptation
            if made is None or not answers_of(made):
                raise _unable(model, "finds nothing in texts", made)
            found: Found[Answer] = (
                self._alone(resident, texts)
                if resident.plain or resident.writer is None
                else self._written(resident, texts)
            )
            self.pool.shelf.count(model, found.written, queries=len(texts))
            return found
        finally:
            self.pool.shelf.memory.let_go(resident)

    def embed(self, model: str, texts: Sequence[str]) -> Found[list[float]]:
        """Return unit vectors of texts: of an encoder its pooled states, else the last token's.

        An adaptation's method acts where it can be mixed.
        """
        pool, cached = self.pool, 0
        if pool.prompts is None:
            vectors, tokens = pool.shelf.alone.run(lambda: self._encoded(texts)).result()
        else:
            resident = pool.shelf.hold(model)
            try:
                if resident is not None and resident.plain:
                    raise _unable(model, "gives no vectors", resident.adaptation)
                rows = [pool.prompts.plain(text) for text in texts]
                name = resident.key if resident is not None and resident.made else ""
                seats = [Row(ids=ids, wanted=(len(ids) - 1,)) for ids in rows]
                bare = NO_PREFIX if resident is None else resident.bare
                states = self._states(name, [(row, bare) for row in seats])
                vectors = np.stack([own[-1].float().cpu().numpy() for own in states])
                cached = bare.next_position * len(rows)
                tokens = cached + sum(map(len, rows))
            finally:
                pool.shelf.memory.let_go(resident)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        pool.shelf.count(model, 0, queries=len(texts))
        unit = (vectors / np.where(length > 0, length, 1)).tolist()
        return Found(values=unit, prompt=tokens, cached=cached)

    def _held(self, model: str, what: str) -> Resident:
        resident = self.pool.shelf.hold(model)
        if resident is None:
            raise _unable(model, what, None)
        return resident

    def _label_rows(self, resident: Resident, made: Adaptation, texts: Sequence[str]) -> Found[Any]:
        if resident.plain or resident.reader is None:
            return self._alone(resident, texts)
        asked = [resident.asked(text) for text in texts]
        assert self.pool.prompts is not None
        for ids, prefix in asked:
            self.pool.prompts.check(len(ids) + prefix.next_position, 0)
        name = resident.key if resident.made else ""
        states = self._states(name, [(resident.row(ids), prefix) for ids, prefix in asked])
        found = made.readout.probabilities(label_inputs(resident, states))  # type: ignore[attr-defined]
        rows = found if made.decision is None else made.decision.apply(found)
        cached = sum(prefix.next_position for _, prefix in asked)
        read = cached + sum(len(ids) for ids, _ in asked)
        return Found(values=list(rows), prompt=read, cached=cached)

    def _written(self, resident: Resident, texts: Sequence[str]) -> Found[Answer]:
        pool, writer = self.pool, resident.writer
        assert pool.prompts is not None and writer is not None
        prompts = [pool.prompts.extracting(text, resident) for text in texts]
        name = resident.key if resident.made else ""
        tokenizer = pool.prompts.tokenizer
        seats = [
            Seat(name=name, row=prompt.row, prefix=prompt.prefix, tell=_nothing,
                 growing=prompt.grow(0, tokenizer))
            for prompt in prompts
        ]  # fmt: skip
        self._sat(seats)
        growing = [seat.growing for seat in seats]
        said = [
            writer.answer(Example(text=text), own.ids, own.stopped)
            for text, own in zip(texts, growing, strict=True)
            if own is not None
        ]
        return Found(
            values=said,
            prompt=sum(prompt.tokens for prompt in prompts),
            cached=sum(prompt.prefix.next_position for prompt in prompts),
            written=sum(len(own.ids) for own in growing if own is not None),
        )

    def _states(self, name: str, rows: Sequence[tuple[Row, Prefix]]) -> list[Any]:
        """Return the wanted states of rows behind what they begin behind."""
        seats = [Seat(name=name, row=row, tell=_nothing, prefix=prefix) for row, prefix in rows]
        self._sat(seats)
        return [seat.states for seat in seats]

    def _sat(self, seats: Sequence[Seat]) -> None:
        """Let rows run to their end. Raises what one of them failed by."""
        left, done = {id(seat) for seat in seats}, threading.Event()

        def tell(seat: Seat) -> None:
            if seat.done:
                left.discard(id(seat))
                if not left:
                    done.set()

        for seat in seats:
            seat.tell = tell
        if seats:
            self.pool.runner.sit(seats)
            done.wait()
        for seat in seats:
            if seat.error is not None:
                raise seat.error
            if seat.cancelled:
                raise self.pool.runner.over()

    def _alone(self, resident: Resident, texts: Sequence[str]) -> Found[Any]:
        """Ask an adaptation by itself, with its method attached to the base's own net."""
        said = list(self.pool.shelf.alone.ask(resident, texts).result())
        return Found(values=said, prompt=_tokens(self.pool, resident, texts), cached=None)

    def _encoded(self, texts: Sequence[str]) -> tuple[Any, int]:
        bases, base = self.pool.bases, self.pool.source
        if bases.get(base).kind != "encoder":
            raise _unable(self.pool.base, "gives no vectors", None)
        tokens = sum(map(len, bases.tokens(base, texts)))
        return bases.embed(base, texts), tokens


def _tokens(pool: Place, resident: Resident, texts: Sequence[str]) -> int:
    """Return the tokens of texts as the base of an adaptation counts them, 0 without a base."""
    made = resident.adaptation
    if made is None or made.base is None:
        return 0
    if pool.prompts is None:
        return sum(map(len, pool.bases.tokens(pool.source, texts)))
    return sum(pool.prompts.count(text) for text in texts)


def _nothing(seat: Seat) -> None:
    """Tell nobody."""


def _unable(model: str, what: str, made: Adaptation | None) -> SapwoodError:
    task = f" It does the task '{made.task}'." if made is not None else ""
    return ConfigError(
        "E-CONFIG-281", f"'{model}' {what}.{task}", fix="see what each model does: GET /v1/models"
    )
