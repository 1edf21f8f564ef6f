"""What the blocks below all training give, computed once for rows that are read in every epoch.

Rows are cut into sheets, fixed packs of about 1,000 tokens. The states that enter the first trained
block are kept a sheet a file, named by a digest of all they depend on: weights, their format, what
comes before the rows, the tokens, the depth. A step takes its rows' states from their sheets and
runs the upper blocks only. States always come from a row's own sheet, whatever is on disk, so a
lost, evicted or damaged file changes no bit of a run. Rows beyond the bound run through the whole
net in every step.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sapwood.errors import ModelError
from sapwood.files import told
from sapwood.models.decoder import NO_PREFIX, PACK_TOKENS, Decoder, Prefix
from sapwood.models.layout import Pack, Row, build_pack, split_by_budget
from sapwood.models.stored import ContextStore

SCHEMA = "sapwood.states/1"
Key = tuple[tuple[int, ...], tuple[int, ...] | None]


class StateStore(ContextStore):
    """A folder of hidden states, the least recently used deleted beyond `limit_bytes`."""

    def states(self, key: str) -> Tensor | None:
        """Return the states of `key`, (tokens, hidden), mapped from their file, or None.

        Raises ModelError (E-MODEL-038) for a file that does not hold what was written.
        """
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                facts, found = file.metadata() or {}, file.get_tensor("states")
            os.utime(path)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ModelError("E-MODEL-038", f"{path} is damaged: {error}.") from error
        if facts != {"schema": SCHEMA, "key": key, "sha256": _content(found)}:
            raise ModelError("E-MODEL-038", f"{path} does not hold what was written.")
        return found  # type: ignore[no-any-return]

    def keep(self, key: str, states: Tensor) -> None:
        """Write states, whole or not at all; older files are deleted beyond the limit."""
        path = self.path(key)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        facts = {"schema": SCHEMA, "key": key, "sha256": _content(states)}
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file({"states": states}, part, metadata=facts)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        self._evict(path)


@dataclass(frozen=True, kw_only=True)
class Below:
    """The blocks that give the states: their `paths`, from the first, and the block that takes
    them, `above`; `identity` is what their weights are, methods left out.
    """

    paths: tuple[str, ...]
    above: str
    identity: str


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What comes before every row: token ids in each pack, or an encoded prefix, or nothing."""

    shared: tuple[int, ...] = ()
    prefix: Prefix = NO_PREFIX


