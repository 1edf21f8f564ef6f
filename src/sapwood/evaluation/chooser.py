"""Which demonstrations each text gets, where not all texts get the same."""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.context.prompter import Context
from sapwood.context.select import SELECTORS, Choice
from sapwood.evaluation.bases import Bases
from sapwood.interfaces import Floats
from sapwood.registry import resolve


class Chooser:
    """Choose for each text from the pool or the bank of a context; embeds the pool once.

    `embedder`: the encoder that selectors by similarity use, None for those by words.
    """

    def __init__(
        self, bases: Bases, context: Context, labels: Sequence[str], embedder: str | None
    ) -> None:
        self.bases, self.context, self.labels, self.embedder = bases, context, labels, embedder
        self._pool: Floats | None = None

    def choose(self, texts: Sequence[str]) -> list[Choice]:
        """Return, for each text, places in the context's demonstrations, in showing order."""
        context = self.context
        pool = context.demonstrations
        if context.sharing == "all":
            return [tuple(range(len(pool)))] * len(texts)
        if context.sharing == "group":
            return [context.groups[n] for n in self._routed(texts)]
        embeddings, queries = self._embedded([d.text for d in pool], texts)
        selector = resolve("selector", SELECTORS, context.selection)()
        found: list[Choice] = selector.select(
            pool, texts, context.shots, 0, labels=self.labels,
            embeddings=embeddings, query_embeddings=queries,
        )  # fmt: skip
        return found

    def _routed(self, texts: Sequence[str]) -> list[int]:
        """Return the number of the group whose medoid, its first member, is most like each text."""
        from sapwood.context.bank import route

        pool, groups = self.context.demonstrations, self.context.groups
        medoids = [pool[group[0]].text for group in groups]
        if self.embedder is None:  # all of a group's words say more than those of its medoid
            medoids = [" ".join(pool[place].text for place in group) for group in groups]
        known, asked = self._embedded(medoids, texts)
        return [int(n) for n in route(medoids, texts, known, asked)]

    def _embedded(
        self, known: Sequence[str], asked: Sequence[str]
    ) -> tuple[Floats | None, Floats | None]:
        if self.embedder is None:
            return None, None
        limit = self.context.max_text_tokens  # what is shown is what is compared
        if self._pool is None:
            self._pool = self.bases.embed(self.embedder, known, limit=limit)
        return self._pool, self.bases.embed(self.embedder, asked, limit=limit)
