"""A decoder prompted under one context: features and label scores of texts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sapwood.context.prompter import Context, Prompter
from sapwood.context.select import SELECTORS
from sapwood.evaluation.bases import Bases
from sapwood.interfaces import Floats
from sapwood.methods import lora
from sapwood.models.decoder import Prefix
from sapwood.models.labels import LabelHead
from sapwood.models.trie import LabelTrie, build_trie
from sapwood.registry import resolve


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a base gave for texts: `features` (texts, hidden) and, from decoders, `scores`
    (texts, labels); `tokens` and `seconds` are what the texts cost, the context not counted.
    """

    features: Floats
    scores: Floats
    tokens: int
    seconds: float


class Reader:
    """Prompt a decoder under one context and read features and label scores in one pass.

    With `scope` "suffix" the context is encoded by the plain base, an attached method acts on the
    queries only.
    """

    def __init__(
        self,
        bases: Bases,
        name: str,
        context: Context,
        labels: Sequence[str],
        *,
        embedder: str | None = None,
        scope: str = "all",
    ) -> None:
        self.decoder = bases.decoder(name)
        self.bases, self.embedder, self.context, self.labels = bases, embedder, context, labels
        self.scope = scope
        self.prompter = Prompter(bases.get(name).tokenizer, context)
        self.trie: LabelTrie = build_trie(self.prompter.labels(labels))
        self._pool: Floats | None = None

    def prefix(self) -> Prefix:
        """Return the encoded context that all queries share."""
        if self.scope == "suffix":
            with lora.disabled(self.decoder.net):
                return self.decoder.encode(self.prompter.prefix)
        return self.decoder.encode(self.prompter.prefix)

    def prompts(self, texts: Sequence[str]) -> tuple[list[list[int]], Prefix]:
        """Return the token ids of each query and the prefix they follow."""
        if self.context.sharing == "all":
            rest = self.prompter.rest(texts)  # first, because it may shorten the prefix
            return rest, self.prefix()
        pool = self.context.demonstrations
        embeddings = queries = None
        if self.embedder is not None:
            if self._pool is None:
                self._pool = self.bases.embed(self.embedder, [d.text for d in pool])
            embeddings, queries = self._pool, self.bases.embed(self.embedder, texts)
        chosen = resolve("selector", SELECTORS, self.context.selection)().select(
            pool, texts, self.context.shots, 0, labels=self.labels,
            embeddings=embeddings, query_embeddings=queries,
        )  # fmt: skip
        whole = [
            self.prompter.whole(text, [pool[n] for n in numbers])
            for text, numbers in zip(texts, chosen, strict=True)
        ]
        return whole, Prefix()

    def read(self, texts: Sequence[str], *, normalise: str = "vocabulary") -> Reading:
        """Return features and scores of `texts`. See `Decoder.label_scores` for `normalise`."""
        prompts, prefix = self.prompts(texts)
        started, before = time.perf_counter(), self.decoder.tokens_run
        rows = [self.trie.row(prompt) for prompt in prompts]
        nodes, head = len(self.trie.tokens), LabelHead(self.decoder.net, self.trie)
        features = np.zeros((len(rows), self.decoder.net.config.hidden_size), dtype=np.float32)
        scores = np.zeros((len(rows), len(self.labels)))
        for owners, states in self.decoder.hidden(rows, prefix):
            numbers = owners.view(-1, nodes)[:, 0].numpy()
            grouped = states.view(-1, nodes, states.shape[-1])
            features[numbers] = grouped[:, 0].float().cpu().numpy()
            with torch.no_grad():
                part = head.scores(grouped, normalise)
            scores[numbers] = part.double().cpu().numpy()
        return Reading(
            features=features,
            scores=scores,
            tokens=self.decoder.tokens_run - before,
            seconds=time.perf_counter() - started,
        )
