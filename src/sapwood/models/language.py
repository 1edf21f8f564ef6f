"""One protocol for every family of language model: n-gram, recurrent, Transformer.

A text is scored as it stands: a mark before it, every token of it and the mark that ends it, in
nats. Bits a byte are these nats over ln 2 and the bytes of UTF-8 of the text, whatever the family
and the tokenizer; the end counts as a token and has no bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from sapwood.errors import ModelError
from sapwood.interfaces import Answer, Floats
from sapwood.launch import Runtime
from sapwood.models.choosing import Completion, Sampling
from sapwood.models.continuing import continued, continuing
from sapwood.models.decoder import Decoder
from sapwood.models.generate import generate, next_logits, stream
from sapwood.models.kenlm_file import is_kenlm, open_kenlm
from sapwood.models.load import Base, load_base
from sapwood.models.nats import answers_of, bits_a_byte
from sapwood.models.ngram import NGram
from sapwood.models.positions import carried_states, packed_states

POSITIONS = 64  # logits held at once: 64 MB of a vocabulary of 262,144


class LanguageModel(Protocol):
    """What can say how probable a text is, and write one."""

    @property
    def name(self) -> str:
        """Return what the user called it."""
        ...

    @property
    def family(self) -> str:
        """Return "n-gram", "recurrent" or "transformer"."""
        ...

    def scored(self, texts: Sequence[str]) -> list[Floats]:
        """Return minus log p of each token of each text, its end included, in nats."""
        ...

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Return the bits a byte of all texts together."""
        ...

    def unknown(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the model only knows as <unk>."""
        ...

    def written(self, prompts: Sequence[str], sampling: Sampling) -> list[list[str]]:
        """Return `sampling.samples` continuations of each prompt, which may be empty."""
        ...

    def streamed(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Yield one continuation piece by piece, the first that `written` gives."""
        ...


def answers(model: LanguageModel, texts: Sequence[str]) -> list[Answer]:
    """Return how probable each text is: nats, bytes and tokens, for the scores of tally.py."""
    return answers_of(model.scored(texts), texts)


def language_model(name: str, runtime: Runtime, *, trust_remote_code: str = "") -> LanguageModel:
    """Load a language model of any family: a folder, a name, a hub id, .gguf or ARPA.

    Raises ModelError: E-MODEL-174 for a base that gives texts no probability, and what loading
    raises.
    """
    from sapwood.models import arpa, ngram

    path = Path(name).expanduser()
    if path.is_file() and path.name.endswith((".arpa", ".arpa.gz")):
        model, words = arpa.read_arpa(path)
        return NGramLanguage(name=name, model=model, tokenizer=arpa.word_tokenizer(model, words))
    if is_kenlm(path):
        return replace(open_kenlm(path), name=name)
    if ngram.is_ngram(path):
        return NGramLanguage(name=name, model=ngram.load(path), tokenizer=ngram.tokenizer_in(path))
    base = load_base(name, runtime, trust_remote_code=trust_remote_code)
    if base.kind != "decoder":
        raise ModelError(
            "E-MODEL-174",
            f"'{name}' is an encoder or text-to-text base ({base.model_type}): it gives a text "
            "by itself no probability.",
            fix="use a decoder, a recurrent net or an n-gram model",
        )
    return NetLanguage(name=name, base=base)


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts without marks around them."""
    if not texts:
        return []
    return [
        list(ids)
        for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    ]


def beyond(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """Return the text of `ids` as it continues that of `prompt`, spaces between them kept."""
    before = str(tokenizer.decode(list(prompt), skip_special_tokens=True))
    whole = str(tokenizer.decode([*prompt, *ids], skip_special_tokens=True))
    if whole.startswith(before):
        return whole[len(before) :]
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


@dataclass(frozen=True, kw_only=True)
class NGramLanguage:
    """An n-gram model with its tokenizer."""

    name: str
    model: NGram
    tokenizer: Any
    family: str = "n-gram"

    def scored(self, texts: Sequence[str]) -> list[Floats]:
        """Return minus log p of each token of each text, its end included, in nats."""
        return self.model.scored(encoded(self.tokenizer, texts))

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Return the bits a byte of all texts together."""
        return bits_a_byte(self.scored(texts), texts)

    def unknown(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the model only knows as <unk>."""
        ids = np.array([t for text in encoded(self.tokenizer, texts) for t in text], np.int64)
        return int((self.model.heard(ids) == self.model.symbols.unk).sum())

    def written(self, prompts: Sequence[str], sampling: Sampling) -> list[list[str]]:
        """Return continuations. Raises ModelError (E-MODEL-175) for contrastive search."""
        ids = encoded(self.tokenizer, prompts)
        found = continued(self.model, ids, self._barred(), sampling, self.tokenizer)
        return [
            [beyond(self.tokenizer, prompt, one.ids) for one in several]
            for prompt, several in zip(ids, found, strict=True)
        ]

    def streamed(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Yield one continuation piece by piece."""
        ids = encoded(self.tokenizer, [prompt])[0]
        running = continuing(self.model, ids, self._barred(), sampling, self.tokenizer)
        yield from _pieces(self.tokenizer, ids, running)

    def _barred(self) -> tuple[int, ...]:
        """Return tokens that are no text: marks of the tokenizer, but not the end."""
        marks = {int(token) for token in self.tokenizer.all_special_ids}
        marks |= {self.model.symbols.unk, self.model.symbols.bos}
        return tuple(sorted(marks - {self.model.symbols.eos}))


@dataclass(frozen=True, kw_only=True)
class NetLanguage:
    """A decoder as it is: a Transformer, or a recurrent net."""

    name: str
    base: Base

    @property
    def family(self) -> str:
        """Return "recurrent" or "transformer"."""
        return "recurrent" if self._recurrent else "transformer"

    @property
    def tokenizer(self) -> Any:
        """Return the base's tokenizer."""
        return self.base.tokenizer

    @property
    def _recurrent(self) -> bool:
        return self.base.model_type == "sapwood_rnn"

    @cached_property
    def decoder(self) -> Decoder:
        """Return the packed decoder over the net."""
        return Decoder(self.base.net, weights_key=lambda: self.base.sha256)

    @cached_property
    def marks(self) -> tuple[int, int]:
        """Return the tokens before a text and after it.

        Raises ModelError (E-MODEL-176) for a base that has no such tokens.
        """
        config, tokenizer = self.base.net.config, self.base.tokenizer
        ends = getattr(config, "eos_token_id", None)
        several = list(ends) if isinstance(ends, list | tuple) else [ends]
        end = several[0]
        if end is None or tokenizer.eos_token_id in several:
            end = tokenizer.eos_token_id
        candidates = (getattr(config, "bos_token_id", None), tokenizer.bos_token_id, end)
        start = next((token for token in candidates if token is not None), None)
        if start is None or end is None:
            raise ModelError(
                "E-MODEL-176",
                f"'{self.name}' has no token that ends a text, so texts cannot be scored.",
                fix="name eos_token_id (and bos_token_id) in its config.json",
            )
        return int(start), int(end)

    def scored(self, texts: Sequence[str]) -> list[Floats]:
        """Return minus log p of each token of each text, its end included, in nats.

        A text that is longer than a Transformer reads is scored in windows that overlap by half; a
        recurrent net carries its state on.
        """
        start, end = self.marks
        rows = [[start, *ids, end] for ids in encoded(self.tokenizer, texts)]
        found: list[Floats] = [np.zeros(len(row) - 1) for row in rows]
        read = carried_states if self._recurrent else packed_states
        pieces = read(self.decoder, rows)
        with torch.no_grad():
            for owners, places, states in pieces:
                gold = torch.tensor([rows[n][p + 1] for n, p in zip(owners, places, strict=True)])
                for at in range(0, len(gold), POSITIONS):
                    part = slice(at, at + POSITIONS)
                    lost = functional.cross_entropy(
                        next_logits(self.decoder, states[part]),
                        gold[part].to(states.device),
                        reduction="none",
                    )
                    for n, p, nats in zip(owners[part], places[part], lost.tolist(), strict=True):
                        found[n][p] = nats
        return found

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Return the bits a byte of all texts together."""
        return bits_a_byte(self.scored(texts), texts)

    def unknown(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the tokenizer only knows as unknown."""
        unk = self.tokenizer.unk_token_id
        if unk is None or unk in self.marks:
            return 0
        return sum(ids.count(unk) for ids in encoded(self.tokenizer, texts))

    def written(self, prompts: Sequence[str], sampling: Sampling) -> list[list[str]]:
        """Return continuations; see `models.generate`."""
        start, _ = self.marks
        ids = encoded(self.tokenizer, prompts)
        found: list[list[Completion]] = generate(
            self.decoder, [[start, *own] for own in ids],
            sampling=self._ending(sampling), tokenizer=self.tokenizer,
        )  # fmt: skip
        return [
            [beyond(self.tokenizer, prompt, one.ids) for one in several]
            for prompt, several in zip(ids, found, strict=True)
        ]

    def streamed(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Yield one continuation piece by piece."""
        start, _ = self.marks
        ids = encoded(self.tokenizer, [prompt])[0]
        running = stream(
            self.decoder, [start, *ids], sampling=self._ending(sampling), tokenizer=self.tokenizer
        )
        yield from _pieces(self.tokenizer, ids, running)

    def _ending(self, sampling: Sampling) -> Sampling:
        return replace(sampling, stop_ids=tuple({*sampling.stop_ids, self.marks[1]}))


def _pieces(tokenizer: Any, prompt: Sequence[int], running: Iterator[int]) -> Iterator[str]:
    """Yield the text of tokens as they come, in whole characters."""
    ids: list[int] = []
    shown = ""
    for token in running:
        ids.append(token)
        text = beyond(tokenizer, prompt, ids)
        if not text.endswith("\ufffd"):  # a character of several tokens is not there yet
            yield text[len(shown) :]
            shown = text
    rest = beyond(tokenizer, prompt, ids)[len(shown) :] if ids else ""
    if rest:
        yield rest
