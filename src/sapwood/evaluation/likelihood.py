"""How probable the wanted answers are, for a base that reads them under a context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch.nn import functional

from sapwood.context.answering import Answering, tokens_of
from sapwood.context.prompter import Prompter
from sapwood.evaluation.reader import Reader
from sapwood.interfaces import Answer, Example
from sapwood.methods.prompt import virtual_ids
from sapwood.models.decoder import NO_PREFIX, Prefix
from sapwood.models.generate import next_logits
from sapwood.models.layout import Row
from sapwood.tasks.supervised import SupervisedRow

POSITIONS = 64  # logits held at once while answers are scored: 64 MB of Gemma's vocabulary


class Likelihood:
    """Wanted answers scored as they are trained: rows of at most `limit` tokens, ends included.

    `ends`: the tokens that end an answer of this base (see `turns.end_ids`).
    """

    def __init__(self, reader: Reader, limit: int, ends: Sequence[int]) -> None:
        self.reader, self.limit, self.ends = reader, limit, ends

    @torch.no_grad()
    def scored(self, rows: Sequence[Example]) -> list[Answer]:
        """Return how probable each row's wanted answer is, its end included."""
        found = [Answer(bytes=len((row.label or "").encode())) for row in rows]
        for numbers, form, prefix in self._forms(rows):
            some = [tokens_of(rows[n], form) for n in numbers]
            asked = [(n, row) for n, row in zip(numbers, some, strict=True) if row.learnt]
            for n, row in asked:
                found[n] = replace(found[n], tokens=len(row.learnt))
            for place, nats in self._nats([row for _, row in asked], prefix):
                n = asked[place][0]
                found[n] = replace(found[n], nats=found[n].nats + nats)
        return found

    def _nats(self, rows: Sequence[SupervisedRow], prefix: Prefix) -> Iterator[tuple[int, float]]:
        """Yield (place of the row, nats) for each learnt token of `rows` that follow `prefix`."""
        own = self.reader.virtual("suffix") if prefix.ids else virtual_ids(self.reader.decoder.net)
        packed = []
        for row in rows:
            first = row.shared if prefix.ids else 0
            ids = [*own, *row.ids[first : row.learnt[-1]]]
            packed.append(Row(ids=ids, wanted=[p - 1 - first + len(own) for p in row.learnt]))
        for owners, states in self.reader.decoder.hidden(packed, prefix):
            places = owners.tolist()
            gold = [rows[n].ids[p] for n in dict.fromkeys(places) for p in rows[n].learnt]
            wanted = torch.tensor(gold, device=states.device)
            for at in range(0, len(places), POSITIONS):
                part = slice(at, at + POSITIONS)
                logits = next_logits(self.reader.decoder, states[part])
                lost = functional.cross_entropy(logits, wanted[part], reduction="none")
                yield from zip(places[part], lost.tolist(), strict=True)

    def _forms(self, rows: Sequence[Example]) -> Iterator[tuple[Sequence[int], Answering, Prefix]]:
        """Yield (numbers of rows, how they are written, what they follow)."""
        spoken = [n for n, row in enumerate(rows) if row.turns]
        plain = [n for n, row in enumerate(rows) if not row.turns]
        if spoken:
            yield spoken, self._form(self.reader.prompter), NO_PREFIX
        if not plain:
            return
        if self.reader.context.sharing == "all":
            form = self._form(self.reader.prompter)
            yield plain, form, self.reader.prefix()
            return
        pool = self.reader.context.demonstrations
        chosen = self.reader.chooser.choose([rows[n].text for n in plain])
        for n, choice in zip(plain, chosen, strict=True):
            shown = tuple(pool[place] for place in choice)
            context = replace(self.reader.context, demonstrations=shown, sharing="all", groups=())
            yield [n], self._form(Prompter(self.reader.tokenizer, context)), NO_PREFIX

    def _form(self, prompter: Prompter) -> Answering:
        return Answering(prompter, max_length=self.limit, turns="last", stops=self.ends)
