"""The nouns that every tier shares: an example, splits, a score, a cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, order=True)
class Span:
    """The characters `start` to `end` (code points, end excluded) of a text, and what they are.

    `label`: the type of an entity or trigger, the role of an argument; "" where it has none.
    """

    start: int
    end: int
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One thing that a text says: what it is, the words it hangs on, and what belongs to it.

    An entity: `label` its type, `head` its span. A relation: `label` its name, `head` and one
    argument the spans it joins. An event: `label` its type, `head` its trigger (None where the data
    have none), `arguments` by role. One of several labels of a text: `label` alone.
    """

    label: str
    head: Span | None = None
    arguments: tuple[Span, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of a conversation; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One input with its answer.

    `text` is cleaned (no BOM, no stray spaces at the ends); `label` is the answer in words: a
    label, a reply, a story, frames as they are written; None where the file has none. `row` is the
    1-based data row in the source file (the header does not count). `frames`: what an extraction
    task asks for, by offsets in `text`; `turns`: a conversation whose last turn is the answer.
    """

    text: str
    label: str | None = None
    row: int = 0
    frames: tuple[Frame, ...] = ()
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an adaptation answers to one text: the words, and the frames they stand for.

    `nats`: minus the log-probability of a wanted answer, over `bytes` of UTF-8 and `tokens` of the
    base (its end counts), where it was scored instead of written; `stopped`: a written answer ended
    by itself.
    """

    words: str = ""
    frames: tuple[Frame, ...] = ()
    nats: float = 0.0
    bytes: int = 0
    tokens: int = 0
    stopped: bool = True


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What answers of an extraction task may hold, as the training rows have it.

    `types`: labels of frames; `roles`: the labels that arguments of a type may have, by type;
    `heads`: whether frames hang on words of the text.
    """

    types: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    heads: bool = True


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Rows that cannot be used, for one reason; `rows` holds their 1-based numbers."""

    reason: str
    rows: tuple[int, ...]
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Train, development and test examples, and what was dropped on the way."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...]
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric with its 95 % bootstrap interval; all three in [0, 1]."""

    metric: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a candidate costs. Seconds to fit, weights trained, bytes kept, milliseconds a query."""

    fit_seconds: float = 0.0
    trainable_parameters: int = 0
    artifact_bytes: int = 0
    ms_per_query: float = 0.0
    tokens_per_query: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened in a long run: `kind` is "start", "progress", "note" or "end".

    `candidate` names what is being done, `done` of `total` of it.
    """

    kind: str
    candidate: str = ""
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of a packed corpus, as token ids without special tokens.

    `ids`: (n,) integers; `starts`: (n,) bool, True where a token begins a word; `sentences`:
    (s + 1,) offsets of sentences in `ids`, the first 0 and the last n; `bytes`: its UTF-8.
    """

    ids: Integers
    starts: NDArray[np.bool_]
    sentences: Integers
    bytes: int


class Readout(Protocol):
    """How an answer is read from texts, scores, features or states, or written.

    A member stores what it learnt as JSON-ready `settings` and named `arrays` (never pickle), and
    is rebuilt from exactly these.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels that its answers may have, none for free text."""
        ...

    @property
    def reads(self) -> str:
        """Return "texts", or "features", "scores" or "states" of a base, or "answers"."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays)."""
        ...


class Classifier(Readout, Protocol):
    """A readout that gives each label a probability; columns are in the order of `labels`."""

    def probabilities(self, inputs: Any) -> Floats:
        """Return class probabilities, shape (rows, classes), rows summing to 1."""
        ...
