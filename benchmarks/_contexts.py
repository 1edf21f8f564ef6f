"""Contexts of demonstrations for the benchmarks of long contexts and of cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common import Rows, shuffled


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """One context tokenised, and what follows it.

    `head`: the instruction; `blocks`: each demonstration as it follows the head; `queries`: what
    each query adds after them; `gold`: its label's number.
    """

    head: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...]
    queries: tuple[tuple[int, ...], ...]
    gold: tuple[int, ...]
    trie: Any

    def exact(self, shots: int) -> tuple[int, ...]:
        """Return the tokens of the head and the first demonstrations."""
        return (*self.head, *(token for block in self.blocks[:shots] for token in block))


def make_prompts(tokenizer: Any, rows: Rows, shots: int, queries: int, *, short: bool) -> Prompts:
    """Return prompts of `shots` demonstrations, the labels in turn.

    `short`: take the shortest texts, so that many fit; their order is drawn all the same.
    """
    from sapwood.context.template import default_template
    from sapwood.models.trie import build_trie

    chosen = []
    for number, label in enumerate(rows.labels):
        pool = shuffled([e for e in rows.train if e.label == label])
        pool = sorted(pool, key=lambda e: len(e.text)) if short else pool
        count = len(range(number, shots, len(rows.labels)))
        chosen.append(shuffled([pool[n % len(pool)] for n in range(count)]))
    shown = [chosen[n % len(chosen)][n // len(chosen)] for n in range(shots)]
    template = default_template(rows.labels, [e.text for e in rows.train[:200]])
    asked = shuffled(rows.dev)[:queries]

    def read(text: str, *, start: bool = False) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=start)["input_ids"])

    return Prompts(
        head=read(template.instruction, start=True),
        blocks=tuple(read(template.separator + template.demonstration(d)) for d in shown),
        queries=tuple(read(template.separator + template.query(e.text)) for e in asked),
        gold=tuple(rows.labels.index(e.label) for e in asked),
        trie=build_trie([read(template.words[label]) for label in rows.labels]),
    )
