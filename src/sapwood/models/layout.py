"""Packs: rows of tokens laid side by side without padding, over a prefix that all of them see.

A row is a chain of tokens, or a chain with a tree at its end (the labels of a query). Rows of a
pack are sorted by length, so that attention, the only part that pads, pads little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.models.past import KeysValues, Past

# Attention may pad a group by at most this share before a new group starts. Small groups cost a
# kernel launch each (about 40 us a layer), padding costs quadratic work; 1.3 is flat around there.
_PADDING = 1.3

# A GPU is idle on packs that fill a CPU: they are so many times as large there.
_WIDER = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a pack.

    `ids`: token ids; `wanted`: indices into `ids` whose hidden states the caller wants;
    `parents`: for each token the index of the token before it in its branch, -1 for none, or
    None for a plain chain.
    """

    ids: Sequence[int]
    wanted: Sequence[int] = ()
    parents: Sequence[int] | None = None

    def depths(self) -> list[int]:
        """Return each token's distance from the start of the row, along its branch."""
        if self.parents is None:
            return list(range(len(self.ids)))
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of similar length that attention pads to one length.

    `index`: (rows, length) token positions in the pack, padding repeats the row's last token;
    `valid`: (rows, length), False on padding; `visible`: (rows or 1, length, length) where the
    row is no plain causal chain, else None.
    """

    index: Tensor
    valid: Tensor
    visible: Tensor | None = None


class Attending(Protocol):
    """What takes attention over for rows that keep their keys and values themselves."""

    def attend(
        self, layer: int, states: tuple[Tensor, ...], window: int | None, scale: float
    ) -> Tensor:
        """Return (1, tokens, heads, size) from query, key and value, (1, heads, tokens, size)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which tokens of one pack may see each other.

    The first `shared` tokens of the pack are a prefix that every row sees and that takes part in
    gradients; `cached` holds one pair of keys and values a layer of a prefix encoded before, at
    the positions `cached_at` (length,), None for 0, 1, 2, ...; with both, the shared tokens follow
    the cached ones.
    `positions`: (tokens,). With `capture`, each layer appends its own keys and values to that
    list. With `past`, each token is the next one of a row that grows, and there are no groups; with
    `step` (models/slots.py) tokens are the next ones of rows in slots.
    """

    groups: tuple[Group, ...]
    positions: Tensor
    shared: int = 0
    cached: tuple[KeysValues, ...] = ()
    cached_at: Tensor | None = None
    capture: list[KeysValues] | None = None
    past: Past | None = None
    step: Attending | None = None

    @cached_property
    def borders(self) -> Tensor:
        """Return where each row begins and where the last one ends, (rows + 1,), int32.

        Groups hold the rows in the order of the pack; the shared prefix is one of them.
        """
        lengths = torch.cat([group.valid.sum(1) for group in self.groups])
        return functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)

    @property
    def longest(self) -> int:
        """Return the length of the longest row."""
        return max(group.index.shape[1] for group in self.groups)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Token ids (1, tokens), their layout, and where the wanted hidden states lie.

    `wanted`: (wanted,) positions in the pack; `owners`: for each the number of its row in the
    caller's order; rows keep the order of their `wanted`. `starts`: where each row begins, in the
    caller's order. `rows`: (tokens,), the number of each token's row in the caller's order, -1 for
    the shared prefix; None where nobody asks.
    """

    ids: Tensor
    layout: Layout
    wanted: Tensor
    owners: Tensor
    starts: tuple[int, ...] = ()
    rows: Tensor | None = None

    def inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return what a net whose weights have this number format is called with."""
        return {
            "input_ids": self.ids,
            "attention_mask": torch.zeros(1, 1, 1, 1, dtype=dtype, device=self.ids.device),
            "position_ids": self.layout.positions[None],
            "pack": self.layout,
        }


def tokens_at_once(tokens: int, device: torch.device) -> int:
    """Return how many tokens a pack holds on `device`, from what suits a CPU."""
    return tokens if device.type == "cpu" else _WIDER * tokens


def split_by_budget(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield row numbers, longest rows first, in lists of at most `budget` tokens (or one row)."""
    part: list[int] = []
    used = 0
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        if part and used + lengths[number] > budget:
            yield part
            part, used = [], 0
        part.append(number)
        used += lengths[number]
    if part:
        yield part


