"""Rows that grow side by side, each behind a beginning of its own: keys and values in slots.

One step runs pieces of many rows as one pass: the next token of each row that writes and, beside
them, chunks of prompts that are being read (cf. Sarathi, Agrawal et al. 2023, arXiv 2308.16369).
Every linear layer sees them as one list of tokens; only attention looks at rows. A prefix or an
encoded context is where a row begins: its keys and values are copied into the row's slot, a few
milliseconds instead of the seconds that computing them takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sapwood.models.attention import additive, partial_attention
from sapwood.models.layout import Layout, Pack, Row, row_tree
from sapwood.models.past import KeysValues
from sapwood.models.prefixes import NO_PREFIX, Prefix

# Slots grow by doubling, from room for a prompt and an answer of a few sentences.
_ROOM, _MOST_AT_REST = 128, 1024


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The next tokens of the row in `slot`; a tree (the labels of a query) ends its row."""

    slot: int
    row: Row


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Several tokens of one row, the pack's `first` to `last`, after which it holds `end`."""

    slot: int
    first: int
    last: int
    end: int
    tree: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One pass over pieces of rows: where each token's keys go, and what it sees.

    `where`, `places`: (tokens,) the slot of each token and its place there; `singles`: the pack's
    tokens that are the only one of their row, and `owners`, (singles,), their slots, all among the
    first `rows`, none longer than `longest`.
    """

    slots: Slots
    where: Tensor
    places: Tensor
    positions: Tensor
    singles: Tensor
    owners: Tensor
    rows: int
    longest: int
    chunks: tuple[_Chunk, ...]
    masks: dict[Any, Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, states: tuple[Tensor, ...], window: int | None, scale: float
    ) -> Tensor:
        """Keep the keys and values of all tokens, and let each attend to its own row.

        `states`: query, key and value, (1, heads, tokens, size). Returns (1, tokens, heads, size).
        """
        query, key, value = (state[0].transpose(0, 1) for state in states)  # (tokens, heads, size)
        keys, values = self.slots.room_of(layer, key)
        keys[self.where, :, self.places] = key
        values[self.where, :, self.places] = value
        out = torch.empty_like(query)
        if len(self.singles):
            asked = query.new_zeros(self.rows, *query.shape[1:])
            asked[self.owners] = query[self.singles]
            seen = slice(0, self.rows), slice(None), slice(0, self.longest)
            mask = self._singles_mask(window, query.dtype)
            found, _ = partial_attention(asked[:, :, None], keys[seen], values[seen], mask, scale)
            out[self.singles] = found[self.owners, :, 0]
        for chunk in self.chunks:
            asked = query[chunk.first : chunk.last].transpose(0, 1)[None]
            seen = slice(chunk.slot, chunk.slot + 1), slice(None), slice(0, chunk.end)
            mask = self._chunk_mask(chunk, window, query.dtype)
            found, _ = partial_attention(asked, keys[seen], values[seen], mask, scale)
            out[chunk.first : chunk.last] = found[0].transpose(0, 1)
        return out[None]

    def _singles_mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return the additive mask (rows, 1, 1, longest); a slot without a token sees one key."""
        key = (window, dtype)
        if key not in self.masks:
            ends = torch.zeros(self.rows, dtype=torch.long, device=self.where.device)
            ends[self.owners] = self.places[self.singles]
            seen = torch.arange(self.longest, device=ends.device)[None] <= ends[:, None]
            if window is not None:
                at = self.slots.at[: self.rows, : self.longest]
                now = at.gather(1, ends[:, None])
                seen &= now - at < window
            self.masks[key] = additive(seen[:, None, None], dtype)
        return self.masks[key]

    def _chunk_mask(self, chunk: _Chunk, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return the additive mask (1, 1, tokens, keys) of a chunk."""
        key = (chunk.slot, window, dtype)
        if key not in self.masks:
            size, device = chunk.last - chunk.first, self.where.device
            before = torch.ones(size, chunk.end - size, dtype=torch.bool, device=device)
            own = chunk.tree
            if own is None:
                own = torch.ones(size, size, dtype=torch.bool, device=device).tril()
            seen = torch.cat((before, own), 1)
            if window is not None:
                now = self.positions[chunk.first : chunk.last]
                seen &= now[:, None] - self.slots.at[chunk.slot, : chunk.end][None] < window
            self.masks[key] = additive(seen[None, None], dtype)
        return self.masks[key]


class Slots:
    """Room for `count` rows on `device`; `lengths`: how many keys each slot holds.

    A row's next token sits at the position `following[slot]`, which is its length unless it begins
    behind a context that was encoded in blocks.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.device, self.room = device, _ROOM
        self.lengths, self.following = [0] * count, [0] * count
        self.layers: list[KeysValues] = []
        self.at = torch.zeros(count, _ROOM, dtype=torch.long, device=device)

    @property
    def bytes(self) -> int:
        """Return the memory that keys and values take."""
        return sum(x.numel() * x.element_size() for pair in self.layers for x in pair)

    def begin(self, slot: int, prefix: Prefix = NO_PREFIX) -> None:
        """Let a row begin behind `prefix`, which is copied."""
        length = prefix.layers[0][0].shape[2] if prefix.layers else 0
        self._widen(length)
        self.lengths[slot], self.following[slot] = length, prefix.next_position if length else 0
        if not length:
            return
        at = prefix.positions
        self.at[slot, :length] = torch.arange(length, device=self.device) if at is None else at
        for layer, pair in enumerate(prefix.layers):
            for kept, given in zip(self.room_of(layer, pair[0][0].transpose(0, 1)), pair,
                                   strict=True):  # fmt: skip
                kept[slot, :, :length] = given[0]

    def move(self, source: int, target: int) -> None:
        """Put the row of one slot into another, which is free."""
        length = self.lengths[source]
        for pair in self.layers:
            for kept in pair:
                kept[target, :, :length] = kept[source, :, :length]
        self.at[target, :length] = self.at[source, :length]
        self.lengths[target], self.following[target] = length, self.following[source]
        self.lengths[source] = 0

    def rest(self) -> None:
        """Give back room that only long rows needed, once no row is there."""
        if self.room > _MOST_AT_REST:
            self.layers, self.room = [], _ROOM
            self.at = self.at[:, :_ROOM].clone()

    def pack(self, pieces: Sequence[Piece]) -> Pack:
        """Return one pass over pieces, at most one a slot, whose tokens then count as held.

        `Pack.rows` says the slot of each token, `Pack.owners` the number of the piece of each
        wanted state.
        """
        self._widen(max(self.lengths[p.slot] + len(p.row.ids) for p in pieces))
        ids: list[int] = []
        where, places, positions, wanted, owners = ([] for _ in range(5))  # type: ignore[var-annotated]
        chunks = []
        for number, piece in enumerate(pieces):
            slot, row, first = piece.slot, piece.row, len(ids)
            held, size, start = self.lengths[slot], len(row.ids), self.following[slot]
            ids += row.ids
            where += [slot] * size
            places += range(held, held + size)
            positions += [start + depth for depth in row.depths()]
            wanted += [first + token for token in row.wanted]
            owners += [number] * len(row.wanted)
            if size > 1:
                tree = None if row.parents is None else row_tree(row, size).to(self.device)
                chunks.append(
                    _Chunk(slot=slot, first=first, last=first + size, end=held + size, tree=tree)
                )
            self.lengths[slot], self.following[slot] = held + size, start + size
        singles = [n for n, c in enumerate(_sizes(pieces)) if c == 1]
        slots_of = [where[n] for n in singles]

        def tensor(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.long, device=self.device)

        step = Step(
            slots=self,
            where=tensor(where),
            places=tensor(places),
            positions=tensor(positions),
            singles=tensor(singles),
            owners=tensor(slots_of),
            rows=max(slots_of, default=-1) + 1,
            longest=max((self.lengths[slot] for slot in slots_of), default=0),
            chunks=tuple(chunks),
        )
        self.at[step.where, step.places] = step.positions
        return Pack(
            ids=tensor(ids)[None],
            layout=Layout(groups=(), positions=step.positions, step=step),
            wanted=tensor(wanted),
            owners=tensor(owners),
            rows=step.where,
        )

    def room_of(self, layer: int, like: Tensor) -> KeysValues:
        """Return keys and values of a layer, (slots, heads, room, size), of heads as in `like`."""
        while len(self.layers) <= layer:
            shape = (len(self.lengths), like.shape[-2], self.room, like.shape[-1])
            self.layers.append((like.new_zeros(shape), like.new_zeros(shape)))
        return self.layers[layer]

    def _widen(self, needed: int) -> None:
        """Make room for rows of so many tokens; what is held is copied."""
        if needed <= self.room:
            return
        before, self.room = self.room, max(needed, 2 * self.room)
        self.at = _wider(self.at[:, None, :, None], self.room)[:, 0, :, 0]
        for number, (keys, values) in enumerate(self.layers):
            self.layers[number] = _wider(keys, self.room), _wider(values, self.room)
        assert self.room > before


def _sizes(pieces: Sequence[Piece]) -> list[int]:
    """Return for each token how many its piece has."""
    return [len(piece.row.ids) for piece in pieces for _ in piece.row.ids]


def _wider(kept: Tensor, room: int) -> Tensor:
    """Return (slots, heads, tokens, size) with room for more tokens."""
    made = kept.new_zeros(*kept.shape[:2], room, kept.shape[3])
    made[:, :, : kept.shape[2]] = kept
    return made
