"""What was asked for: the job, its data split once, and a fingerprint that ties a rerun to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from sapwood.errors import ConfigError
from sapwood.interfaces import Example, Splits
from sapwood.tasks.coverage import outside_label
from sapwood.tasks.kinds import ONE_LABEL, Task
from sapwood.tasks.readers import Table, find_files
from sapwood.tasks.splits import split, split_by
from sapwood.tasks.structured import read_task, task_named
from sapwood.tasks.supervised import in_words

ENGINES = ("torch", "tensorflow")
_UNITS = {"s": 1, "m": 60, "h": 3600, "": 1}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How candidates train. `epochs` None: as many as the budget allows, at most 3.

    `learning_rate`, `rank` None: what suits the method. `scope`: whether a method under a context
    also acts on the context ("all") or on the query only ("suffix": the context is encoded once by
    the plain base). `batch_size`: rows a step, fewer where steps would be few. `checkpointing`: see
    `training.Lean`. `trials`: how many rates and sizes are tried before, on decoders; a search of
    them finds each method's own. `engine`: "torch" or "tensorflow" computes losses and gradients,
    the latter with `xla` compiled by XLA.
    """

    epochs: float | None = None
    learning_rate: float | None = None
    rank: int | None = None
    dropout: float = 0.0
    batch_size: int = 16
    scope: str = "suffix"
    checkpointing: bool = False
    trials: int = 0
    engine: str = "torch"
    xla: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(
                "E-CONFIG-050", f"engine must be {' or '.join(ENGINES)}, got '{self.engine}'."
            )
        if self.scope not in ("all", "suffix"):
            raise ConfigError(
                "E-CONFIG-050", f"scope must be 'all' or 'suffix', got '{self.scope}'."
            )


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """What the user fixed of the prompts; what is empty or None is left to the ladder.

    `shots`: how many demonstrations, one candidate each; `selection`, `order`, `scorer`: names of
    the rules; `bias`: the estimators allowed; `contexts`: how many a bank holds; `encoding`:
    "exact", "blocks" or "windows".
    """

    shots: tuple[int, ...] = ()
    selection: str | None = None
    order: str | None = None
    scorer: str | None = None
    bias: tuple[str, ...] = ()
    encoding: str = "exact"
    contexts: int = 4

    @property
    def fixed(self) -> bool:
        """Return whether the user asked for certain prompts instead of the ladder's."""
        named = (self.shots, self.selection, self.order, self.scorer, self.encoding != "exact")
        return any(named)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything `adapt` needs to know. `seconds`: the budget; `only`: candidate families to try.

    `task` names a member of `tasks.TASKS`, `columns` the columns of the file by their role in it;
    `limit` caps the training rows, `max_length` the tokens of one text; `facts`: a file or folder
    of knowledge put before each query; `max_bytes` and `max_ms` exclude candidates that are larger
    or slower.
    """

    data: str
    out: Path
    model: str
    seconds: float
    task: str = "classification"
    encoder: str | None = None
    dev: str | None = None
    test: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    limit: int | None = None
    max_length: int = 256
    instruction: str | None = None
    facts: str | None = None
    only: tuple[str, ...] = ()
    max_bytes: int | None = None
    max_ms: float | None = None
    tuning: Tuning = field(default_factory=Tuning)
    prompting: Prompting = field(default_factory=Prompting)
    command: str = ""

    def wants(self, family: str) -> bool:
        """Return whether candidates of `family` are to be tried."""
        return not self.only or family in self.only


# Every family of candidates besides the methods that are trained, which are named by what
# `methods.together.parse` reads, "+context" behind it for training under demonstrations, or
# "+unmasked" for reading the decoder as an encoder (see `models.encoder.Unmasked`).
FAMILIES = (
    "majority", "tf-idf", "dictionary", "n-gram", "zero-shot", "few-shot", "channel", "knn",
    "probe", "compressed", "encoder-lora", "head",
)  # fmt: skip
CONTEXT, UNMASKED = "+context", "+unmasked"


def trained_families(only: tuple[str, ...]) -> list[str]:
    """Return those of `only` that name methods to train.

    >>> trained_families(("tf-idf", "lora(rank=4)+ia3"))
    ['lora(rank=4)+ia3']
    """
    return [family for family in only if family not in FAMILIES]


def bare(family: str) -> str:
    """Return the methods that a family of candidates trains.

    >>> bare("lora+ia3+context")
    'lora+ia3'
    """
    return family.removesuffix(CONTEXT).removesuffix(UNMASKED)


@dataclass(frozen=True, kw_only=True)
class Material:
    """The data of a job: its task, the tables as read and the splits made of them.

    `outside`: the label that means none of the others, None where there is none.
    """

    task: Task
    tables: dict[str, Table]
    splits: Splits
    outside: str | None = None


def parse_budget(text: str) -> float:
    """Return seconds from "90", "90s", "10m" or "1.5h".

    >>> parse_budget("1.5m")
    90.0
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if not match or float(match[1]) <= 0:
        raise ConfigError(
            "E-CONFIG-051", f"The budget '{text}' is not a time.", fix="write 90s, 10m or 1h"
        )
    return float(match[1]) * _UNITS[match[2]]


def read_material(job: Job, oos: str = "") -> Material:
    """Read and split the data of a job. Raises DataError with every problem of a file.

    `oos`: the label that means none of the others; ConfigError (E-CONFIG-162) when no row has it.
    """
    files = {name: str(path) for name, path in find_files(job.data).items()}
    files |= {name: path for name, path in (("dev", job.dev), ("test", job.test)) if path}
    task = task_named(job.task)
    tables = {
        name: worded(
            read_task(path, task.name, columns=job.columns, classes=2 if name == "train" else 1)
        )
        for name, path in files.items()
    }
    made = split if task.name in ONE_LABEL else partial(split_by, strata=stratum)
    splits = made(
        tables["train"],
        dev=tables.get("dev"),
        test=tables.get("test"),
        seed=job.seed,
        limit=job.limit,
    )
    outside = outside_label(splits.labels, oos) if oos or task.name == "classification" else None
    return Material(task=task, tables=tables, splits=splits, outside=outside)


def worded(table: Table) -> Table:
    """Return a table whose answers are all in words: frames as a decoder would write them."""
    return replace(table, examples=tuple(in_words(table.task, table.examples)))


def stratum(example: Example) -> str:
    """Return what rows of tasks without one label are balanced by: whether anything is found."""
    return "something" if example.frames or example.turns or example.label else "nothing"


def fingerprint(job: Job, material: Material, bases: dict[str, str]) -> str:
    """Return a digest of all that decides a run's results: data, settings, weights.

    The budget and the output folder are left out: a rerun may be given more time.
    """
    settings = asdict(job)
    for name in ("out", "seconds", "command", "data", "dev", "test"):
        del settings[name]
    hashes = {name: table.sha256 for name, table in material.tables.items()}
    parts = json.dumps([settings, hashes, bases], sort_keys=True, default=str)
    return sha256(parts.encode()).hexdigest()
