"""How what candidates say is marked, kept and read again: one code for all tasks.

What is said of rows is an array of class probabilities (rows, labels) where the task asks for one
label, and a list of Answers for all other tasks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sapwood.files import told, write_json
from sapwood.interfaces import Answer, Example, Floats, Frame, Span
from sapwood.metrics import correct, expected_calibration_error, log_loss, macro_f1
from sapwood.tally import Tally, bits, bits_saved, share
from sapwood.tasks.kinds import Task
from sapwood.tasks.scoring import macro_of_labels, tally


class Marks(Protocol):
    """How the rows of one task are marked."""

    @property
    def suffix(self) -> str:
        """Return the suffix of the files that hold what was said."""
        ...

    def tally(self, rows: Sequence[Example], said: Any) -> Tally:
        """Return the headline score of `said`; more is better."""
        ...

    def loss(self, rows: Sequence[Example], said: Any) -> float:
        """Return what tells candidates of equal scores apart; less is better."""
        ...

    def further(self, rows: Sequence[Example], said: Any) -> dict[str, float]:
        """Return further scores by name, for the report."""
        ...

    def keep(self, path: Path, said: Any) -> None:
        """Write `said` as `path`, whole or not at all."""
        ...

    def recall(self, path: Path) -> Any:
        """Return what `keep` wrote."""
        ...

    def words(self, said: Any) -> list[str]:
        """Return each answer in words."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelMarks:
    """One label a text: `labels` in the order of the columns of probabilities."""

    labels: tuple[str, ...]
    task: str = "classification"
    suffix: str = "npy"

    def tally(self, rows: Sequence[Example], said: Floats) -> Tally:
        """Return the accuracy; of relations between given pairs the macro F1 (see scoring)."""
        if self.task == "pairs":
            return tally(self.task, rows, [Answer(words=words) for words in self.words(said)])
        return share("accuracy", correct(_gold(rows), self.words(said)))

    def loss(self, rows: Sequence[Example], said: Floats) -> float:
        """Return the log loss over the rows whose label training has."""
        index = self.index(rows)
        known = index >= 0
        return log_loss(said[known], index[known])

    def further(self, rows: Sequence[Example], said: Floats) -> dict[str, float]:
        """Return macro F1 and the expected calibration error."""
        return {
            "macro_f1": macro_f1(_gold(rows), self.words(said)),
            "ece": expected_calibration_error(said, self.index(rows)),
        }

    def keep(self, path: Path, said: Floats) -> None:
        """Write an array of numpy's."""
        with told(path):
            part = path.with_name(f".{path.name}.part.npy")
            np.save(part, said)
            part.replace(path)

    def recall(self, path: Path) -> Floats:
        """Return the array."""
        found: Floats = np.load(path)
        return found

    def words(self, said: Floats) -> list[str]:
        """Return the most probable labels."""
        return [self.labels[n] for n in np.argmax(said, axis=1)]

    def index(self, rows: Sequence[Example]) -> Any:
        """Return class numbers, (rows,); labels that training lacks are -1."""
        place = {label: n for n, label in enumerate(self.labels)}
        return np.array([place.get(str(e.label), -1) for e in rows])


@dataclass(frozen=True, kw_only=True)
class AnswerMarks:
    """Answers of any other kind: see `tasks.scoring` for the headline score of each task.

    Where that is bits a byte, the score here is the share of the eight bits that is saved,
    1 - bits / 8: so more is better for every task, and all scores lie in [0, 1] as a rule.
    """

    task: Task
    suffix: str = "json"

    def tally(self, rows: Sequence[Example], said: Sequence[Answer]) -> Tally:
        """Return the headline score."""
        if self.task.family != "generation":
            return tally(self.task.name, rows, said)
        return bits_saved(_likelihoods(said))

    def loss(self, rows: Sequence[Example], said: Sequence[Answer]) -> float:
        """Return what the headline score lacks of 1."""
        return 1.0 - self.tally(rows, said).value

    def further(self, rows: Sequence[Example], said: Sequence[Answer]) -> dict[str, float]:
        """Return bits a byte where that is what is measured, macro F1 of several labels a text."""
        if self.task.name == "multi-label":
            return {"macro_f1": macro_of_labels(rows, said).value}
        if self.task.family != "generation":
            return {}
        return {"bits_a_byte": float(bits(_likelihoods(said).sum(0)))}

    def keep(self, path: Path, said: Sequence[Answer]) -> None:
        """Write a list of objects."""
        write_json(path, [asdict(answer) for answer in said])

    def recall(self, path: Path) -> list[Answer]:
        """Return the answers."""
        return [answer_of(row) for row in json.loads(path.read_text(encoding="utf-8"))]

    def words(self, said: Sequence[Answer]) -> list[str]:
        """Return the answers as written."""
        return [answer.words for answer in said]


def _likelihoods(said: Sequence[Answer]) -> Floats:
    """Return (nats, bytes) of the wanted answers, (rows, 2)."""
    return np.array([[answer.nats, answer.bytes] for answer in said], np.float64)


def answer_of(content: dict[str, Any]) -> Answer:
    """Return the answer that `dataclasses.asdict` turned into `content`."""
    frames = tuple(frame_of(frame) for frame in content["frames"])
    return Answer(**{**content, "frames": frames})


def frame_of(content: dict[str, Any]) -> Frame:
    """Return the frame that `dataclasses.asdict` turned into `content`."""
    head = content["head"]
    arguments = tuple(Span(**span) for span in content["arguments"])
    return Frame(label=content["label"], head=Span(**head) if head else None, arguments=arguments)


def _gold(rows: Sequence[Example]) -> list[str]:
    return [str(example.label) for example in rows]


def joined_said(parts: Sequence[Any]) -> Any:
    """Return what is said of rows, given a chunk of rows at a time."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [answer for part in parts for answer in part]
