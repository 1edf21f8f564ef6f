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
    chains = [n for n, row in enumerate(rows) if row.parents is None and row.wanted]
    whole = [[*prefix, *rows[n].ids] for n in chains]  # a net that is causal says it all at once
    for part, states in _run(net, whole, budget):
        owners = [chains[n] for n in part for _ in rows[chains[n]].wanted]
        lines = [place for place, n in enumerate(part) for _ in rows[chains[n]].wanted]
        at = [len(prefix) + w for n in part for w in rows[chains[n]].wanted]
        yield torch.tensor(owners), states[lines, at]
    trees = [n for n, row in enumerate(rows) if row.parents is not None and row.wanted]
    pairs = [(n, w) for n in trees for w in rows[n].wanted]
    branches = [[*prefix, *(rows[n].ids[i] for i in _branch(rows[n], w))] for n, w in pairs]
    found: dict[int, Tensor] = {}
    for part, states in _run(net, branches, budget):
        for place, n in enumerate(part):
            found[n] = states[place, len(branches[n]) - 1]
    if found:
        owners = [n for n, _ in pairs]
        yield torch.tensor(owners), torch.stack([found[n] for n in range(len(pairs))])


def _run(
    net: Any, sequences: Sequence[Sequence[int]], budget: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield (numbers of sequences, their states (sequences, longest, hidden)) within a budget."""
    body = getattr(net, net.base_model_prefix)
    device = net.get_input_embeddings().weight.device
    for part in split_by_budget([len(s) for s in sequences], budget):
        width = max(len(sequences[n]) for n in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros(len(part), width, dtype=torch.long)
        for place, n in enumerate(part):
            ids[place, : len(sequences[n])] = torch.tensor(sequences[n])
            mask[place, : len(sequences[n])] = 1
        yield (
            part,
            body(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).last_hidden_state,
        )
