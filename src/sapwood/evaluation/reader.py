"""A decoder prompted under one context: features and label scores of texts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from sapwood.context.facts import FactSource, fact_blocks
from sapwood.context.prompter import Context, Prompter, block_ids
from sapwood.context.select import Choice
from sapwood.context.template import is_chinese
from sapwood.errors import ModelError
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.chooser import Chooser
from sapwood.interfaces import Floats
from sapwood.methods import parts
from sapwood.methods.prompt import virtual_ids
from sapwood.models.blocks import Blocks
from sapwood.models.channel import channel_scores
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix
from sapwood.models.labels import LabelHead
from sapwood.models.trie import LabelTrie, build_trie


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a base gave for texts: `features` (texts, hidden) and `scores` (texts, labels);
    `tokens` and `seconds` are what the texts cost, a context that they share not counted.
    """

    features: Floats
    scores: Floats
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Texts that follow one encoded prefix: their numbers, and the token ids of each after it."""

    numbers: Sequence[int]
    prompts: list[list[int]]
    prefix: Prefix


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a reader uses besides its context.

    `embedder`: the encoder that finds demonstrations like a query; `seat`: keys and values that
    take the context's place; `facts`: what finds lines to put before each query; `stored`: whether
    an encoded context is kept on disk, for other processes and later ones.
    """

    embedder: str | None = None
    seat: Prefix | None = None
    facts: FactSource | None = None
    stored: bool = False


NOTHING = Extras()


class Reader:
    """Prompt a decoder under one context and read features and label scores in one pass.

    `scorer`: "direct", log p(label | context, text), or "channel", log p(text | context, label),
    which has no features. With `scope` "suffix" the context is encoded by the plain base, an
    attached method acts on the queries only. Virtual tokens of a method stand before the context,
    with `scope` "suffix" right before each query's own tokens.
    """

    def __init__(
        self,
        bases: Bases,
        name: str,
        context: Context,
        labels: Sequence[str],
        *,
        scope: str = "all",
        scorer: str = "direct",
        extras: Extras = NOTHING,
    ) -> None:
        self.decoder = bases.decoder(name)
        self.bases, self.context, self.labels = bases, context, labels
        self.scope, self.scorer, self.extras = scope, scorer, extras
        self.chinese = is_chinese([context.template.before])
        self._blocks: Blocks | None = None
        self.chooser = Chooser(bases, context, labels, extras.embedder)
        self.tokenizer = bases.get(name).tokenizer
        self._prompters: dict[Choice, Prompter] = {}
        self.prompter = self._prompter(context)
        self.trie: LabelTrie = build_trie(self.prompter.labels(labels))

    def _prompter(self, context: Context) -> Prompter:
        known = None if self.extras.facts is None else self._known
        return Prompter(self.tokenizer, context, self.scorer == "channel", known)

    def prefix(self, prompter: Prompter | None = None) -> Prefix:
        """Return the encoded context that all queries (of one prompter) share."""
        if self.extras.seat is not None:
            return self.extras.seat
        prompter = prompter or self.prompter
        if self.scope == "suffix":
            with parts.disabled(self.decoder.net):
                return self._encoded(prompter)
        return self._encoded(prompter)

    def _encoded(self, prompter: Prompter) -> Prefix:
        if self.context.encoding == "exact":
            return self.decoder.encode(self.opening(prompter), stored=self.extras.stored)
        opening, blocks = block_ids(prompter)
        head = (*self.virtual("all"), *opening)
        if self._blocks is None or self._blocks.head != head:
            self._blocks = Blocks(self.decoder, head)
        return self._blocks.prefix(blocks)

    def virtual(self, scope: str) -> tuple[int, ...]:
        """Return the virtual tokens of this reader's scope, none of another's."""
        return virtual_ids(self.decoder.net) if self.scope == scope else ()

    def opening(self, prompter: Prompter | None = None) -> tuple[int, ...]:
        """Return the token ids that all queries (of one prompter) follow, virtual ones first.

        Ask after the queries' own ids: those may shorten it.
        """
        return (*self.virtual("all"), *(prompter or self.prompter).prefix)

    def prompts(self, texts: Sequence[str]) -> tuple[list[list[int]], Prefix]:
        """Return the token ids of each query and the one prefix that they follow."""
        return self._follow(self.prompter, texts)

    def _follow(self, prompter: Prompter, texts: Sequence[str]) -> tuple[list[list[int]], Prefix]:
        rest = prompter.rest(texts)  # first: it may shorten the prefix
        return _begun(self.virtual("suffix"), rest), self.prefix(prompter)

    def _known(self, texts: Sequence[str]) -> list[str]:
        assert self.extras.facts is not None
        return fact_blocks(self.extras.facts, texts, chinese=self.chinese)

    def shards(self, texts: Sequence[str]) -> Iterator[Shard]:
        """Yield the prompts of `texts`, those that share an encoded context together."""
        if self.context.sharing == "query" and self.context.encoding == "exact":
            pool, choices = self.context.demonstrations, self.chooser.choose(texts)
            whole = [
                self.prompter.whole(text, [pool[n] for n in choice])
                for text, choice in zip(texts, choices, strict=True)
            ]
            # whatever the scope: a whole prompt is one row
            whole = _begun(virtual_ids(self.decoder.net), whole)
            yield Shard(numbers=range(len(texts)), prompts=whole, prefix=NO_PREFIX)
            return
        for numbers, prompter in self.shared(texts):
            rest, prefix = self._follow(prompter, [texts[n] for n in numbers])
            yield Shard(numbers=numbers, prompts=rest, prefix=prefix)

    def shared(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[int], Prompter]]:
        """Yield (numbers of the texts, prompter) for each context that texts share."""
        if self.context.sharing == "all":
            yield range(len(texts)), self.prompter
            return
        alike: dict[Choice, list[int]] = {}
        for number, choice in enumerate(self.chooser.choose(texts)):
            alike.setdefault(choice, []).append(number)
        pool = self.context.demonstrations
        for choice, numbers in alike.items():
            prompter = self._prompters.get(choice)
            if prompter is None:
                shown = tuple(pool[n] for n in choice)
                prompter = self._prompter(
                    replace(self.context, demonstrations=shown, sharing="all", groups=())
                )
                if self.context.sharing == "group":
                    self._prompters[choice] = prompter
            yield numbers, prompter

    def read(self, texts: Sequence[str], *, normalise: str = "vocabulary") -> Reading:
        """Return features and scores of `texts`. See `Decoder.label_scores` for `normalise`."""
        width = self.decoder.net.config.hidden_size if self.scorer == "direct" else 0
        features = np.zeros((len(texts), width), dtype=np.float32)
        scores = np.zeros((len(texts), len(self.labels)))
        spent = Spent(self.decoder)
        if self.scorer == "channel":
            for numbers, prompter in self.shared(texts):
                with spent.counting(self.context.sharing == "query"):
                    rows = prompter.channel_rows([texts[n] for n in numbers], self.labels)
                    prefix = self.prefix(prompter)  # after the rows: they may shorten it
                    own = self.virtual("suffix")
                    rows = [[([*own, *ids], len(own) + at) for ids, at in row] for row in rows]
                with spent.counting():
                    scores[list(numbers)] = channel_scores(self.decoder, rows, prefix)
        for shard in _counted(self, texts, spent) if self.scorer == "direct" else ():
            with spent.counting():
                _answer(self, shard, normalise, features, scores)
        return Reading(features=features, scores=scores, tokens=spent.tokens, seconds=spent.seconds)

    def features(self, texts: Sequence[str]) -> Reading:
        """Return the features of `texts` without scores: the tokens of the labels are not read."""
        features = np.zeros((len(texts), self.decoder.net.config.hidden_size), dtype=np.float32)
        spent = Spent(self.decoder)
        for shard in _counted(self, texts, spent):
            with spent.counting():
                features[list(shard.numbers)] = self.decoder.features(shard.prompts, shard.prefix)
        none = np.zeros((len(texts), 0))
        return Reading(features=features, scores=none, tokens=spent.tokens, seconds=spent.seconds)

    def premise(self) -> Floats:
        """Return the label scores of a query without a text, (1, labels): the lean of the prompt.

        Only where all queries share one context and the scorer is direct.
        """
        asked = _begun(self.virtual("suffix"), [self.prompter.premise()])
        return self.decoder.label_scores(asked, self.trie, self.prefix())


