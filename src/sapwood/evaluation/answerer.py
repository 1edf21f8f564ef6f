"""Adaptations whose answers are found in the text or written: from rows to Answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sapwood.adaptation import Adaptation, seed
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.labeller import Labeller
from sapwood.evaluation.reader import Extras
from sapwood.evaluation.tagger import Tagger
from sapwood.evaluation.writer import Writer
from sapwood.interfaces import Answer, Example
from sapwood.methods import parts
from sapwood.methods.folder import attach_trained
from sapwood.models.choosing import Sampling
from sapwood.readouts.labels import Sigmoid
from sapwood.readouts.tags import Tags
from sapwood.readouts.written import Written
from sapwood.tasks.structured import task_named
from sapwood.tasks.written import write


class Answerer:
    """An adaptation over its loaded base. Use as a context manager: leaving detaches the method.

    Raises ModelError (E-MODEL-050) when the base's weights are not those it was made for.
    """

    def __init__(self, adaptation: Adaptation, bases: Bases, *, stored: bool = False) -> None:
        self.adaptation, self.bases, self.stored = adaptation, bases, stored
        self.task = task_named(adaptation.task)
        self.tokens = 0
        self.asked: Any = None
        self._net: Any = None
        for ref in (adaptation.base, adaptation.embedder):
            if ref is not None:
                bases.expect(ref)

    def __enter__(self) -> Answerer:
        made = self.adaptation
        if made.base is None:
            self.asked = made.readout
            return self
        if made.method is not None:
            self._net = self.bases.get(made.base.name).net
            attach_trained(self._net, made.method, made.weights, where="the adaptation")
        readers = {"states": self._tagger, "features": self._labeller}
        self.asked = readers.get(made.reads, self._writer)()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._net is not None:
            parts.detach(self._net)
            self._net = None

    def said(self, rows: Sequence[Example]) -> list[Answer]:
        """Return an answer for each row; of free text the likelihood of the wanted one is added.

        Free text is written for rows without a wanted answer only (see `write`).
        """
        if self.task.family != "generation":
            return [self._worded(r, a) for r, a in zip(rows, self.found(rows), strict=True)]
        wanted = [row.label is not None for row in rows]
        if all(wanted):
            return self.scored(rows)
        return self.written(rows)

    def found(self, rows: Sequence[Example]) -> list[Answer]:
        """Return what is found in each text."""
        before = self.asked.tokens if hasattr(self.asked, "tokens") else 0
        asked = rows if isinstance(self.asked, Writer) else [row.text for row in rows]
        answers: list[Answer] = self.asked.answers(asked)
        if hasattr(self.asked, "tokens"):
            self.tokens += self.asked.tokens - before
        return answers

    def scored(self, rows: Sequence[Example]) -> list[Answer]:
        """Return how probable the wanted answers are."""
        before = getattr(self.asked, "tokens", 0)
        answers: list[Answer] = self.asked.scored(rows)
        self.tokens += getattr(self.asked, "tokens", 0) - before
        return answers

    def written(self, rows: Sequence[Example]) -> list[Answer]:
        """Return answers written out."""
        if isinstance(self.asked, Writer):
            return [several[0] for several in self.drawn(rows)]
        answers: list[Answer] = self.asked.written(rows)
        return answers

    def drawn(self, rows: Sequence[Example]) -> list[list[Answer]]:
        """Return all samples of each row, with their frames in words too (see `decode_by`)."""
        writer = self.asked
        assert isinstance(writer, Writer), "only a base that writes gives several answers"
        before = writer.tokens
        found = writer.drawn(rows)
        self.tokens += writer.tokens - before
        if self.task.family == "generation":
            return found
        return [
            [self._worded(row, one) for one in several]
            for row, several in zip(rows, found, strict=True)
        ]

    def decode_by(self, decoding: Sampling) -> None:
        """Write by these settings from now on, not by the adaptation's own."""
        assert isinstance(self.asked, Writer), "only a base that writes can be told how"
        self.asked.decoding = decoding

    def _worded(self, row: Example, answer: Answer) -> Answer:
        """Return an answer with its frames in words too."""
        if answer.words or self.task.name == "multi-label":
            return answer
        return replace(answer, words=write(self.task.name, row.text, answer.frames))

    def _tagger(self) -> Tagger:
        made = self.adaptation
        assert made.base is not None and isinstance(made.readout, Tags)
        base = self.bases.get(made.base.name)
        limit = min(base.max_length, made.max_text_tokens or base.max_length)
        encoder = self.bases.encoder(made.base.name)
        return Tagger(encoder, base.tokenizer, made.readout, max_length=limit)

    def _labeller(self) -> Labeller:
        made = self.adaptation
        assert made.base is not None and isinstance(made.readout, Sigmoid)
        return Labeller(self.bases, made.base.name, made.readout, limit=made.max_text_tokens)

    def _writer(self) -> Writer:
        made = self.adaptation
        assert made.base is not None and made.context is not None
        assert isinstance(made.readout, Written)
        seat = None
        if made.prefix is not None:
            seat = seed(made.prefix, self.bases.decoder(made.base.name))
        embedder = made.embedder.name if made.embedder else None
        extras = Extras(embedder=embedder, seat=seat, facts=made.facts, stored=self.stored)
        return Writer(
            self.bases, made.base.name, made.context, made.readout,
            scope=made.scope, extras=extras,
        )  # fmt: skip
