"""The plain padded path, for decoders that cannot be packed exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sapwood.models.layout import Row, split_by_budget


def _branch(row: Row, token: int) -> list[int]:
    """Return the indices from the row's start to `token`, along its branch."""
    if row.parents is None:
        return list(range(token + 1))
    path: list[int] = []
    while token >= 0:
        path.append(token)
        token = row.parents[token]
    return path[::-1]


def padded_hidden(
    net: Any, rows: Sequence[Row], prefix: Sequence[int], budget: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (row numbers, hidden states) like `Decoder.hidden`, each branch a full padded row."""
    for number, row in enumerate(rows):
        assert all(0 <= w < len(row.ids) for w in row.wanted), f"row {number} wants a token outside"
    sequences = [
        [*prefix, *(row.ids[i] for i in _branch(row, w))] for row in rows for w in row.wanted
    ]
    owners = [number for number, row in enumerate(rows) for _ in row.wanted]
    found: dict[int, Tensor] = {}
    body = getattr(net, net.base_model_prefix)
    device = net.get_input_embeddings().weight.device
    for part in split_by_budget([len(s) for s in sequences], budget):
        width = max(len(sequences[n]) for n in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros(len(part), width, dtype=torch.long)
        for place, n in enumerate(part):
            ids[place, : len(sequences[n])] = torch.tensor(sequences[n])
            mask[place, : len(sequences[n])] = 1
        states = body(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        ).last_hidden_state
        last = (mask.sum(1) - 1).to(device)
        for place, n in enumerate(part):
            found[n] = states[place, last[place]]
    if found:
        yield torch.tensor(owners), torch.stack([found[n] for n in range(len(sequences))])