def row_tree(row: Row, length: int) -> Tensor:
    """Return (length, length): the tokens each token of a tree row sees, itself and ancestors."""
    visible = torch.eye(length, dtype=torch.bool)
    if row.parents is None:
        return visible.new_ones(length, length).tril()
    for token, parent in enumerate(row.parents):
        if parent >= 0:
            visible[token] |= visible[parent]
    return visible


def _group(rows: Sequence[Row], starts: Sequence[int], causal: bool) -> Group:
    lengths = torch.tensor([len(row.ids) for row in rows])
    length = int(lengths.max())
    steps = torch.arange(length)
    valid = steps[None, :] < lengths[:, None]
    index = torch.tensor(starts)[:, None] + torch.minimum(steps[None, :], lengths[:, None] - 1)
    visible = None
    if not causal:
        if not bool(valid.all()):
            visible = (valid[:, None, :] | torch.eye(length, dtype=torch.bool)).expand(
                len(rows), length, length
            )
        else:
            visible = torch.ones(1, length, length, dtype=torch.bool)
    elif any(row.parents is not None for row in rows):
        visible = torch.stack([row_tree(row, length) for row in rows])
    return Group(index=index, valid=valid, visible=visible)


def _grouped(lengths: Sequence[int]) -> Iterator[range]:
    """Yield ranges over rows sorted by falling length whose padding stays within `_PADDING`."""
    first, tokens = 0, 0
    for number, length in enumerate(lengths):
        padded = (number - first + 1) * lengths[first]
        if number > first and padded > _PADDING * (tokens + length) + 64:
            yield range(first, number)
            first, tokens = number, 0
        tokens += length
    yield range(first, len(lengths))


def build_pack(
    rows: Sequence[Row],
    *,
    shared: Sequence[int] = (),
    cached: tuple[KeysValues, ...] = (),
    start: int | None = None,
    cached_at: Tensor | None = None,
    causal: bool = True,
    device: str | torch.device = "cpu",
) -> Pack:
    """Lay `rows` side by side, after the `shared` token ids or over a `cached` prefix.

    Rows start at the position `start`, by default the one after the prefix; `cached_at`: see
    Layout. Returns the pack on `device`.
    """
    assert not (shared and cached), "a prefix is either in the pack or encoded before"
    order = sorted(range(len(rows)), key=lambda n: (-len(rows[n].ids), n))
    ordered = [rows[n] for n in order]
    offset = cached[0][0].shape[2] if cached else len(shared)
    offset = offset if start is None else start
    ids, positions, starts = list(shared), list(range(len(shared))), []
    for row in ordered:
        starts.append(len(ids))
        ids.extend(row.ids)
        positions.extend(offset + depth for depth in row.depths())
    rows_of = [-1] * len(shared) + [n for n in order for _ in rows[n].ids]
    groups = [_group([Row(ids=shared)], [0], causal)] if shared else []
    if rows:
        for part in _grouped([len(row.ids) for row in ordered]):
            groups.append(_group([ordered[n] for n in part], [starts[n] for n in part], causal))
    where = dict(zip(order, starts, strict=True))
    wanted = [where[n] + w for n, row in enumerate(rows) for w in row.wanted]
    owners = [n for n, row in enumerate(rows) for _ in row.wanted]
    moved = tuple(
        Group(
            index=group.index.to(device),
            valid=group.valid.to(device),
            visible=None if group.visible is None else group.visible.to(device),
        )
        for group in groups
    )
    return Pack(
        ids=torch.tensor([ids], device=device),
        layout=Layout(
            groups=moved,
            positions=torch.tensor(positions, device=device),
            shared=len(shared),
            cached=cached,
            cached_at=cached_at,
        ),
        wanted=torch.tensor(wanted, dtype=torch.long, device=device),
        owners=torch.tensor(owners, dtype=torch.long, device=device),
        starts=tuple(where[n] for n in range(len(rows))),
        rows=torch.tensor(rows_of, device=device),
    )