class FrozenBelow:
    """The states below training of some rows, kept in `store` within its bound.

    `note` hears of a damaged file. Base dropout below training is off, also while it trains.
    """

    def __init__(
        self,
        decoder: Decoder,
        below: Below,
        rows: Sequence[Row],
        store: StateStore,
        *,
        opening: Opening = Opening(),
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.decoder, self.below, self.store, self.note = decoder, below, store, note
        self.opening = opening
        self.computed = 0
        self._sheets: list[list[Row]] = []
        self._where: dict[Key, tuple[int, int]] = {}  # sheet, first token in it
        self._opened: dict[int, Tensor] = {}
        self._plan(rows)
        self._root = self._digest()

    def _plan(self, rows: Sequence[Row]) -> None:
        """Cut distinct rows into sheets, the longest first, until the bound is reached."""
        distinct = list({_key(row): row for row in rows}.values())
        dtype, width = self.decoder.net.dtype, self.decoder.net.config.hidden_size
        left = self.store.limit_bytes - (1 << 10)
        if self.opening.shared:
            self._sheets.append([Row(ids=self.opening.shared)])
            left -= len(self.opening.shared) * width * dtype.itemsize
        for part in split_by_budget([len(row.ids) for row in distinct], PACK_TOKENS):
            sheet = [distinct[n] for n in part]
            left -= sum(len(row.ids) for row in sheet) * width * dtype.itemsize + (1 << 10)
            if left < 0:
                return
            at = 0
            for row in sheet:
                self._where[_key(row)] = (len(self._sheets), at)
                at += len(row.ids)
            self._sheets.append(sheet)

    @property
    def rows(self) -> int:
        """Return how many distinct rows have their states kept."""
        return len(self._where)

    def shares(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return the numbers of `rows` whose states are kept, and those of the others."""
        held = [_key(row) in self._where for row in rows]
        both = [[n for n, h in enumerate(held) if h is kind] for kind in (True, False)]
        return [share for share in both if share]

    def run(self, pack: Pack, rows: Sequence[Row]) -> Tensor:
        """Return the last hidden states of the wanted tokens of a pack, as `Decoder.run` does.

        `rows`: those of the pack in the caller's order, all of one of the `shares`.
        """
        if _key(rows[0]) not in self._where:
            return self.decoder.run(pack)
        dtype, width = self.decoder.net.dtype, self.decoder.net.config.hidden_size
        entering = torch.empty(pack.ids.shape[1], width, dtype=dtype)
        if self.opening.shared:
            entering[: len(self.opening.shared)] = self._sheet(0)
        for row, start in zip(rows, pack.starts, strict=True):
            sheet, at = self._where[_key(row)]
            length = len(row.ids)
            entering[start : start + length] = self._sheet(sheet)[at : at + length]
        with _entering(self.decoder.net, self.below.paths, entering[None].to(pack.ids.device)):
            return self.decoder.run(pack)

    def _sheet(self, number: int) -> Tensor:
        if number not in self._opened:
            key = self._sheet_key(number)
            try:
                found = self.store.states(key)
            except ModelError as error:
                self.note(f"{error.what} It is computed again.")
                self.store.path(key).unlink(missing_ok=True)
                found = None
            if found is None:
                found = self._states(number)
                self.store.keep(key, found)
            self._opened[number] = found
        return self._opened[number]

    @torch.no_grad()
    def _states(self, number: int) -> Tensor:
        """Run the blocks below on one sheet: (tokens, hidden), rows in the order of the sheet."""
        self.computed += 1
        rows = self._sheets[number]
        opening = not (number == 0 and self.opening.shared)
        shared = self.opening.shared if opening else ()
        pack = build_pack(
            rows, shared=shared, device=self.decoder.device, **self.opening.prefix.seat
        )
        net = self.decoder.net
        taken: list[Tensor] = []

        def stop(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            taken.append(given[0] if given else named["hidden_states"])
            raise _Reached

        hook = net.get_submodule(self.below.above).register_forward_pre_hook(stop, with_kwargs=True)
        training = net.training
        try:
            net.eval()
            self.decoder.run(pack)
        except _Reached:
            pass
        finally:
            hook.remove()
            net.train(training)
        spans = [
            taken[0][0, start : start + len(row.ids)]
            for row, start in zip(rows, pack.starts, strict=True)
        ]
        return torch.cat(spans).cpu()

    def _digest(self) -> Any:
        """Return the beginning of every sheet's key: all that its rows have in common."""
        facts = [SCHEMA, self.below.identity, torch.__version__, self.decoder.device.type]
        digest = hashlib.sha256(repr([*facts, len(self.below.paths)]).encode())
        prefix = self.opening.prefix
        digest.update(repr([self.opening.shared, prefix.ids, prefix.start]).encode())
        for pair in prefix.layers[: len(self.below.paths)]:
            for tensor in pair:
                digest.update(_content(tensor.detach().cpu().contiguous()).encode())
        if prefix.positions is not None:
            digest.update(prefix.positions.cpu().numpy().tobytes())
        return digest

    def _sheet_key(self, number: int) -> str:
        digest = self._root.copy()
        for row in self._sheets[number]:
            digest.update(repr(_key(row)).encode())
        return str(digest.hexdigest())


class _Reached(Exception):
    """The first trained block was reached: what is above it does not run."""


class _Given(nn.Module):
    """Stands in for blocks below training: gives what they would, or passes on what it gets."""

    def __init__(self, states: Tensor | None) -> None:
        super().__init__()
        self.states = states

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Tensor:
        return hidden if self.states is None else self.states


@contextmanager
def _entering(net: Any, paths: Sequence[str], states: Tensor) -> Iterator[None]:
    """Run `net` with given states entering the block after `paths`, which do not run."""
    blocks = {path: net.get_submodule(path) for path in paths}
    try:
        for number, path in enumerate(paths):
            net.set_submodule(path, _Given(None if number else states))
        yield
    finally:
        for path, block in blocks.items():
            net.set_submodule(path, block)


def _key(row: Row) -> Key:
    return tuple(row.ids), None if row.parents is None else tuple(row.parents)


def _content(tensor: Tensor) -> str:
    raw = tensor.reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(np.ascontiguousarray(raw).data).hexdigest()
