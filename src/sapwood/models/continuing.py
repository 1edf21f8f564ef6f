"""Continuations by an n-gram model: what follows depends on the last few words alone.

Tokens are chosen as for nets (choosing.py), so every setting means the same. Contrastive search
compares hidden states, of which a table of counts has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import ModelError
from sapwood.models.beams import _best, _Search
from sapwood.models.choosing import Completion, Sampling, Stops, stops_of
from sapwood.models.growing import Asked, Growing, choose
from sapwood.models.ngram import NGram


def continued(
    model: NGram,
    prompts: Sequence[Sequence[int]],
    barred: Sequence[int],
    sampling: Sampling,
    tokenizer: Any = None,
) -> list[list[Completion]]:
    """Return `sampling.samples` continuations of each prompt, token ids without <s>.

    `barred`: tokens that never come. </s> ends a continuation, besides what `sampling` names.
    Raises ModelError (E-MODEL-175) for contrastive search.
    """
    sampling = _ending(model, sampling)
    stops = stops_of(sampling, tokenizer)
    table = _Table(model, barred)
    one = _searched if sampling.way == "beam" else _grown
    return [
        one(table, Asked(ids=ids, number=number), sampling, stops)
        for number, ids in enumerate(prompts)
    ]


def continuing(
    model: NGram,
    prompt: Sequence[int],
    barred: Sequence[int],
    sampling: Sampling,
    tokenizer: Any = None,
) -> Iterator[int]:
    """Yield the tokens of the first continuation as they come; beams yield them at the end."""
    if sampling.way == "beam":
        yield from continued(model, [prompt], barred, sampling, tokenizer)[0][0].ids
        return
    sampling = _ending(model, sampling)
    row = Growing(Asked(ids=prompt, number=0), 0, sampling, stops_of(sampling, tokenizer))
    table = _Table(model, barred)
    while not row.done:
        before = len(row.ids)
        _take([row], table.logs([[*prompt, *row.ids]]), sampling)
        yield from row.ids[before:]


class _Table:
    """What the model says comes next, without what is barred."""

    def __init__(self, model: NGram, barred: Sequence[int]) -> None:
        self.model, self.barred = model, list(barred)

    def logs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return log p of each word after each row of tokens, (rows, words), float32."""
        bos = self.model.symbols.bos
        found = np.stack([self.model.next_logs([bos, *row]) for row in rows])
        found[:, self.barred] = -np.inf
        return torch.from_numpy(found.astype(np.float32))


def _ending(model: NGram, sampling: Sampling) -> Sampling:
    """Return the settings with </s> among what ends a text."""
    if sampling.way == "contrastive":
        raise ModelError(
            "E-MODEL-175",
            "An n-gram model cannot answer by contrastive search: it has no hidden states.",
            fix="another --decoding: greedy, sample or beam",
        )
    return replace(sampling, stop_ids=tuple({*sampling.stop_ids, model.symbols.eos}))


def _take(rows: Sequence[Growing], logs: Tensor, sampling: Sampling) -> None:
    tokens, chosen = choose(logs, rows, sampling)
    for row, token, log in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
        row.take(token, log)


def _grown(table: _Table, asked: Asked, sampling: Sampling, stops: Stops) -> list[Completion]:
    """Return continuations that are chosen greedily or by chance."""
    every = [Growing(asked, sample, sampling, stops) for sample in range(sampling.samples)]
    while alive := [row for row in every if not row.done]:
        _take(alive, table.logs([[*asked.ids, *row.ids] for row in alive]), sampling)
    return [row.completion() for row in every]


def _searched(table: _Table, asked: Asked, sampling: Sampling, stops: Stops) -> list[Completion]:
    """Return the best continuations that beam search finds."""
    search = _Search(asked, sampling, stops)
    while not search.done:
        logs = table.logs([[*asked.ids, *beam.ids] for beam in search.beams])
        search.advance(_best(logs, [search], sampling)[0])
    return search.completions()
