"""What all candidates share: the data, the loaded bases, what was read before, and the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.adaptation import Adaptation, load
from sapwood.context.facts import open_facts
from sapwood.context.prompter import Context, Prompter
from sapwood.context.wording import template_for
from sapwood.errors import ConfigError
from sapwood.evaluation import CHUNK, Bases, Reader, Reading
from sapwood.evaluation.reader import Extras
from sapwood.files import write_json
from sapwood.interfaces import Event, Example, Floats
from sapwood.search.job import Job, Material
from sapwood.search.marks import AnswerMarks, LabelMarks, Marks
from sapwood.tally import Tally, paired
from sapwood.tasks.kinds import ONE_LABEL
from sapwood.tasks.structured import schema_of

# Development rows of tasks whose answers are written; on CoNLL-2003 an F1 of 75 % is then known to
# about 5 points either way, and a base of 135 M parameters takes half a minute for them.
DEV_WRITTEN = 192
# Development rows after which a candidate that is clearly behind is stopped.
RACE = (64, 192)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished candidate: the adaptation, what it says of development rows, and what it took.

    `dev`: class probabilities, or Answers (see `marks`). `notes`: what the search for its prompt
    found, for the report. `read_seconds`: what judging one row takes where that is not what a query
    takes: texts are scored there, and written for a query.
    """

    adaptation: Adaptation
    dev: Any
    trainable: int = 0
    query_seconds: float = 0.0
    query_tokens: float = 0.0
    curve: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    forecast_seconds: float | None = None
    read_seconds: float | None = None


class Stopped(Exception):
    """A candidate was ended on purpose; `dev` holds the development rows it got to."""

    def __init__(self, why: str, dev: Any = None) -> None:
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

    def require(self, least: float) -> None:
        """Raise Stopped when less than `least` seconds of the budget are left."""
        if self.left < least:
            raise Stopped(f"the budget was spent ({max(self.left, 0):.0f} s left)")


JOINTS = 4  # tokens that a text may gain where it was cut and where it meets the template


def _mixed(rows: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """Return rows in an order drawn from the seed."""
    return tuple(rows[n] for n in np.random.default_rng(seed).permutation(len(rows)))


class Workbench:
    """Shared state of one run. `labels` fixes the order of classes everywhere.

    Files may be sorted, and many need the first rows only: `shuffled` are the training rows in a
    seeded order, and development rows come in such an order themselves.
    """

    def __init__(self, job: Job, material: Material, bases: Bases, folder: Path) -> None:
        self.job, self.bases, self.folder = job, bases, folder
        self.splits, self.task = material.splits, material.task
        self.outside = material.outside
        dev = _mixed(self.splits.dev, job.seed)
        if self.written:  # a row costs a hundred times what a label costs
            dev = dev[:DEV_WRITTEN]
        self.splits = replace(self.splits, dev=dev)
        self.labels = self.splits.labels
        if not self.written:
            self.labels = tuple(sorted({str(e.label) for e in self.splits.train}))
        self.clock = Clock(folder / "clock.json", job.seconds)
        texts = [example.text for example in self.splits.train[:200]]
        self.schema = schema_of(self.splits.train)
        self.template = template_for(self.task.name, self.labels, texts, job.instruction)
        self.facts = open_facts(job.facts) if job.facts else None
        self.text_tokens = _text_tokens(self)
        self.shuffled = _mixed(self.splits.train, job.seed)
        self.tokens_per_second = self.query_tokens = 0.0
        self.marks: Marks = AnswerMarks(task=self.task)
        if not self.written:
            self.marks = LabelMarks(labels=self.labels, task=self.task.name)
        self.dev: dict[str, Any] = {}
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
            self.dev[name] = self.marks.recall(self.said(folder))
            self.finished[name] = load(folder / "adaptation")

    @property
    def written(self) -> bool:
        """Return whether answers are written or found in the text, not one of a few labels."""
        return self.task.name not in ONE_LABEL

    def said(self, folder: Path) -> Path:
        """Return the file that holds what the candidate of `folder` says of development rows."""
        name = "probabilities" if not self.written else "answers"
        return folder / "dev" / f"{name}.{self.marks.suffix}"

    def reserve(self, name: str) -> float:
        """Return the seconds to keep for reading the test rows at the end, while `name` is tried.

        They are read by the best so far or by `name`, as slow as what its base was asked so far;
        answers that are written may take as long as the longest that were.
        """
        known = [self.results[n].get("ms_per_query") or 0.0 for n in _readers(self, name)]
        a_query = min(max(known, default=0.0), 200.0) / 1000
        return min(0.4 * self.clock.budget, 5 + 1.3 * a_query * len(self.splits.test))

    def tuning_seconds(self, name: str, *, whole: bool = False) -> float:
        """Return the seconds that a training candidate may take of what is left.

        LoRA leaves some to LoRA under demonstrations, unless it may take the `whole`.
        """
        left = max(self.clock.left - self.reserve(name), 0.0)
        shared = name == "lora" and not self.job.only and not whole
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
            max_text_tokens=self.text_tokens,
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
        self, reader: Reader, examples: Sequence[Example], *, name: str, key: str = "",
        scored: bool = True,
    ) -> Generator[Event, None, Reading]:  # fmt: skip
        """Read examples a chunk at a time with progress; with a `key`, once for all candidates.

        Not `scored`: features are enough, and the labels' tokens are not read where none has yet.
        """
        own = key if scored else f"{key}/features"
        for known in (key, own) if key else ():
            if known in self._readings:
                return self._readings[known]
        reading = yield from _read(self, reader, examples, name=name, scored=scored)
        if key:
            self._readings[own] = reading
        return reading

    def embed(
        self, encoder: str, split: str, examples: Sequence[Example], pooling: str = "mean"
    ) -> tuple[Floats, float]:
        """Return an encoder's vectors for a split and the seconds they took, computed once."""
        key = f"{encoder}/{split}/{pooling}"
        if key not in self._embeddings:
            started = time.perf_counter()
            texts = [e.text for e in examples]
            found = self.bases.embed(encoder, texts, pooling=pooling, limit=self.job.max_length)
            self._embeddings[key] = (found, time.perf_counter() - started)
        return self._embeddings[key]

    def best(self) -> tuple[str, Any] | None:
        """Return the leader so far and what it says of development rows."""
        if not self.dev:
            return None
        name = max(self.dev, key=self.value)
        return name, self.dev[name]

    def value(self, name: str) -> float:
        """Return a candidate's score on development rows."""
        return self.tally(self.dev[name]).value

    def tally(self, said: Any) -> Tally:
        """Return the marks of the first development rows, as many as `said` is of."""
        return self.marks.tally(self.splits.dev[: len(said)], said)


