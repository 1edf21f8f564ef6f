"""What can be tried of a run, and the engines that answer: opened when first asked for.

A run's candidates stand side by side: the base asked plainly, the best prompt, the best that was
trained, and what is recommended where that is another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sapwood.errors import ConfigError, SapwoodError
from sapwood.interfaces import Answer, Turn
from sapwood.models.choosing import Sampling
from sapwood.pages.candidates import kind, score
from sapwood.pool.room import called
from sapwood.pool.wish import Engine, Update, Wish
from sapwood.studio.workspace import Project, Run
from sapwood.tasks.kinds import WRITTEN

Open = Callable[[str], Engine]
_ANSWERED = 300.0  # seconds after which whoever waits for an answer is told that none came
_ENGINES = 2  # kept open: a run's base and the encoder beside it
TOKENS = 200  # of an answer that is written


@dataclass(frozen=True, kw_only=True)
class Column:
    """One thing to try: `part` is "base", "prompted", "tuned" or "recommended".

    `model`: its name in the engine; `candidate`: its name in the run; `folder` None: the base
    itself; `best`: whether it is the one that is recommended.
    """

    part: str
    model: str
    candidate: str
    base: str
    folder: Path | None
    best: bool
    dev: float | None = None


def columns_of(project: Project, run: Run, report: Mapping[str, Any]) -> tuple[Column, ...]:
    """Return what can be tried of a finished run, the plainest first."""
    base = str(run.asked["model"])
    rows = [c for c in report.get("candidates") or [] if c.get("status") == "finished"]
    best = report.get("recommended")
    chosen: dict[str, Any] = {}
    for row in rows:
        part = _part(row)
        if part and (part not in chosen or _ahead(report, row, chosen[part])):
            chosen[part] = row
    found = [_column(project, run, part, chosen[part], base, best)
             for part in ("base", "prompted", "tuned") if part in chosen]  # fmt: skip
    if report.get("task") in WRITTEN and "base" not in chosen:
        found.insert(0, Column(part="base", model=base, candidate=Path(base).name, base=base,
                               folder=None, best=False))  # fmt: skip
    winner = next((row for row in rows if row.get("name") == best), None)
    if winner is not None and not any(column.best for column in found):
        found.append(_column(project, run, "recommended", winner, base, best))
    return tuple(found)


def _part(row: Mapping[str, Any]) -> str:
    """Return the column that a candidate may stand in, "" for none."""
    if str(row.get("name")).startswith("zero-shot"):
        return "base"
    return {"prompt": "prompted", "tune": "tuned", "both": "tuned"}.get(kind(row), "")


def _ahead(report: Mapping[str, Any], row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether a candidate is the better one of two: the recommended, or by its score."""
    if other.get("name") == report.get("recommended"):
        return False
    if row.get("name") == report.get("recommended"):
        return True
    mine, its = (float((score(c, "dev") or {}).get("value", -1.0)) for c in (row, other))
    return mine > its


def _column(
    project: Project, run: Run, part: str, row: Mapping[str, Any], base: str, best: object
) -> Column:
    name = str(row["name"])
    first = name == best
    own = run.out / "run" / "candidates" / name.replace("/", "_") / "adaptation"
    made = run.out / "adaptation"
    dev = score(row, "dev")
    return Column(
        part=part,
        model=project.id if first else f"{project.id}.{part}",
        candidate=name,
        base=str(row.get("base") or base),
        folder=made if first and made.is_dir() else own,
        best=first,
        dev=float(dev["value"]) if dev else None,
    )