def _counted(reader: Reader, texts: Sequence[str], spent: Spent) -> Iterator[Shard]:
    """Yield the shards of `texts`; what one takes counts where each text has its own."""
    shards = reader.shards(texts)
    while True:
        with spent.counting(reader.context.sharing == "query"):
            shard = next(shards, None)
        if shard is None:
            return
        yield shard


def _answer(reader: Reader, shard: Shard, normalise: str, features: Floats, scores: Floats) -> None:
    """Write the features and scores of a shard's texts into their rows."""
    rows = [reader.trie.row(prompt) for prompt in shard.prompts]
    nodes, head = len(reader.trie.tokens), LabelHead(reader.decoder.net, reader.trie)
    for owners, states in reader.decoder.hidden(rows, shard.prefix):
        numbers = np.asarray(shard.numbers)[owners.view(-1, nodes)[:, 0].numpy()]
        grouped = states.view(-1, nodes, states.shape[-1])
        features[numbers] = grouped[:, 0].float().cpu().numpy()
        with torch.no_grad():
            part = head.scores(grouped, normalise)
        scores[numbers] = part.double().cpu().numpy()


def _begun(before: Sequence[int], rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the ids of queries that each begin with the virtual tokens `before`."""
    return [[*before, *ids] for ids in rows]


class Spent:
    """Seconds and tokens of a decoder, counted only where asked."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.seconds, self.tokens = decoder, 0.0, 0

    @contextmanager
    def counting(self, wanted: bool = True) -> Iterator[None]:
        """Count what happens inside, if `wanted`."""
        started, before = time.perf_counter(), self.decoder.tokens_run
        yield
        if wanted:
            self.seconds += time.perf_counter() - started
            self.tokens += self.decoder.tokens_run - before


def told_apart(labels: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
    """Raise ModelError (E-MODEL-160) when two labels have the same words, or one has none.

    `ids`: the token ids of each label's words.
    """
    known: dict[tuple[int, ...], str] = {}
    for label, own in zip(labels, ids, strict=True):
        other = known.setdefault(tuple(own), label)
        if other != label or not own:
            raise ModelError(
                "E-MODEL-160",
                f"This base's tokenizer cannot tell the label words of '{other}' and '{label}' "
                "apart: they are the same tokens.",
                fix="name the labels in words of the base's language, or choose another base",
            )
