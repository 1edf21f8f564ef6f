"""From texts to token ids: one prefix that all queries share, and what each adds to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sapwood.context.template import Template
from sapwood.interfaces import Example

# One text is cut here unless the user says otherwise: 256 tokens hold 99 % of the rows of every
# classification set this was developed on, and cost grows with each token.
MAX_TEXT_TOKENS = 256

# With three windows SmolLM2-135M lost nothing on SST-2 and BANKING77 at 16 and 64 demonstrations;
# with one demonstration a block it lost up to 14 points (100 queries each, fitted bias).
WINDOWS = 3


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is prepended as text.

    `selection`, `order`: the names of the rules that chose and ordered the demonstrations.
    `sharing`: how many queries see the same demonstrations: "all" of them see all of
    `demonstrations`; with "group" each sees the one of `groups` (places in `demonstrations`) whose
    first member is most like it; with "query" `demonstrations` is a pool from which `shots` are
    chosen for each. `encoding`: "exact", or an approximation: with "blocks" each demonstration is
    encoded alone, with "windows" each third of them. `max_text_tokens` bounds each text, query or
    demonstration; longer ones lose their end.
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

    With `channel` the answers come before the texts, in the demonstrations and in `channel_rows`:
    the noisy channel (Min et al. 2022, arXiv 2108.04106) scores a text given each label.

    `known` returns for texts what is put before each, as it is (see `context.facts`), before a
    demonstration as before a query; the channel has no place for it.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: Context,
        channel: bool = False,
        known: Callable[[Sequence[str]], list[str]] | None = None,
    ) -> None:
        self.tokenizer, self.context, self.channel = tokenizer, context, channel
        self.known = known or (lambda texts: [""] * len(texts))
        self.truncated = 0
        demonstrations = context.demonstrations if context.sharing == "all" else ()
        self.shown = tuple(self._cut(d) for d in demonstrations)
        self.head = self._head(demonstrations)
        self.prefix: tuple[int, ...] = tuple(self._ids(self.head, start=True)) if self.head else ()
        self.separator = context.template.separator if self.head else ""
        # each block is tokenised alone, whatever they would be together
        self._splits = None if context.encoding == "exact" else True

    def rest(self, texts: Sequence[str]) -> list[list[int]]:
        """Return for each text the token ids that follow `prefix`."""
        assert not self.channel, "under the channel a text is read with channel_rows"
        return self._tails(self._queries(texts))

    def premise(self) -> list[int]:
        """Return the token ids that follow `prefix` in a query without a text.

        What the model answers to it is its lean under this context (PMI; see `readouts.bias`).
        """
        assert not self.channel, "the channel asks for no answer"
        return self._tails([self.context.template.premise()])[0]

    def channel_rows(
        self, texts: Sequence[str], labels: Sequence[str]
    ) -> list[list[tuple[list[int], int]]]:
        """Return for each text and label (the ids that follow `prefix`, where the text begins).

        A token that holds the end of the answer and the start of the text belongs to the text.
        The text's tokens are the same for every label, else their probabilities could not be
        compared: where the tokenizer would have them differ, answer and text are tokenised apart.
        Where the text begins is at least 1; an empty text has no tokens.
        """
        assert self.channel, "make the prompter with channel=True"
        shown = [self._cut(Example(text=text)).text for text in texts]
        before = [self.separator + self.context.template.answer_first(label) for label in labels]
        if self._splits is None and shown:
            first = [part + text for text in shown[:3] for part in before]
            self._settle(first, [self.head + part for part in before])
        if self._splits and self.head:
            return [_flipped(self.tokenizer, text, before, start=False) for text in shown]
        before = [self.head + part for part in before]
        return [
            [(self._after_prefix(ids), begins - len(self.prefix)) for ids, begins in rows]
            for rows in (_flipped(self.tokenizer, text, before, start=True) for text in shown)
        ]

    def whole(self, text: str, demonstrations: Sequence[Example]) -> list[int]:
        """Return the ids of a full prompt with demonstrations of its own."""
        head, (query,) = self._head(demonstrations), self._queries([text])
        separator = self.context.template.separator if head else ""
        return self._ids(head + separator + query, start=True)

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

    def _head(self, demonstrations: Sequence[Example]) -> str:
        shown = [self._cut(d) for d in demonstrations]
        if self.channel:
            return self.context.template.channel_head(shown)
        return self.context.template.head(shown, self.known([d.text for d in demonstrations]))

    def _queries(self, texts: Sequence[str]) -> list[str]:
        queries = [self.context.template.query(self._cut(Example(text=t)).text) for t in texts]
        return [k + query for k, query in zip(self.known(texts), queries, strict=True)]

    def _tails(self, tails: Sequence[str]) -> list[list[int]]:
        """Return the ids that follow `prefix` for texts that follow the head and separator."""
        tails = [self.separator + tail for tail in tails]
        if self._splits is None:  # a premise may come before the first query, or after it
            template = self.context.template
            seen = [*tails[:3], self.separator + template.query("x")]
            seen.append(self.separator + template.premise())
            self._settle(seen, [self.head + tail for tail in seen])
        if self._splits and self.head:
            return self._many(tails, start=False)
        wholes = self._many([self.head + tail for tail in tails], start=True)
        return [self._after_prefix(ids) for ids in wholes]

    def _settle(self, tails: Sequence[str], prompts: Sequence[str]) -> None:
        """Find out whether `tails` split off cleanly; if not, cut the prefix to what `prompts`
        share with it.
        """
        self._splits = all(self._splits_cleanly(tail) for tail in tails)
        if not self._splits:
            self.prefix = _common([list(self.prefix), *self._many(prompts, start=True)])

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
        text = beginning(self.tokenizer, example.text, self.context.max_text_tokens)
        if text == example.text:
            return example
        self.truncated += 1
        return replace(example, text=text)

    def _ids(self, text: str, *, start: bool) -> list[int]:
        return _coded(self.tokenizer, [text], start=start)[0]

    def _many(self, texts: Sequence[str], *, start: bool) -> list[list[int]]:
        return _coded(self.tokenizer, texts, start=start)


def _coded(tokenizer: Any, texts: Sequence[str], *, start: bool) -> list[list[int]]:
    """Return the token ids of texts; `start`: with what the tokenizer puts before a text."""
    if not texts:
        return []
    coded = tokenizer(list(texts), add_special_tokens=start, verbose=False)
    return [list(ids) for ids in coded["input_ids"]]


def _flipped(
    tokenizer: Any, text: str, before: Sequence[str], *, start: bool
) -> list[tuple[list[int], int]]:
    """Return (ids, where the text begins) of `text` after each of `before`.

    See `Prompter.channel_rows` for the token over the boundary.
    """
    wholes = [part + text for part in before]
    coded = tokenizer(wholes, add_special_tokens=start, return_offsets_mapping=True, verbose=False)
    rows = []
    for part, ids, spans in zip(before, coded["input_ids"], coded["offset_mapping"], strict=True):
        inside = (n for n, (_, end) in enumerate(spans) if end > len(part))
        rows.append((list(ids), next(inside, len(ids))))
    alike = len({tuple(ids[begins:]) for ids, begins in rows}) == 1
    if alike and all(begins for _, begins in rows):
        return rows
    own = _coded(tokenizer, [text], start=False)[0]
    return [([*stem, *own], len(stem)) for stem in _coded(tokenizer, before, start=start)]


def block_ids(prompter: Prompter) -> tuple[list[int], list[list[int]]]:
    """Return the token ids of the instruction, and of each block after a separator.

    For contexts that are not encoded whole (see `models.blocks`); what `rest` returns then follows
    them as it follows `prefix`.
    """
    context, template = prompter.context, prompter.context.template
    lead = template.separator if template.instruction else ""
    if prompter.channel:
        shown = [lead + template.channel_demonstration(d) for d in prompter.shown]
    else:
        known = prompter.known([d.text for d in context.demonstrations])
        shown = [
            lead + k + template.demonstration(d) for k, d in zip(known, prompter.shown, strict=True)
        ]
    if context.encoding == "windows":
        size = max(1, -(-len(shown) // WINDOWS))
        shown = ["".join(shown[n : n + size]) for n in range(0, len(shown), size)]
    opening = prompter.tokenizer(template.instruction, verbose=False)["input_ids"]
    blocks = [
        prompter.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for text in shown
    ]
    return list(opening), [list(ids) for ids in blocks]


def beginning(tokenizer: Any, text: str, limit: int) -> str:
    """Return what the first `limit` tokens of `text` cover, at least one."""
    if len(text) <= limit:  # a token covers one character at least, nearly always
        return text
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = coded["offset_mapping"]
    return text if len(spans) <= limit else text[: spans[limit - 1][1]]


def _common(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the longest prefix that all sequences share, one token short of the shortest."""
    shortest = min(len(s) for s in sequences)
    length = 0
    while length < shortest - 1 and len({s[length] for s in sequences}) == 1:
        length += 1
    return tuple(sequences[0][:length])
