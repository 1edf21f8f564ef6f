"""Keys and values that rows bring along: of a prefix, and of rows that grow token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]  # each (1 or rows, key heads, length, head size)


def token_bytes(net: Any) -> int:
    """Return the bytes that the keys and values of one token take in all layers of a decoder."""
    config = net.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * net.dtype.itemsize)


class Past:
    """The own keys and values of rows that grow, in room made once.

    `room`: most tokens of one row. Rows differ in length; `lengths`: (rows,). The prefix that all
    rows share is not in here, and is not copied.
    """

    def __init__(self, rows: int, room: int, device: torch.device) -> None:
        self.room = room
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.layers: list[KeysValues] = []
        self._masks: dict[int | None, Tensor] = {}  # of the step that runs, by window

    def take(self, numbers: Sequence[int], starts: Sequence[int], captured: list[KeysValues],
             lengths: Sequence[int]) -> None:  # fmt: skip
        """Copy what a pack captured for the rows `numbers`, which lie at `starts` of the pack."""
        if not self.layers:
            shape = (len(self.lengths), captured[0][0].shape[1], self.room)
            self.layers = [
                (key.new_zeros(*shape, key.shape[3]), value.new_zeros(*shape, value.shape[3]))
                for key, value in captured
            ]
        for own, new in zip(self.layers, captured, strict=True):
            for number, start, length in zip(numbers, starts, lengths, strict=True):
                for to, given in zip(own, new, strict=True):
                    to[number, :, :length] = given[0, :, start : start + length]
        for number, length in zip(numbers, lengths, strict=True):
            self.lengths[number] = length
        self._masks = {}

    def append(self, layer: int, key: Tensor, value: Tensor) -> KeysValues:
        """Add one token a row, (1, key heads, rows, size); return all of them up to the longest."""
        keys, values = self.layers[layer]
        rows = torch.arange(len(self.lengths), device=key.device)
        keys[rows, :, self.lengths] = key[0].transpose(0, 1)
        values[rows, :, self.lengths] = value[0].transpose(0, 1)
        longest = self.visible(None).shape[1]
        return keys[:, :, :longest], values[:, :, :longest]

    def visible(self, window: int | None) -> Tensor:
        """Return which own keys the new tokens see, (rows, longest)."""
        if window not in self._masks:
            steps = torch.arange(int(self.lengths.max()) + 1, device=self.lengths.device)
            seen = steps[None] <= self.lengths[:, None]
            if window is not None:
                seen &= self.lengths[:, None] - steps[None] < window
            self._masks[window] = seen
        return self._masks[window]

    def advance(self) -> None:
        """Count the token that every layer has appended."""
        self.lengths = self.lengths + 1
        self._masks = {}

    def select(self, rows: Tensor) -> None:
        """Keep only `rows` (repeats allowed), in their order."""
        self.lengths, self._masks = self.lengths[rows], {}
        self.layers = [(key[rows], value[rows]) for key, value in self.layers]

    def follow(self, rows: Tensor, last: int | None = None) -> None:
        """Let each row go on as row `rows[n]` did, in place; with `last`, only its last tokens."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        end = int(self.lengths.max()) if len(self.lengths) else 0
        first = 0 if last is None else max(0, int(self.lengths.min()) - last)
        if len(moved):
            for pair in self.layers:
                for kept in pair:
                    kept[moved, :, first:end] = kept[rows[moved], :, first:end]
        self.lengths, self._masks = self.lengths[rows], {}
