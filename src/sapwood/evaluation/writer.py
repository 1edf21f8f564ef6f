"""A decoder that writes answers under a context, and scores wanted ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from sapwood.context.answering import Answering, tokens_of
from sapwood.context.prompter import Context, Prompter
from sapwood.context.turns import end_ids, render, shorter
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.chooser import Chooser
from sapwood.evaluation.reader import NOTHING, Extras, Reader
from sapwood.interfaces import Answer, Example, Turn
from sapwood.methods.prompt import virtual_ids
from sapwood.models.decoder import NO_PREFIX, Prefix
from sapwood.models.generate import Sampling, generate, next_logits
from sapwood.models.grammar import Guide, Guides
from sapwood.models.layout import Row
from sapwood.readouts.written import Written
from sapwood.tasks.grammars import grammar
from sapwood.tasks.supervised import SupervisedRow
from sapwood.tasks.written import parse

GUIDED = ("entities", "relations", "events", "multi-label")
POSITIONS = 64  # logits held at once while answers are scored: 64 MB of Gemma's vocabulary
LEAST_TOKENS = 16  # for an answer, however long the prompt is


class Writer:
    """Answers of a base under a context; a method may be attached, virtual tokens come first.

    Rows without turns are asked by the context's template, conversations by the base's chat
    template alone.
    """

    def __init__(
        self,
        bases: Bases,
        name: str,
        context: Context,
        readout: Written,
        *,
        scope: str = "all",
        extras: Extras = NOTHING,
    ) -> None:
        self.readout, self.context = readout, context
        self.reader = Reader(bases, name, context, (), scope=scope, extras=extras)
        if context.sharing != "all":  # every answer of the pool is a class of its own
            classes = tuple(sorted({str(d.label) for d in context.demonstrations}))
            self.reader.chooser = Chooser(bases, context, classes, extras.embedder)
        self.decoder, base = self.reader.decoder, bases.get(name)
        self.tokenizer = base.tokenizer
        self.limit = base.max_length
        named = getattr(self.decoder.net.generation_config, "eos_token_id", None)
        self.ends = end_ids(self.tokenizer, named)
        self._guides: Guides | None = None
        self.tokens = 0

    def answers(self, rows: Sequence[Example]) -> list[Answer]:
        """Return an answer for each row: its words, and what they say of the text."""
        found: list[Answer] = [Answer()] * len(rows)
        for numbers, prompts, prefix in self._asked(rows):
            before = self.decoder.tokens_run
            longest = max(map(len, prompts)) + prefix.next_position
            room = max(LEAST_TOKENS, min(self.readout.tokens, self.limit - longest))
            sampling = Sampling(
                tokens=room,
                temperature=self.readout.temperature,
                top_p=self.readout.top_p,
                stop_ids=self._stops(rows[numbers[0]]),
            )
            guides = [self._guide(rows[n].text) for n in numbers] if self._guided() else []
            made = generate(self.decoder, prompts, prefix, sampling=sampling, guides=guides)
            for n, (completion,) in zip(numbers, made, strict=True):
                found[n] = self._answer(rows[n], completion.ids, completion.stopped)
            self.tokens += self.decoder.tokens_run - before
        return found

    written = answers

    @torch.no_grad()
    def scored(self, rows: Sequence[Example]) -> list[Answer]:
        """Return how probable each row's wanted answer is, its end included."""
        found = [Answer(bytes=len((row.label or "").encode())) for row in rows]
        for numbers, form, prefix in self._forms(rows):
            some = [tokens_of(rows[n], form) for n in numbers]
            asked = [(n, row) for n, row in zip(numbers, some, strict=True) if row.learnt]
            before = self.decoder.tokens_run
            for place, nats in self._nats([row for _, row in asked], prefix):
                n = asked[place][0]
                found[n] = replace(found[n], nats=found[n].nats + nats)
            self.tokens += self.decoder.tokens_run - before
        return found

    def _nats(self, rows: Sequence[SupervisedRow], prefix: Prefix) -> Iterator[tuple[int, float]]:
        """Yield (place of the row, nats) for each learnt token of `rows` that follow `prefix`."""
        own = self.reader.virtual("suffix") if prefix.ids else virtual_ids(self.decoder.net)
        packed = []
        for row in rows:
            first = row.shared if prefix.ids else 0
            ids = [*own, *row.ids[first : row.learnt[-1]]]
            packed.append(Row(ids=ids, wanted=[p - 1 - first + len(own) for p in row.learnt]))
        for owners, states in self.decoder.hidden(packed, prefix):
            places = owners.tolist()
            gold = [rows[n].ids[p] for n in dict.fromkeys(places) for p in rows[n].learnt]
            wanted = torch.tensor(gold, device=states.device)
            for at in range(0, len(places), POSITIONS):
                part = slice(at, at + POSITIONS)
                logits = next_logits(self.decoder, states[part])
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
        if self.context.sharing == "all":
            form = self._form(self.reader.prompter)
            yield plain, form, self.reader.prefix()
            return
        pool = self.context.demonstrations
        chosen = self.reader.chooser.choose([rows[n].text for n in plain])
        for n, choice in zip(plain, chosen, strict=True):
            shown = tuple(pool[place] for place in choice)
            context = replace(self.context, demonstrations=shown, sharing="all", groups=())
            yield [n], self._form(Prompter(self.tokenizer, context)), NO_PREFIX

    def _form(self, prompter: Prompter) -> Answering:
        return Answering(prompter, max_length=self.limit, turns="last", stops=self.ends)

    def _asked(
        self, rows: Sequence[Example]
    ) -> Iterator[tuple[Sequence[int], list[list[int]], Prefix]]:
        """Yield (numbers of rows, their prompts, what these follow)."""
        spoken = [n for n, row in enumerate(rows) if row.turns]
        plain = [n for n, row in enumerate(rows) if not row.turns]
        if spoken:
            own = virtual_ids(self.decoder.net)
            yield spoken, [[*own, *self._prompt(rows[n].turns)] for n in spoken], NO_PREFIX
        for shard in self.reader.shards([rows[n].text for n in plain]) if plain else ():
            yield [plain[n] for n in shard.numbers], shard.prompts, shard.prefix

    def _prompt(self, turns: Sequence[Turn]) -> list[int]:
        return asked_ids(self.tokenizer, turns, self.limit - self.readout.tokens)

    def _stops(self, row: Example) -> tuple[int, ...]:
        """Return the tokens that end an answer, after a template what parts examples too."""
        if row.turns:
            return self.ends
        between = self.tokenizer(
            self.context.template.separator, add_special_tokens=False, verbose=False
        )["input_ids"]
        return (*self.ends, *between) if len(between) == 1 else self.ends

    def _guided(self) -> bool:
        return self.readout.grammar and self.readout.task in GUIDED

    def _guide(self, text: str) -> Guide:
        if self._guides is None:
            rows = self.decoder.net.get_output_embeddings().weight.shape[0]
            self._guides = Guides(self.tokenizer, rows, self.ends)
        return self._guides.guide(grammar(self.readout.task, text, self.readout.schema))

    def _answer(self, row: Example, ids: Sequence[int], stopped: bool) -> Answer:
        words = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        if not row.turns:
            words = words.strip().split(self.context.template.separator)[0]
        words = words.strip()
        frames = parse(self.readout.task, row.text, words)
        return Answer(words=words, frames=frames, stopped=stopped)


def asked_ids(tokenizer: Any, turns: Sequence[Turn], room: int) -> list[int]:
    """Return a conversation's tokens up to where the next answer begins, `room` of them at most.

    Old turns are left out where it is too long, never the question. A last turn of the assistant
    is the answer itself.
    """
    asked = tuple(turns[:-1] if turns[-1].role == "assistant" else turns)
    while True:
        text = render(tokenizer, asked, ask=True)
        plain = tokenizer.chat_template is None
        ids = tokenizer(text, add_special_tokens=plain, verbose=False)["input_ids"]
        less = shorter(asked)
        if len(ids) <= room or len(less) == len(asked):
            return [int(token) for token in ids]
        asked = less
