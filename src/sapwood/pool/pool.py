"""Many adaptations of one frozen base, answered in one continuously running batch.

Threads: one runs the batch; one loads adaptations, and asks those that cannot be mixed; a few turn
requests into rows and wait for what these give. They meet in a queue and under one lock. The batch
has a net of its own around the base's tensors, so that loading never stands in its way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError, ResourceError, SapwoodError
from sapwood.evaluation import Bases
from sapwood.interfaces import Answer
from sapwood.launch import Runtime
from sapwood.methods.bank import Bank
from sapwood.models.decoder import Decoder
from sapwood.models.products import quickened
from sapwood.pool.answers import Answers
from sapwood.pool.batch import Batch, Seat
from sapwood.pool.memory import Memory
from sapwood.pool.prompts import Prompt, Prompts
from sapwood.pool.resident import Resident
from sapwood.pool.room import called, longest_row, shadow
from sapwood.pool.running import Runner
from sapwood.pool.shelf import Shelf
from sapwood.pool.wish import About, Busy, Found, TokenLog, Update, Wish
from sapwood.pool.words import Words

_LOOK = 0.02  # seconds between looks at whether all is answered
_THREADS = 32  # they mostly wait; beyond so many, requests wait for a thread instead


class _Written:
    """A wish while it is answered; also its ticket."""

    def __init__(self, wish: Wish, tell: Callable[[Update], None]) -> None:
        self.wish, self.tell = wish, tell
        self.seats: list[Seat] = []
        self.cancelled = False

    def cancel(self) -> None:
        """See `Ticket`."""
        self.cancelled = True
        for seat in self.seats:
            seat.cancelled = True


class Pool:
    """See `Engine` for what it does; `open_pool` makes one.

    `slots`: most rows at once; `resident`: most adaptations in memory; `queue`: most requests that
    wait; `tokens`: most tokens of one row, None for what fits into memory.
    """

    def __init__(
        self, bases: Bases, base: str, *, slots: int, resident: int, queue: int, tokens: int | None
    ) -> None:
        self.base, self.source, self.bases, self.queue = called(base), base, bases, queue
        self._cond, self._waiting, self._ended = threading.Condition(), 0, False
        self.batch: Batch | None = None
        self.prompts: Prompts | None = None
        found, bank = bases.get(base), None
        if found.kind == "decoder" and not bases.decoder(base).why_padded:
            net = quickened(shadow(found.net))
            bank, decoder = Bank(net, {}), Decoder(net)
            longest = min(found.max_length, tokens or longest_row(net, slots))
            self.batch = Batch(decoder, bank, count=slots)
            self.prompts = Prompts(decoder, found.tokenizer, longest)
        self.runner = Runner(self.batch)
        self.shelf = Shelf(
            bases, self.base, base, Memory(bank, resident, self.runner.between_steps)
        )
        self.answers = Answers(self)
        self._askers = ThreadPoolExecutor(_THREADS, "sapwood-ask")

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return self.runner.alive

    def models(self) -> tuple[About, ...]:
        """See `Engine`."""
        return self.shelf.about()

    def open(self, name: str, folder: Path) -> About:
        """See `Engine`."""
        return self.shelf.open(name, folder)

    def close(self, name: str) -> None:
        """See `Engine`."""
        self.shelf.close(name)

    def waiting(self) -> int:
        """See `Engine`."""
        return self._waiting

    def write(self, wish: Wish, tell: Callable[[Update], None]) -> _Written:
        """See `Engine`."""
        self.shelf.check(wish.model)
        if self.prompts is None:
            raise ConfigError(
                "E-CONFIG-281",
                f"'{wish.model}' cannot write: the base '{self.base}' does not write here.",
                fix="ask /v1/classify, /v1/extract or /v1/embeddings",
            )
        written = _Written(wish, tell)
        self._submit(self._begin, written)
        return written

    def classify(self, model: str, texts: Sequence[str]) -> Future[Found[dict[str, float]]]:
        """See `Engine`."""
        self.shelf.check(model)
        return self._submit(self.answers.classify, model, texts)

    def extract(self, model: str, texts: Sequence[str]) -> Future[Found[Answer]]:
        """See `Engine`."""
        self.shelf.check(model)
        return self._submit(self.answers.extract, model, texts)

    def embed(self, model: str, texts: Sequence[str]) -> Future[Found[list[float]]]:
        """See `Engine`."""
        self.shelf.check(model)
        return self._submit(self.answers.embed, model, texts)

    def stop(self, seconds: float) -> int:
        """See `Engine`."""
        with self._cond:
            self._ended = True
        until = time.monotonic() + seconds
        while not self._idle() and time.monotonic() < until:
            time.sleep(_LOOK)
        left = self.runner.end()
        self._askers.shutdown(wait=False, cancel_futures=True)
        self.shelf.shut()
        return left

    def _idle(self) -> bool:
        return not (self._waiting or self.runner.running)

    def _submit(self, ask: Callable[..., Any], *given: Any) -> Future[Any]:
        with self._cond:
            if self._ended or not self.alive:
                raise self.runner.over()
            if self._waiting >= self.queue:
                raise Busy(self._waiting, self._pause())
            self._waiting += 1
        return self._askers.submit(self._counted, ask, *given)

    def _counted(self, ask: Callable[..., Any], *given: Any) -> Any:
        """Run a request, which counts as waiting until its first row has its place."""
        try:
            return ask(*given)
        finally:
            with self._cond:
                self._waiting -= 1
                self._cond.notify_all()

    def _pause(self) -> float:
        """Return seconds after which a place is likely: a guess from the rows that wait."""
        return float(min(30, 1 + self.runner.waiting // 4))

    def _begin(self, written: _Written) -> None:
        """Turn a wish into rows of the batch and wait until the first of them has its place."""
        wish, samples = written.wish, range(written.wish.sampling.samples)
        assert self.prompts is not None
        resident = None
        try:
            resident = self.shelf.hold(wish.model)
            prompt = self.prompts.of(wish, resident)
            tokenizer = self.prompts.tokenizer
            answer = _Answer(self, written, prompt, resident)
            written.seats = [
                Seat(
                    name=resident.key if resident and resident.made else "",
                    row=prompt.row,
                    prefix=prompt.prefix,
                    tell=answer.teller(sample),
                    growing=prompt.grow(sample, tokenizer),
                    top=wish.top,
                )
                for sample in samples
            ]
            if written.cancelled:
                written.cancel()
            self.runner.sit(written.seats)
        except Exception as error:
            told = error if isinstance(error, SapwoodError) else _unforeseen(error)
            self.shelf.memory.let_go(resident)
            for sample in samples:
                written.tell(Update(sample=sample, finish="error", error=told))
            return
        self.runner.wait_for_place(written.seats[0])


class _Answer:
    """Tells the samples of one wish as they come."""

    def __init__(
        self, pool: Pool, written: _Written, prompt: Prompt, resident: Resident | None
    ) -> None:
        assert pool.prompts is not None
        self._shelf, self._written, self._prompt = pool.shelf, written, prompt
        self._resident = resident
        self._left = written.wish.sampling.samples
        self._tokenizer = pool.prompts.tokenizer

    def teller(self, sample: int) -> Callable[[Seat], None]:
        """Return what a seat calls after each token."""
        words = Words(self._tokenizer, self._prompt.sampling.stops)
        told = False

        def tell(seat: Seat) -> None:
            nonlocal told
            if told:
                return
            told = seat.done
            update = self._update(sample, seat, words)
            try:
                self._written.tell(update)
            except Exception:  # whoever listened is gone; the batch goes on
                seat.cancelled = True
            if told:
                self._left -= 1
                self._shelf.count(self._written.wish.model, update.tokens)
                if not self._left:
                    self._shelf.memory.let_go(self._resident)

        return tell

    def _update(self, sample: int, seat: Seat, words: Words) -> Update:
        growing = seat.growing
        assert growing is not None
        new, seat.logs = seat.logs, []
        ended = growing.done
        fresh = growing.ids[words.count :]
        text = words.add(fresh, last=seat.done)
        finish = ""
        if seat.error is not None:
            finish = "error"
        elif ended:
            finish = "stop" if growing.stopped else "length"
        elif seat.cancelled:
            finish = "cancelled"
        show = self._tokenizer.decode
        return Update(
            sample=sample,
            text=text,
            logs=tuple(
                TokenLog(
                    text=show([log.token]),
                    log_probability=log.log_probability,
                    top=tuple((show([token]), value) for token, value in log.top),
                )
                for log in new
            ),
            tokens=len(growing.ids),
            finish=finish,
            error=seat.error,
            prompt=self._prompt.tokens,
            cached=self._prompt.prefix.next_position,
        )


def _unforeseen(error: Exception) -> ResourceError:
    """Return what is told of an error that nobody foresaw: nothing that it may quote."""
    return ResourceError(
        "E-RESOURCE-073", f"The request could not be answered: {type(error).__name__}."
    )


def open_pool(
    base: str,
    folders: Mapping[str, Path],
    *,
    runtime: Runtime,
    slots: int = 16,
    resident: int = 16,
    queue: int = 64,
    tokens: int | None = None,
) -> Pool:
    """Load a base and serve it with the adaptations of `folders`, by name.

    Raises what `Pool.open` raises for the first of them that is refused.
    """
    pool = Pool(Bases(runtime), base, slots=slots, resident=resident, queue=queue, tokens=tokens)
    try:
        for name, folder in folders.items():
            pool.open(name, folder)
    except BaseException:
        pool.stop(0)
        raise
    return pool
