"""What all candidates share: the data, the loaded bases, what was read before, and the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.adaptation import Adaptation, load
from sapwood.context.facts import open_facts
from sapwood.context.prompter import Context
from sapwood.context.template import default_template
from sapwood.errors import ConfigError
from sapwood.evaluation import CHUNK, Bases, Reader, Reading
from sapwood.evaluation.reader import Extras
from sapwood.files import write_json
from sapwood.interfaces import Event, Example, Floats
from sapwood.metrics import correct, paired_difference
from sapwood.search.job import Job, Material

# Development rows after which a candidate that is clearly behind is stopped.
RACE = (64, 192)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished candidate: the adaptation, its development probabilities, and what it took.

    `notes`: what the search for its prompt found, for the report.
    """

    adaptation: Adaptation
    dev: Floats
    trainable: int = 0
    query_seconds: float = 0.0
    query_tokens: float = 0.0
    curve: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    forecast_seconds: float | None = None


class Stopped(Exception):
    """A candidate was ended on purpose; `dev` holds the development rows it got to."""

    def __init__(self, why: str, dev: Floats | None = None) -> None:
        super().__init__(why)
        self.why, self.dev = why, dev


Making = Generator[Event, None, Made]


class Clock:
    """The time spent, over all runs of one folder."""

    def __init__(self, path: Path, budget: float) -> None:
        self.path, self.budget = path, budget
        self.before = float(json.loads(path.read_text())["spent"]) if path.exists() else 0.0
        self.started = time.monotonic()

    @property
    def spent(self) -> float:
        """Return seconds spent, earlier runs included."""
        return self.before + time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Return seconds left of the budget, below 0 when it is overdrawn."""
        return self.budget - self.spent

    def save(self) -> None:
        """Remember the time spent."""
        write_json(self.path, {"spent": round(self.spent, 3)})


class Workbench:
    """Shared state of one run. `labels` fixes the order of classes everywhere; `shuffled` are the
    training rows in a seeded order, for whoever needs only some of them (files may be sorted).
    """

    def __init__(self, job: Job, material: Material, bases: Bases, folder: Path) -> None:
        self.job, self.bases, self.folder = job, bases, folder
        self.splits = material.splits
        self.labels = tuple(sorted({e.label for e in self.splits.train if e.label is not None}))
        self.clock = Clock(folder / "clock.json", job.seconds)
        texts = [example.text for example in self.splits.train[:200]]
        self.template = default_template(self.labels, texts, instruction=job.instruction)
        self.facts = open_facts(job.facts) if job.facts else None
        order = np.random.default_rng(job.seed).permutation(len(self.splits.train))
        self.shuffled = tuple(self.splits.train[n] for n in order)
        self.tokens_per_second = self.query_tokens = 0.0
        self.dev: dict[str, Floats] = {}
        self.finished: dict[str, Adaptation] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self._readings: dict[str, Reading] = {}
        self._embeddings: dict[str, tuple[Floats, float]] = {}

    def candidate_folder(self, name: str) -> Path:
        """Return the folder a candidate writes to, made if missing."""
        folder = self.folder / "candidates" / name.replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def recall(self, name: str) -> None:
        """Take in the result a candidate left on disk."""
        folder = self.candidate_folder(name)
        result = json.loads((folder / "result.json").read_text())
        self.results[name] = result
        if result["status"] == "finished":
            self.dev[name] = np.load(folder / "dev" / "probabilities.npy")
            self.finished[name] = load(folder / "adaptation")

    @property
    def reserve(self) -> float:
        """Return the seconds to keep for reading the test rows at the end."""
        known = [r["ms_per_query"] for r in self.results.values() if r.get("ms_per_query")]
        a_query = max([min(ms, 200.0) for ms in known], default=0.0) / 1000
        return min(0.4 * self.clock.budget, 5 + 1.3 * a_query * len(self.splits.test))

    def tuning_seconds(self, name: str) -> float:
        """Return the seconds that a training candidate may take of what is left."""
        left = max(self.clock.left - self.reserve, 0.0)
        shared = name == "lora" and not self.job.only
        return left * (0.6 if shared else 1.0)

    def gold(self, examples: Sequence[Example]) -> list[str]:
        """Return the labels of examples, in order."""
        return [str(example.label) for example in examples]

    def index(self, examples: Sequence[Example]) -> Any:
        """Return class numbers, (rows,); labels that training lacks are -1."""
        place = {label: n for n, label in enumerate(self.labels)}
        return np.array([place.get(str(e.label), -1) for e in examples])

    def context(self, demonstrations: Sequence[Example] = (), **settings: Any) -> Context:
        """Return a context with this job's template."""
        return Context(
            template=self.template,
            demonstrations=tuple(demonstrations),
            max_text_tokens=self.job.max_length,
            **settings,
        )

    def reader(self, context: Context, **settings: Any) -> Reader:
        """Return a reader of the job's base under `context`; `settings`: its scope and scorer."""
        extras = Extras(embedder=self.embedder(context), facts=self.facts)
        return Reader(self.bases, self.job.model, context, self.labels, extras=extras, **settings)

    def embedder(self, context: Context) -> str | None:
        """Return the encoder that chooses the demonstrations of a query, None where none does."""
        chosen = context.sharing != "all" and context.selection != "bm25"
        return self.job.encoder if chosen else None

    def read(
        self, reader: Reader, examples: Sequence[Example], *, name: str, key: str = ""
    ) -> Generator[Event, None, Reading]:
        """Read examples a chunk at a time with progress; with a `key`, once for all candidates."""
        if key and key in self._readings:
            return self._readings[key]
        parts = []
        for done, chunk in chunks([e.text for e in examples]):
            parts.append(reader.read(chunk))
            yield Event(kind="progress", candidate=name, done=done, total=len(examples))
        reading = joined(parts)
        self.tokens_per_second = reading.tokens / max(reading.seconds, 1e-9)
        self.query_tokens = reading.tokens / max(1, len(examples))
        if key:
            self._readings[key] = reading
        return reading

    def embed(self, encoder: str, split: str, examples: Sequence[Example]) -> tuple[Floats, float]:
        """Return an encoder's vectors for a split and the seconds they took, computed once."""
        key = f"{encoder}/{split}"
        if key not in self._embeddings:
            started = time.perf_counter()
            texts = [e.text for e in examples]
            found = self.bases.embed(encoder, texts, limit=self.job.max_length)
            self._embeddings[key] = (found, time.perf_counter() - started)
        return self._embeddings[key]

    def best(self) -> tuple[str, Floats] | None:
        """Return the name and development probabilities of the leader so far."""
        if not self.dev:
            return None
        name = max(self.dev, key=lambda n: float(self.rows_correct(self.dev[n]).mean()))
        return name, self.dev[name]

    def rows_correct(self, probabilities: Floats) -> Floats:
        """Return 1.0 or 0.0 for each development row that has probabilities."""
        rows = self.splits.dev[: len(probabilities)]
        predicted = [self.labels[n] for n in np.argmax(probabilities, axis=1)]
        return correct(self.gold(rows), predicted)

    def race(self, probabilities: Floats) -> None:
        """Raise Stopped when the rows so far show a candidate to be clearly behind the leader."""
        leader = self.best()
        if leader is None or len(probabilities) not in RACE:
            return
        name, theirs = leader
        difference, low, high = paired_difference(
            self.rows_correct(probabilities), self.rows_correct(theirs[: len(probabilities)])
        )
        if high < 0:
            raise Stopped(
                f"{-100 * difference:.0f} points behind {name} after {len(probabilities)} "
                f"development rows (95 % interval {-100 * high:.0f} to {-100 * low:.0f})",
                probabilities,
            )

    def afford(self, tokens: float, *, share: float, what: str) -> None:
        """Raise Stopped when reading `tokens` is forecast to take over `share` of what is left."""
        if not self.tokens_per_second:
            return
        needed = tokens / self.tokens_per_second
        if needed > share * max(self.clock.left, 0.0):
            raise Stopped(
                f"{what} would take about {needed:.0f} s; {max(self.clock.left, 0):.0f} s are left"
            )

    def require_time(self, least: float) -> None:
        """Raise Stopped when less than `least` seconds of the budget are left."""
        if self.clock.left < least:
            raise Stopped(f"the budget was spent ({max(self.clock.left, 0):.0f} s left)")


def chunks(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield (rows done after it, texts) a chunk at a time; races are judged between chunks."""
    start = 0
    while start < len(texts):
        end = min(start + CHUNK, len(texts))
        yield end, texts[start:end]
        start = end


def joined(parts: Sequence[Reading]) -> Reading:
    """Return several readings as one."""
    if not parts:
        raise ConfigError("E-CONFIG-052", "There is nothing to read.")
    return Reading(
        features=np.concatenate([p.features for p in parts]),
        scores=np.concatenate([p.scores for p in parts]),
        tokens=sum(p.tokens for p in parts),
        seconds=sum(p.seconds for p in parts),
    )
