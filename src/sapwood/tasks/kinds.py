"""What a task is: how its rows are read, what is asked for, and how answers are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sapwood.interfaces import Example
from sapwood.tasks.columns import Columns
from sapwood.tasks.rows import Record

Family = Literal["classification", "generation", "extraction"]
ONE_LABEL = ("classification", "pairs")  # the tasks whose answer is one label
SPANS = ("entities", "relations", "events")  # whose answers are parts of the text
SEVERAL = (*SPANS, "multi-label")  # whose answers are any number of things
WRITTEN = ("dialogue", "story", "poetry")  # whose answers are free text
NAMES_BESIDE = "labels.txt"  # names of tag numbers, one a line, for a file that has none
Read = Callable[[Record, list[str]], Example]


class Unusable(Exception):
    """A row that cannot be used: the `reason` groups rows, `value` is what this one has."""

    def __init__(self, reason: str, value: str = "", fix: str = "") -> None:
        super().__init__(reason)
        self.reason, self.value, self.fix = reason, value, fix


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What is known of a source before its rows are read.

    `found`: its columns; `first`: its first records; `names`: the names of class numbers, by
    column; `given`: columns named by the caller, by role; `where`: what to call the source.
    """

    found: tuple[str, ...]
    first: tuple[Record, ...]
    names: Mapping[str, tuple[str, ...]]
    given: Mapping[str, str]
    need_answer: bool
    where: str


@dataclass(frozen=True, kw_only=True)
class Form:
    """How the rows of one source are read.

    `read` returns the example of a record and adds what it repaired to the list it is given; it
    raises Unusable. `finish` sees repairs (reason -> rows) once all is read, may take out those
    that were none, and returns notes on the whole source.
    """

    columns: Columns
    read: Read
    notes: tuple[str, ...] = ()
    finish: Callable[[dict[str, list[int]]], tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of task.

    `metric`: the headline score; `row`: one row of a file as it may look, in JSON; `about`: one
    sentence; `form` looks at a source and tells how its rows are read; `labels` returns the
    labels that an example holds (classes, types), none where the answer is free text.
    """

    name: str
    family: Family
    metric: str
    row: str
    about: str
    form: Callable[[Opening], Form]
    labels: Callable[[Example], tuple[str, ...]]


def no_labels(example: Example) -> tuple[str, ...]:
    """Return nothing: the answers of this task are free text."""
    del example
    return ()


def own_label(example: Example) -> tuple[str, ...]:
    """Return the one label of an example."""
    return () if example.label is None else (example.label,)


def frame_labels(example: Example) -> tuple[str, ...]:
    """Return the label of every frame of an example."""
    return tuple(frame.label for frame in example.frames)