def _read(
    bench: Workbench, reader: Reader, examples: Sequence[Example], *, name: str, scored: bool
) -> Generator[Event, None, Reading]:
    parts = []
    for done, chunk in chunks([e.text for e in examples]):
        parts.append(reader.read(chunk) if scored else reader.features(chunk))
        yield Event(kind="progress", candidate=name, done=done, total=len(examples))
    reading = joined(parts)
    if scored:
        bench.tokens_per_second = reading.tokens / max(reading.seconds, 1e-9)
        bench.query_tokens = reading.tokens / max(1, len(examples))
    return reading


def _readers(bench: Workbench, name: str) -> set[str]:
    """Return the candidates that tell what reading takes, while `name` is tried."""
    best = bench.best()
    readers = {"zero-shot", best[0] if best else ""}
    if bench.written:
        readers = set(bench.results)
    elif name.startswith("encoder-"):
        readers = {f"probe-{Path(bench.job.encoder or '').name}", *readers} - {"zero-shot"}
    return readers & set(bench.results)


def _text_tokens(bench: Workbench) -> int:
    """Return how many tokens of a text a prompt has room for, `max_length` at most."""
    most, base = bench.job.max_length, bench.bases.get(bench.job.model)
    if bench.written or base.kind != "decoder":
        return most
    prompter = Prompter(base.tokenizer, Context(template=bench.template))
    answer = max(map(len, prompter.labels(bench.labels)))
    around = len(prompter.prefix) + len(prompter.rest([""])[0]) + answer
    return max(1, min(most, base.max_length - around - JOINTS))


def race(bench: Workbench, said: Any) -> None:
    """Raise Stopped when the rows so far show a candidate to be clearly behind the leader."""
    leader = bench.best()
    if leader is None or len(said) not in RACE:
        return
    name, theirs = leader
    difference, low, high = paired(bench.tally(said), bench.tally(theirs[: len(said)]))
    if high < 0:
        raise Stopped(
            f"{-100 * difference:.0f} points behind {name} after {len(said)} "
            f"development rows (95 % interval {-100 * high:.0f} to {-100 * low:.0f})",
            said,
        )


def afford(bench: Workbench, tokens: float, *, share: float, what: str) -> None:
    """Raise Stopped when reading `tokens` is forecast to take over `share` of what is left."""
    if not bench.tokens_per_second:
        return
    needed, left = tokens / bench.tokens_per_second, max(bench.clock.left, 0.0)
    if needed > share * left:
        raise Stopped(f"{what} would take about {needed:.0f} s; {left:.0f} s are left")


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
