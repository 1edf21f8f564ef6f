"""Layers of recurrent cells, and rows cut where a document begins: each part a run of its own.

Padding and the ends of documents would carry a state where it does not belong. A row is therefore
cut into runs, which torch computes as one packed sequence, as fast as whole rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

# Loaded weights and dropped ones lie apart, which cuDNN says at every call and then copes with.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}
# What a net remembers of a row: for each layer (h,) or (h, c), each (1, rows, width of the layer).
State = tuple[tuple[Tensor, ...], ...]


class Runs:
    """Rows cut where a document begins or padding stands, in the order of a packed sequence.

    `rows`: (runs,) the row of each run, the longest first; `places`: (tokens,) where in the
    flattened rows each packed token is; `sizes`: (longest,) how many runs have a token at each
    step; `first`, `last`: (rows,) the runs that begin and end each row, -1 where it has none.
    """

    def __init__(self, real: Tensor, documents: Tensor | None) -> None:
        rows, width = real.shape
        begins = real.clone()
        begins[:, 1:] &= ~real[:, :-1]
        if documents is not None:
            begins[:, 1:] |= real[:, 1:] & (documents[:, 1:] != documents[:, :-1])
        starts = begins.flatten().nonzero()[:, 0]
        number = (begins.flatten().cumsum(0) - 1)[real.flatten()]
        lengths = torch.bincount(number, minlength=len(starts))
        order = lengths.argsort(descending=True, stable=True)
        starts, lengths = starts[order], lengths[order]
        steps = torch.arange(int(lengths[0]) if len(lengths) else 0, device=real.device)
        self.sizes = (lengths[None] > steps[:, None]).sum(1)
        step = steps.repeat_interleave(self.sizes)
        before = self.sizes.cumsum(0) - self.sizes
        run = torch.arange(len(step), device=real.device) - before.repeat_interleave(self.sizes)
        self.places = starts[run] + step
        self.rows, self.shape = starts // width, (rows, width)
        numbers = torch.arange(len(starts), device=real.device)
        self.first = real.new_full((rows,), -1, dtype=torch.long)
        self.last = self.first.clone()
        early = order.argsort()  # of the runs in the order of the text, their places in this one
        self.first[self.rows[early].flip(0)] = numbers[early].flip(0)
        self.last[self.rows[early]] = numbers[early]

    def packed(self, values: Tensor) -> PackedSequence:
        """Return values (rows, length, width) as a packed sequence of the runs."""
        return PackedSequence(values.flatten(0, 1)[self.places], self.sizes.cpu())

    def padded(self, packed: PackedSequence) -> Tensor:
        """Return what a layer made of the runs as (rows, length, width), zeros at padding."""
        flat = packed.data.new_zeros(self.shape[0] * self.shape[1], packed.data.shape[1])
        return flat.index_copy(0, self.places, packed.data).view(*self.shape, -1)

    def begun(self, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the state each run begins with: that of its row for the first, else zeros."""
        rows = (self.first >= 0).nonzero()[:, 0]
        begun = [part.new_zeros(1, len(self.rows), part.shape[2]) for part in state]
        pairs = zip(begun, state, strict=True)
        return tuple(to.index_copy(1, self.first[rows], own[:, rows]) for to, own in pairs)

    def ended(self, state: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the state of each row after its last run; a row without any keeps its own."""
        rows = (self.last >= 0).nonzero()[:, 0]
        pairs = zip(state, after, strict=True)
        return tuple(own.index_copy(1, rows, new[:, self.last[rows]]) for own, new in pairs)


class Layer(nn.Module):
    """One layer of cells, whose weights from step to step may be dropped."""

    def __init__(self, cell: str, given: int, size: int, weight_drop: float) -> None:
        super().__init__()
        self.rnn = CELLS[cell](given, size, batch_first=True)
        self.weight_drop = weight_drop

    def begin(self, rows: int, like: Tensor) -> tuple[Tensor, ...]:
        """Return zeros for `rows` rows, in the number format and on the device of `like`."""
        zeros = like.new_zeros(1, rows, self.rnn.hidden_size)
        return (zeros, zeros) if isinstance(self.rnn, nn.LSTM) else (zeros,)

    def forward(
        self, values: Tensor, state: tuple[Tensor, ...], runs: Runs | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (states (rows, length, size), the state after each row).

        Always in the format of the weights: autocast makes torch's cells on CUDA answer in float16,
        whatever half precision was asked for.
        """
        with torch.autocast(values.device.type, enabled=False):
            kind = self.rnn.weight_hh_l0.dtype
            return self._plain(values.to(kind), tuple(part.to(kind) for part in state), runs)

    def _plain(
        self, values: Tensor, state: tuple[Tensor, ...], runs: Runs | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        begun = state if runs is None else runs.begun(state)
        given = values if runs is None else runs.packed(values)
        if self.training and self.weight_drop:  # one mask for all steps
            dropped = functional.dropout(self.rnn.weight_hh_l0, self.weight_drop)
            found, after = functional_call(
                self.rnn, {"weight_hh_l0": dropped}, (given, _as_torch(begun))
            )
        else:
            found, after = self.rnn(given, _as_torch(begun))
        ended = after if isinstance(after, tuple) else (after,)
        if runs is None:
            return found, ended
        return runs.padded(found), runs.ended(state, ended)


def chosen(state: State, rows: Tensor | Sequence[int]) -> State:
    """Return the state of these rows, in this order; a row may come twice."""
    places = torch.as_tensor(rows, device=state[0][0].device)
    return tuple(tuple(part[:, places] for part in layer) for layer in state)


def forgotten(state: State, rows: Tensor) -> State:
    """Return the state with zeros where `rows` (rows,) is true: there a document begins."""
    kept = (~rows).to(state[0][0].dtype)[None, :, None]
    return tuple(tuple(part * kept for part in layer) for layer in state)


def locked_dropout(values: Tensor, share: float) -> Tensor:
    """Drop a share of the features of each row, the same at every step (Gal and Ghahramani 2016).

    `values`: (rows, length, features).
    """
    if not share:
        return values
    return values * functional.dropout(values.new_ones(len(values), 1, values.shape[2]), share)


def _as_torch(state: tuple[Tensor, ...]) -> Any:
    """Return a state as torch's layers take it: (h, c) of an LSTM, h of a GRU."""
    return tuple(part.contiguous() for part in state) if len(state) == 2 else state[0].contiguous()


def runs_of(values: Tensor, mask: Tensor | None, documents: Tensor | None) -> Runs | None:
    """Return how rows are cut, None where every row is one whole document."""
    whole = mask is None or bool(mask.bool().all())
    if whole and (documents is None or bool((documents == documents[:, :1]).all())):
        return None
    real = values.new_ones(values.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
    return Runs(real, documents)
