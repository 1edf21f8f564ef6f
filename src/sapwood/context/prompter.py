"""From texts to token ids: one prefix that all queries share, and what each adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.context.template import Template
from sapwood.interfaces import Example

# One text is cut here unless the user says otherwise: 256 tokens hold 99 % of the rows of every
# classification set this was developed on, and cost grows with each token.
MAX_TEXT_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is prepended as text.

    `selection`, `order`: the names of the rules that chose and ordered the demonstrations.
    `sharing`: how many queries see the same demonstrations: "all" of them see all of
    `demonstrations`; with "group" each sees the one of `groups` (places in `demonstrations`) whose
    first member is most like it; with "query" `demonstrations` is a pool from which `shots` are
    chosen for each. `encoding`: "exact", or "blocks": each demonstration is encoded alone, an
    approximation. `max_text_tokens` bounds each text, query or demonstration; longer ones lose
    their end.
    """

    template: Template
    demonstrations: tuple[Example, ...] = ()
    selection: str = "none"
    order: str = "given"
    shots: int = 0
    sharing: str = "all"
    groups: tuple[tuple[int, ...], ...] = ()
    encoding: str = "exact"
    max_text_tokens: int = MAX_TEXT_TOKENS

    def describe(self) -> str | None:
        """Return the context in words for the report, or None without demonstrations."""
        if not self.shots:
            return None
        words = [f"{self.shots} demonstrations", self.selection]
        if self.groups:
            words[0] = f"{len(self.groups)} contexts of {words[0]}"
        if self.order != "given":
            words.append(f"ordered by {self.order}")
        if self.encoding != "exact":
            words.append(f"encoded in {self.encoding} (approximate)")
        return ", ".join(words)


class Prompter:
    """Tokenise prompts of one context so that `prefix + rest` equals the whole prompt's tokens.

    The context is cut before the separator that precedes the query; that the two sides tokenise
    alone as they do together is checked on real queries, and where it does not hold (some
    SentencePiece models) prompts are tokenised whole and compared with the prefix.
    """

    def __init__(self, tokenizer: Any, context: Context) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.truncated = 0
        demonstrations = context.demonstrations if context.sharing == "all" else ()
        self.shown = tuple(self._cut(d) for d in demonstrations)
        self.head = context.template.head(self.shown)
        self.prefix: tuple[int, ...] = tuple(self._ids(self.head, start=True)) if self.head else ()
        self.separator = context.template.separator if self.head else ""
        self._splits: bool | None = None

    def rest(self, texts: Sequence[str]) -> list[list[int]]:
        """Return for each text the token ids that follow `prefix`."""
        texts = [self._cut(Example(text=text)).text for text in texts]
        tails = [self.separator + self.context.template.query(text) for text in texts]
        if self._splits is None:
            self._splits = all(self._splits_cleanly(tail) for tail in tails[:3])
            if not self._splits:
                wholes = [self._ids(self.head + tail, start=True) for tail in tails[:3]]
                self.prefix = _common([list(self.prefix), *wholes])
        if self._splits and self.head:
            return self._many(tails, start=False)
        wholes = self._many([self.head + tail for tail in tails], start=True)
        return [self._after_prefix(ids) for ids in wholes]

    def whole(self, text: str, demonstrations: Sequence[Example]) -> list[int]:
        """Return the ids of a full prompt with demonstrations of its own."""
        shown = [self._cut(d) for d in demonstrations]
        text = self._cut(Example(text=text)).text
        return self._ids(self.context.template.prompt(shown, text), start=True)

    def labels(self, labels: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each label's words as they follow a query.

        Where one label begins another ("1" and "10"), each ends with the separator: else the
        longer one could never win, nor the two be told apart among the labels' own tokens.
        """
        stem = self.context.template.query("x")
        before = self._ids(stem, start=False)
        found = []
        for label in labels:
            words = self.context.template.words[label]
            whole = self._ids(stem + words, start=False)
            together = whole[: len(before)] == before
            found.append(whole[len(before) :] if together else self._ids(words, start=False))
        beginnings = {tuple(ids[:n]) for ids in found for n in range(len(ids))}
        if any(tuple(ids) in beginnings for ids in found):
            end = self._ids(self.context.template.separator, start=False)
            found = [[*ids, *end] for ids in found]
        return found

    def _after_prefix(self, ids: list[int]) -> list[int]:
        shared = len(self.prefix)
        if tuple(ids[:shared]) != self.prefix:
            raise AssertionError("the shared prefix was taken from other prompts")
        return ids[shared:]

    def _splits_cleanly(self, tail: str) -> bool:
        together = self._ids(self.head + tail, start=True)
        return together == [*self.prefix, *self._ids(tail, start=not self.head)]

    def _cut(self, example: Example) -> Example:
        """Return `example` with its text cut at the limit, counting what was cut."""
        limit = self.context.max_text_tokens
        if len(example.text) <= limit:  # a token covers one character at least, nearly always
            return example
        coded = self.tokenizer(
            example.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        if len(coded["input_ids"]) <= limit:
            return example
        self.truncated += 1
        end = coded["offset_mapping"][limit - 1][1]
        return Example(text=example.text[:end], label=example.label, row=example.row)

    def _ids(self, text: str, *, start: bool) -> list[int]:
        return self._many([text], start=start)[0]

    def _many(self, texts: Sequence[str], *, start: bool) -> list[list[int]]:
        if not texts:
            return []
        coded = self.tokenizer(list(texts), add_special_tokens=start, verbose=False)
        return [list(ids) for ids in coded["input_ids"]]


def _common(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the longest prefix that all sequences share, one token short of the shortest."""
    shortest = min(len(s) for s in sequences)
    length = 0
    while length < shortest - 1 and len({s[length] for s in sequences}) == 1:
        length += 1
    return tuple(sequences[0][:length])
