"""From a wish to the rows that answer it: token ids, what they begin behind, and what ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sapwood.context.turns import end_ids, next_speakers, parting, render
from sapwood.errors import ConfigError, ModelError
from sapwood.interfaces import Example
from sapwood.models.choosing import Sampling, check_guided, stops_of
from sapwood.models.decoder import Decoder
from sapwood.models.grammar import Guide, Guides
from sapwood.models.growing import Asked, Growing
from sapwood.models.layout import Row
from sapwood.models.prefixes import NO_PREFIX, Prefix
from sapwood.pool.resident import Resident
from sapwood.pool.wish import Wish


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The token ids of one prompt, what they begin behind, how its answer is written."""

    ids: tuple[int, ...]
    prefix: Prefix
    sampling: Sampling
    guide: Guide | None = None

    @property
    def tokens(self) -> int:
        """Return the tokens before the answer."""
        return self.prefix.next_position + len(self.ids)

    @property
    def row(self) -> Row:
        """Return what is read before the answer begins."""
        return Row(ids=self.ids, wanted=(len(self.ids) - 1,))

    def grow(self, sample: int, tokenizer: Any) -> Growing:
        """Return the beginning of one answer to it."""
        guide = self.guide.copy() if self.guide else None
        asked = Asked(ids=self.ids, number=0, guide=guide)
        return Growing(asked, sample, self.sampling, stops_of(self.sampling, tokenizer))


class Prompts:
    """Prompts of one base; `limit`: most tokens of a prompt with its answer."""

    def __init__(self, decoder: Decoder, tokenizer: Any, limit: int) -> None:
        self.decoder, self.tokenizer, self.limit = decoder, tokenizer, limit
        named = getattr(decoder.net.generation_config, "eos_token_id", None)
        self.ends = end_ids(tokenizer, named)
        self._guides: Guides | None = None

    def of(self, wish: Wish, resident: Resident | None) -> Prompt:
        """Return the prompt of a wish. Raises ModelError (E-MODEL-030) when it is too long."""
        ids, prefix, stops = self._read(wish, resident)
        ends = self.ends
        if resident is not None and resident.reader is not None and wish.text:
            separator = resident.reader.context.template.separator
            ends = (*ends, *parting(self.tokenizer, separator))
        asked = wish.sampling
        sampling = replace(asked, stop_ids=(*asked.stop_ids, *ends), stops=(*asked.stops, *stops))
        left = self.limit - prefix.next_position - len(ids)
        if wish.fit and 0 < left < sampling.tokens:
            sampling = replace(sampling, tokens=left)
        guide = self._schema_guide(wish.schema) if wish.schema else None
        check_guided(sampling, [guide])
        return self._fitting(Prompt(ids=tuple(ids), prefix=prefix, sampling=sampling, guide=guide))

    def extracting(self, text: str, resident: Resident) -> Prompt:
        """Return the prompt that asks an adaptation that writes what it finds in a text."""
        writer = resident.writer
        assert writer is not None
        ids, prefix = resident.asked(text)
        sampling = writer.sampling(Example(text=text), [ids], prefix)
        guide = writer.guide(text) if writer.guided else None
        return self._fitting(Prompt(ids=tuple(ids), prefix=prefix, sampling=sampling, guide=guide))

    def _read(
        self, wish: Wish, resident: Resident | None
    ) -> tuple[Sequence[int], Prefix, tuple[str, ...]]:
        """Return token ids, what they begin behind, and more words that end the answer."""
        bare = NO_PREFIX if resident is None else resident.bare
        if wish.turns:
            text = render(self.tokenizer, wish.turns, ask=True)
            plain = self.tokenizer.chat_template is None
            return self._ids(text, plain), bare, next_speakers(self.tokenizer)
        if wish.ids:
            rows = self.decoder.net.get_input_embeddings().weight.shape[0]
            if any(not 0 <= token < rows for token in wish.ids):
                raise ConfigError("E-CONFIG-284", f"A token id is not one of this base's {rows:,}.")
            return wish.ids, bare, ()
        if resident is not None and resident.reader is not None:
            return *resident.asked(wish.text), ()
        return self.plain(wish.text), bare, ()

    def plain(self, text: str) -> list[int]:
        """Return the token ids of a text as it is, at least one. Raises E-MODEL-030."""
        ids = self._ids(text, True) or [self._beginning()]
        self.check(len(ids), 0)
        return ids

    def count(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self._ids(text, True))

    def _ids(self, text: str, special: bool) -> list[int]:
        coded = self.tokenizer(text, add_special_tokens=special, verbose=False)
        return [int(token) for token in coded["input_ids"]]

    def _beginning(self) -> int:
        found = self.tokenizer.bos_token_id
        return int(self.ends[0] if found is None else found)

    def _schema_guide(self, schema: str) -> Guide:
        if self._guides is None:
            rows = self.decoder.net.get_output_embeddings().weight.shape[0]
            self._guides = Guides(self.tokenizer, rows, self.ends)
        return self._guides.following_schema(schema)

    def _fitting(self, prompt: Prompt) -> Prompt:
        self.check(prompt.tokens, prompt.sampling.tokens)
        return prompt

    def check(self, tokens: int, answer: int) -> None:
        """Raise ModelError (E-MODEL-030) for a prompt that is too long with its answer."""
        if tokens + answer > self.limit:
            raise ModelError(
                "E-MODEL-030",
                f"The prompt has {tokens:,} tokens and its answer up to {answer:,}; a row here "
                f"holds {self.limit:,} at most.",
                fix="a shorter prompt, or fewer tokens of an answer (max_tokens)",
            )
