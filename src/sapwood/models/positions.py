"""The hidden states of every position of texts, by whatever way a net reads them best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sapwood.models.cells import State
from sapwood.models.decoder import Decoder
from sapwood.models.layout import Row

STEPS = 512  # tokens of a row that a recurrent net runs at once, its state carried on
CARRIED_TOKENS = 1 << 13  # of rows that run side by side, padding counted
# (row of each state, its place in the row, states (positions, hidden))
Positions = tuple[list[int], list[int], Tensor]


def packed_states(decoder: Decoder, rows: Sequence[Sequence[int]]) -> Iterator[Positions]:
    """Yield the states of each position but the last of each row, once, from a Transformer.

    Rows that are longer than the net reads run in windows that overlap by half, and a position is
    answered where it has most before it.
    """
    limit = int(getattr(decoder.net.config, "max_position_embeddings", None) or 1 << 30)
    cut: list[Row] = []
    origins: list[tuple[int, int]] = []  # (row, its first token in the window)
    for number, row in enumerate(rows):
        for first, new in windows(len(row) - 1, limit):
            ids = row[first : min(first + limit, len(row) - 1)]
            cut.append(Row(ids=ids, wanted=range(new - first, len(ids))))
            origins.append((number, first))
    for owners, states in decoder.hidden(cut):
        which = owners.tolist()
        wanted = [place for n in dict.fromkeys(which) for place in cut[n].wanted]
        places = [origins[n][1] + place for n, place in zip(which, wanted, strict=True)]
        yield [origins[n][0] for n in which], places, states


def carried_states(decoder: Decoder, rows: Sequence[Sequence[int]]) -> Iterator[Positions]:
    """Yield the same of a recurrent net: rows side by side, their states carried on."""
    for batch in _alike(rows, CARRIED_TOKENS):
        lengths = [len(rows[n]) - 1 for n in batch]
        state: State | None = None
        for first in range(0, max(lengths), STEPS):
            width = min(STEPS, max(lengths) - first)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for place, n in enumerate(batch):
                own = rows[n][:-1][first : first + width]
                ids[place, : len(own)] = torch.tensor(own, dtype=torch.long)
                mask[place, : len(own)] = 1
            found = decoder.net.model(
                input_ids=ids.to(decoder.device),
                attention_mask=mask.to(decoder.device),
                state=state,
            )
            state = found.state
            lines, steps = mask.nonzero().T
            states = found.last_hidden_state[lines.to(decoder.device), steps.to(decoder.device)]
            yield [batch[n] for n in lines.tolist()], (steps + first).tolist(), states


def windows(length: int, limit: int) -> Iterator[tuple[int, int]]:
    """Yield (first token, first that is new) of windows of `limit` tokens that overlap by half.

    >>> list(windows(10, 4))
    [(0, 0), (2, 4), (4, 6), (6, 8)]
    """
    first = new = 0
    while True:
        yield first, new
        new = first + limit
        if new >= length:
            return
        first += max(1, limit // 2)


def _alike(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Yield numbers of rows of like length, so many tokens with padding at once, or one row."""
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))
    while order:
        take = max(1, tokens // min(len(rows[order[0]]), STEPS))
        yield order[:take]
        order = order[take:]
