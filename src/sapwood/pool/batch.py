"""The batch: rows of many adaptations that are read, written and scored together, step by step.

A step takes the next token of every row that writes and, in what room is left, the next chunk of
prompts, oldest first; so a long prompt delays the others by a chunk, not by its length. Each row
has its own settings, draws and grammar; what it says depends on its neighbours by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sapwood.errors import SapwoodError
from sapwood.methods.bank import Bank
from sapwood.methods.sharing import Sharing
from sapwood.models.choosing import drawn, weighed
from sapwood.models.decoder import Decoder
from sapwood.models.growing import Growing
from sapwood.models.layout import Pack, Row
from sapwood.models.prefixes import NO_PREFIX, Prefix
from sapwood.models.slots import Piece, Slots
from sapwood.models.steps import WORTH_COPYING, next_logits

# Prompt tokens beside rows that write, and while none does. On 2 cores a step of 8 rows of
# SmolLM2-135M takes some 100 ms, 64 prompt tokens some 150 ms more.
CHUNK, ALONE = 64, 512


class Seat:
    """One row of the batch: what it still reads, and then what it writes or is scored by.

    `name`: its adaptation in the bank, "" for none; `row`: what follows `prefix`, its `wanted` the
    states that scoring asks for. With `growing` it writes; else `states`, (wanted, hidden), are all
    that it gives. `tell` is called with the seat whenever it got something, and as it leaves.
    """

    def __init__(
        self,
        *,
        name: str,
        row: Row,
        prefix: Prefix = NO_PREFIX,
        tell: Callable[[Seat], None],
        growing: Growing | None = None,
        top: int = 0,
    ) -> None:
        self.name, self.row, self.prefix, self.tell = name, row, prefix, tell
        self.growing, self.top = growing, top
        self.read = 0
        self.states: Tensor | None = None
        self.logs: list[TokenLogs] = []
        self.cancelled = False
        self.error: SapwoodError | None = None

    @property
    def needs(self) -> int:
        """Return the tokens it may hold at most."""
        own = self.growing.sampling.tokens if self.growing else 0
        return self.prefix.next_position + len(self.row.ids) + own

    @property
    def done(self) -> bool:
        """Whether nothing more comes."""
        ended = self.growing.done if self.growing else self.states is not None
        return ended or self.cancelled or self.error is not None

    def next_row(self, room: int) -> Row:
        """Return what is read next, about `room` tokens of it; what is scored comes as one."""
        ids, first = self.row.ids, self.read
        if first == len(ids):
            assert self.growing is not None
            return Row(ids=self.growing.ids[-1:], wanted=(0,))
        last = len(ids) if len(ids) - first <= room else first + room
        if self.row.wanted and last > min(self.row.wanted):
            last = len(ids)
        self.read = last
        wanted = [n - first for n in self.row.wanted if n < last]
        parents = None
        if self.row.parents is not None and wanted:
            parents = [max(parent - first, -1) for parent in self.row.parents[first:last]]
        return Row(ids=ids[first:last], wanted=wanted, parents=parents)


@dataclass(frozen=True, kw_only=True)
class TokenLogs:
    """A written token, its log-probability, and the most probable ones with theirs."""

    token: int
    log_probability: float
    top: tuple[tuple[int, float], ...] = ()


class Batch:
    """Up to `count` seats over one decoder, whose net a bank may have spread adaptations over."""

    def __init__(self, decoder: Decoder, bank: Bank | None, *, count: int) -> None:
        self.decoder, self.bank, self.count = decoder, bank, count
        self.slots = Slots(count, decoder.device)
        self.seats: dict[int, Seat] = {}  # in the order of admission
        self.steps = self.tokens = 0
        self._shared: tuple[object, Sharing] | None = None

    @property
    def free(self) -> int:
        """Return how many seats more there is room for."""
        return self.count - len(self.seats)

    def add(self, seat: Seat) -> None:
        """Let a row take part from the next step on."""
        slot = next(n for n in range(self.count) if n not in self.seats)
        self.slots.begin(slot, seat.prefix)
        self.seats[slot] = seat

    @torch.no_grad()
    def step(self) -> None:
        """Go on by one pass; seats are told what they got, those that are done leave."""
        self._leave()
        pieces = self._pieces()
        if not pieces:
            return
        pack = self.slots.pack(pieces)
        with self.bank.passing(self._sharing(pieces, pack)) if self.bank else nullcontext():
            states = self.decoder.run(pack)
        self.steps, self.tokens = self.steps + 1, self.tokens + pack.ids.shape[1]
        sizes = [len(piece.row.wanted) for piece in pieces]
        got = dict(zip((p.slot for p in pieces), torch.split(states, sizes), strict=True))
        writing = [s for s, own in got.items() if len(own) and self.seats[s].growing]
        if writing:
            self._write([self.seats[s] for s in writing], torch.cat([got[s] for s in writing]))
        for slot, own in got.items():
            seat = self.seats[slot]
            if seat.growing is None and len(own):
                seat.states = own
            if len(own):
                seat.tell(seat)
        self._leave()

    def _sharing(self, pieces: Sequence[Piece], pack: Pack) -> Sharing:
        """Return who owns which tokens: the same object while the same rows write."""
        assert self.bank is not None
        key = tuple((p.slot, self.seats[p.slot].name, len(p.row.ids)) for p in pieces)
        if self._shared is None or self._shared[0] != key:
            uses = {slot: {seat.name: 1.0} for slot, seat in self.seats.items() if seat.name}
            shared = self.bank.shared(uses, pack.rows)
            self._shared = key, replace(shared, untrained=self.bank)  # a pool trains nothing
        return self._shared[1]

    def _pieces(self) -> list[Piece]:
        writing = {s: seat for s, seat in self.seats.items() if seat.read == len(seat.row.ids)}
        pieces = [Piece(slot=s, row=writing[s].next_row(1)) for s in sorted(writing)]
        room = CHUNK if pieces else ALONE
        for slot, seat in self.seats.items():
            if slot not in writing and room > 0:
                pieces.append(Piece(slot=slot, row=seat.next_row(room)))
                room -= len(pieces[-1].row.ids)
        return pieces

    def _leave(self) -> None:
        """Let go of seats that are done; rows move together where many places are empty."""
        for slot in [slot for slot, seat in self.seats.items() if seat.done]:
            seat = self.seats.pop(slot)
            seat.tell(seat)
        if not self.seats:
            self.slots.rest()
            return
        while len(self.seats) <= WORTH_COPYING * max(self.seats):
            last, first = max(self.seats), next(n for n in range(self.count) if n not in self.seats)
            self.slots.move(last, first)
            order = {(first if slot == last else slot): seat for slot, seat in self.seats.items()}
            self.seats = order

    def _write(self, seats: Sequence[Seat], states: Tensor) -> None:
        """Add a token to each seat's answer, from the states (seats, hidden) before it."""
        logits = next_logits(self.decoder, states)
        tokens = _chosen(logits, seats)
        totals = logits.logsumexp(-1)
        for seat, token, own, total in zip(seats, tokens, logits, totals, strict=True):
            if token is None:
                continue
            log = float(own[token] - total)
            best: Any = ()
            if seat.top:
                found = own.topk(seat.top)
                pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
                best = tuple((n, value - float(total)) for n, value in pairs)
            assert seat.growing is not None
            seat.logs.append(TokenLogs(token=token, log_probability=log, top=best))
            try:
                seat.growing.take(token, log)
            except SapwoodError as error:
                seat.error = error


def _chosen(logits: Tensor, seats: Sequence[Seat]) -> list[int | None]:
    """Return the next token of each seat by its own settings; None where there is none."""
    best = logits.argmax(-1).tolist()
    tokens: list[int | None] = []
    for seat, own, token in zip(seats, logits, best, strict=True):
        growing = seat.growing
        assert growing is not None
        asked = growing.sampling
        penalised = asked.repetition_penalty != 1 or asked.no_repeat or asked.least_tokens
        if not (growing.guide or penalised or asked.temperature):
            tokens.append(token)
            continue
        try:
            open_ = weighed(own[None], [growing.ids], [growing.guide], asked)
            if asked.temperature:
                tokens.append(int(drawn(open_, [growing.draws.random()], asked)[0]))
            else:
                tokens.append(int(open_.argmax(-1)))
        except SapwoodError as error:
            seat.error = error
            tokens.append(None)
    return tokens
