"""A decoder that writes answers under a context, and scores wanted ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sapwood.context.prompter import Context
from sapwood.context.turns import end_ids, next_speakers, parting, render, shorter
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.chooser import Chooser
from sapwood.evaluation.likelihood import Likelihood
from sapwood.evaluation.reader import NOTHING, Extras, Reader
from sapwood.interfaces import Answer, Example, Turn
from sapwood.methods.prompt import virtual_ids
from sapwood.models.choosing import cut_at
from sapwood.models.decoder import NO_PREFIX, Prefix
from sapwood.models.generate import Sampling, generate
from sapwood.models.grammar import Guide, Guides
from sapwood.readouts.written import Written
from sapwood.tasks.grammars import grammar
from sapwood.tasks.kinds import SEVERAL
from sapwood.tasks.verses import verse_grammar
from sapwood.tasks.written import parse

LEAST_TOKENS = 16  # for an answer, however long the prompt is


class Writer:
    """Answers of a base under a context; a method may be attached, virtual tokens come first.

    Rows without turns are asked by the context's template, conversations by the base's chat
    template alone. `decoding`: how answers are written, the readout's own way unless it is set; its
    `tokens` are cut to what the base reads.
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
        self.decoding = Sampling(
            tokens=readout.tokens, temperature=readout.temperature, top_p=readout.top_p
        )
        self.reader = Reader(bases, name, context, (), scope=scope, extras=extras)
        if context.sharing != "all":  # every answer of the pool is a class of its own
            classes = tuple(sorted({str(d.label) for d in context.demonstrations}))
            self.reader.chooser = Chooser(bases, context, classes, extras.embedder)
        self.decoder, base = self.reader.decoder, bases.get(name)
        self.tokenizer = base.tokenizer
        self.limit = base.max_length
        named = getattr(self.decoder.net.generation_config, "eos_token_id", None)
        self.ends = end_ids(self.tokenizer, named)
        self._likelihood = Likelihood(self.reader, self.limit, self.ends)
        self._guides: Guides | None = None
        self._verses: Guide | None = None
        self.tokens = 0

    def answers(self, rows: Sequence[Example]) -> list[Answer]:
        """Return an answer for each row: its words, and what they say of the text."""
        return [several[0] for several in self.drawn(rows)]

    def drawn(self, rows: Sequence[Example]) -> list[list[Answer]]:
        """Return all samples of each row, as many as `decoding` asks for, the best of beams first.

        Draws go by the rows' own numbers. A grammar may have fewer answers than beams look for.
        """
        found: list[list[Answer]] = [[Answer(stopped=False)]] * len(rows)
        for numbers, prompts, prefix in self._asked(rows):
            before = self.decoder.tokens_run
            sampling = self.sampling(rows[numbers[0]], prompts, prefix)
            made = generate(
                self.decoder,
                prompts,
                prefix,
                sampling=sampling,
                guides=[self.guide(rows[n].text) for n in numbers] if self.guided else [],
                numbers=[rows[n].row for n in numbers],
                tokenizer=self.tokenizer,
            )
            for n, several in zip(numbers, made, strict=True):
                own = [self.answer(rows[n], one.ids, one.stopped) for one in several]
                found[n] = own or found[n]
            self.tokens += self.decoder.tokens_run - before
        return found

    def sampling(self, row: Example, prompts: Sequence[Sequence[int]], prefix: Prefix) -> Sampling:
        """Return how rows like `row` are answered, within what the base reads."""
        asked = self.decoding
        longest = max(map(len, prompts)) + prefix.next_position
        room = max(LEAST_TOKENS, min(asked.tokens, self.limit - longest))
        return replace(
            asked,
            tokens=min(room, asked.tokens),
            least_tokens=min(asked.least_tokens, room),
            stop_ids=self._stops(row),
            stops=self._stop_words(row),
        )

    def _stop_words(self, row: Example) -> tuple[str, ...]:
        """Return the words that end an answer: those asked for, in a plain dialogue also names."""
        return (*self.decoding.stops, *(next_speakers(self.tokenizer) if row.turns else ()))

    written = answers

    def scored(self, rows: Sequence[Example]) -> list[Answer]:
        """Return how probable each row's wanted answer is, its end included."""
        before = self.decoder.tokens_run
        found = self._likelihood.scored(rows)
        self.tokens += self.decoder.tokens_run - before
        return found

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
        return asked_ids(self.tokenizer, turns, self.limit - self.decoding.tokens)

    def _stops(self, row: Example) -> tuple[int, ...]:
        """Return the tokens that end an answer, after a template what parts examples too."""
        if row.turns:
            return self.ends
        return (*self.ends, *parting(self.tokenizer, self.context.template.separator))

    @property
    def guided(self) -> bool:
        """Whether answers follow a grammar."""
        return bool(self.readout.form) or (self.readout.grammar and self.readout.task in SEVERAL)

    def guide(self, text: str) -> Guide:
        """Return the grammar of answers about a text."""
        if self._guides is None:
            rows = self.decoder.net.get_output_embeddings().weight.shape[0]
            self._guides = Guides(self.tokenizer, rows, self.ends)
        if self.readout.form:
            if self._verses is None:
                self._verses = self._guides.guide(verse_grammar(self.readout.form))
            return self._verses.copy()
        return self._guides.guide(grammar(self.readout.task, text, self.readout.schema))

    def answer(self, row: Example, ids: Sequence[int], stopped: bool) -> Answer:
        """Return what token ids say of a row."""
        words = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        if not row.turns:
            words = words.strip().split(self.context.template.separator)[0]
        words = cut_at(words, self._stop_words(row)).strip()
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
