"""Examples of an objective as rows of a net, and rows as packs.

Where an example joins documents it is cut: each piece is a row of its own, so that no token sees
another document's, and positions begin anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.interfaces import Integers
from sapwood.models import attention
from sapwood.models.layout import Pack, Row, build_pack, split_by_budget

Example = Mapping[str, Any]
NOT_LEARNT = -100  # transformers' and torch's own mark


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One row: `ids` (n,), `labels` (n,) with NOT_LEARNT, `types` (n,) where there are segments.

    `pair`: the label of a pair of segments, or None; `prefix`: tokens seen both ways.
    """

    ids: Integers
    labels: Integers
    types: Integers | None = None
    pair: int | None = None
    prefix: int = 0


def pieces(example: Example) -> list[Piece]:
    """Return the rows of one example, cut where its `documents` change."""
    ids = np.asarray(example["input_ids"])
    labels = np.asarray(example.get("labels", np.full(len(ids), NOT_LEARNT)))
    types = example.get("token_type_ids")
    pair = example.get("next_sentence_label")
    prefix = int(example.get("prefix", 0))
    whole = Piece(
        ids=ids, labels=labels, types=None if types is None else np.asarray(types),
        pair=None if pair is None else int(pair), prefix=prefix,
    )  # fmt: skip
    documents = example.get("documents")
    if documents is None or pair is not None or prefix or len(ids) == 0:
        return [whole]
    cuts = np.flatnonzero(np.diff(np.asarray(documents))) + 1
    if not len(cuts):
        return [whole]
    parts = zip(np.split(ids, cuts), np.split(labels, cuts), strict=True)
    segments = [None] * (len(cuts) + 1) if types is None else np.split(np.asarray(types), cuts)
    return [
        Piece(ids=own, labels=wanted, types=kinds)
        for (own, wanted), kinds in zip(parts, segments, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Pieces that run together: `pack`, its wanted tokens' `gold`, `types` (1, tokens) or None."""

    pieces: tuple[Piece, ...]
    pack: Pack
    gold: Tensor
    types: Tensor | None


def packs(
    rows: Sequence[Piece], budget: int, *, causal: bool, device: torch.device
) -> Iterator[Packed]:
    """Yield all rows, about `budget` tokens at a time.

    Wanted are the tokens with a label, or with `causal` those before one.
    """
    shift = 1 if causal else 0
    for part in split_by_budget([len(piece.ids) for piece in rows], budget):
        own = [rows[n] for n in part]
        places = [np.flatnonzero(piece.labels[shift:] != NOT_LEARNT) for piece in own]
        laid = [
            Row(ids=piece.ids.tolist(), wanted=at.tolist())
            for piece, at in zip(own, places, strict=True)
        ]
        gold = [piece.labels[shift:][at] for piece, at in zip(own, places, strict=True)]
        pack = build_pack(laid, causal=causal, device=device)
        types = None
        if any(piece.types is not None for piece in own):
            types = torch.zeros_like(pack.ids)
            for piece, start in zip(own, pack.starts, strict=True):
                if piece.types is not None:
                    kinds = torch.from_numpy(piece.types.astype(np.int64))
                    types[0, start : start + len(kinds)] = kinds.to(device)
        yield Packed(
            pieces=tuple(own), pack=pack, types=types,
            gold=torch.from_numpy(np.concatenate(gold).astype(np.int64)).to(device),
        )  # fmt: skip


def run(body: Any, packed: Packed, **more: Any) -> Tensor:
    """Return the last hidden states of a pack, (tokens, hidden), of a net without its head."""
    pack = packed.pack
    if packed.types is not None:
        more["token_type_ids"] = packed.types
    states: Tensor = body(**pack.inputs(body.dtype), **more).last_hidden_state
    return states[0]


def packable(net: Any) -> None:
    """Make a net take packs."""
    attention.register()
    net.set_attn_implementation(attention.NAME)


def learnt(examples: Sequence[Example], *, causal: bool = False) -> int:
    """Return how many tokens of the examples are learnt, as rows cut by document."""
    shift = 1 if causal else 0
    rows = [piece for example in examples for piece in pieces(example)]
    return sum(int((piece.labels[shift:] != NOT_LEARNT).sum()) for piece in rows)