class Room:
    """Engines by base, each opened once in a thread, and the adaptations opened in them.

    `owns`: whether it ends engines that are no longer needed.
    """

    def __init__(self, opener: Open, *, owns: bool = True) -> None:
        self._opener, self._owns = opener, owns
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Event] = {}
        self._engines: dict[str, Engine] = {}
        self._errors: dict[str, SapwoodError] = {}
        self._served: dict[tuple[str, str], Path] = {}  # (base, model) -> what it was opened from
        self._loading = threading.Lock()

    def state(self, base: str) -> str:
        """Return "closed", "opening", "open" or "failed"."""
        with self._lock:
            return self._state(base)

    def _state(self, base: str) -> str:
        if base in self._engines:
            return "open" if self._engines[base].alive else "failed"
        if base in self._opening:
            return "opening"
        return "failed" if base in self._errors else "closed"

    def error(self, base: str) -> SapwoodError | None:
        """Return why a base could not be opened."""
        return self._errors.get(base)

    def engines(self) -> tuple[Engine, ...]:
        """Return every engine that is open, the one asked for last at the end."""
        with self._lock:
            return tuple(self._engines.values())

    def open(self, base: str) -> None:
        """Begin to open the engine of a base, unless it is open or being opened."""
        with self._lock:
            if self._state(base) in ("open", "opening"):
                return
            self._errors.pop(base, None)
            self._engines.pop(base, None)
            self._opening[base] = threading.Event()
        threading.Thread(target=self._opened, args=(base,), daemon=True).start()

    def _opened(self, base: str) -> None:
        engine, error = None, None
        try:
            engine = self._opener(base)
        except SapwoodError as said:
            error = said
        except Exception as said:  # a thread has nobody to tell it to but the page
            error = SapwoodError("E-INTERNAL-001", f"{type(said).__name__}: {said}")
        with self._lock:
            old = next(iter(self._engines), None) if len(self._engines) >= _ENGINES else None
            let_go = self._engines.pop(old) if old is not None and engine is not None else None
            self._served = {key: v for key, v in self._served.items() if key[0] not in (old, base)}
            if engine is not None:
                self._engines[base] = engine
            elif error is not None:
                self._errors[base] = error
            done = self._opening.pop(base)
        done.set()
        if let_go is not None and self._owns:
            let_go.stop(5.0)

    def wait(self, base: str, seconds: float = _ANSWERED) -> Engine:
        """Open the engine of a base and wait for it.

        Raises what opening it raised, or ConfigError (E-CONFIG-314) where it takes longer.
        """
        self.open(base)
        with self._lock:
            opening = self._opening.get(base)
        if opening is not None:
            opening.wait(seconds)
        with self._lock:
            error, engine = self._errors.get(base), self._engines.get(base)
            if engine is not None:  # the one that is let go first is the one asked for least lately
                self._engines[base] = self._engines.pop(base)
        if error is not None:
            raise error
        if engine is None:
            raise ConfigError(
                "E-CONFIG-314", f"'{base}' is still being loaded.", fix="ask again in a while"
            )
        return engine

    def model(self, column: Column) -> Engine:
        """Return the engine that answers for a column, with its adaptation served.

        Raises what `wait` and `Engine.open` raise.
        """
        engine = self.wait(column.base)
        if column.folder is None:
            return engine
        key = (column.base, column.model)
        with self._loading:
            if self._served.get(key) != column.folder:
                engine.open(column.model, column.folder)
                self._served[key] = column.folder
        return engine

    def close(self) -> None:
        """Stop every engine."""
        with self._lock:
            engines, self._engines = list(self._engines.values()), {}
        for engine in engines if self._owns else ():
            engine.stop(1.0)


def labels(room: Room, column: Column, text: str) -> list[tuple[str, float]]:
    """Return the labels of a text with their probabilities, the likeliest first."""
    found = room.model(column).classify(column.model, [text]).result(_ANSWERED).values[0]
    return sorted(found.items(), key=lambda item: -item[1])


def found(room: Room, column: Column, text: str) -> Answer:
    """Return what an extraction adaptation finds in a text."""
    return room.model(column).extract(column.model, [text]).result(_ANSWERED).values[0]


def written(
    room: Room, column: Column, turns: Sequence[Turn], *, spoken: bool
) -> Iterator[str | SapwoodError]:
    """Yield an answer in pieces as it is written, an error last where there is one.

    `spoken`: the turns are a conversation; else the text of the last one is continued. Whoever
    stops asking for pieces ends the writing.
    """
    engine = room.model(column)
    model = engine.base if column.folder is None else column.model
    updates: SimpleQueue[Update] = SimpleQueue()
    words: dict[str, Any] = {"turns": tuple(turns)} if spoken else {"text": turns[-1].content}
    wish = Wish(model=model, sampling=Sampling(tokens=TOKENS), **words)
    ticket = engine.write(wish, updates.put)
    try:
        while True:
            update = updates.get(timeout=_ANSWERED)
            if update.text:
                yield update.text
            if update.finish:
                if update.error is not None:
                    yield update.error
                return
    finally:
        ticket.cancel()


def lent(engine: Engine) -> Open:
    """Return an opener that hands out the engine that a server has open, and opens no other.

    It raises ConfigError (E-CONFIG-325) for another base.
    """

    def opened(base: str) -> Engine:
        if called(base) != engine.base:
            raise ConfigError(
                "E-CONFIG-325",
                f"This server answers for '{engine.base}', not for '{base}'.",
                fix="sapwood ui, which opens any base",
            )
        return engine

    return opened


def open_engine(base: str) -> Engine:
    """Open the pool of a base on this machine, for one person at a time."""
    from sapwood.launch import choose_runtime, raise_malloc_thresholds
    from sapwood.pool.pool import open_pool

    raise_malloc_thresholds()
    return open_pool(base, {}, runtime=choose_runtime(), slots=8, resident=8)
