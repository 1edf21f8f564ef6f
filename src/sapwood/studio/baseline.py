"""What the cheap baselines of a task reach on a project's data: seconds, and no base."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.errors import ResourceError, SapwoodError
from sapwood.files import write_json
from sapwood.studio.looking import NAMED, look, named
from sapwood.studio.workspace import Project, read_object

if TYPE_CHECKING:
    from sapwood.interfaces import Example
    from sapwood.search.job import Material

OF_LABELS, OF_SPANS, OF_TEXTS = ("majority", "tf-idf"), ("dictionary",), ("n-gram",)


def baselines_of(task: str) -> tuple[str, ...]:
    """Return the names of a task's baselines, the plainest first."""
    from sapwood.tasks.structured import task_named

    if task == "multi-label":
        return ("tf-idf",)
    family = task_named(task).family
    return {"extraction": OF_SPANS, "generation": OF_TEXTS}.get(family, OF_LABELS)


class Baselines:
    """Measures the baselines of projects, each in a thread of its own, and keeps what it found."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, threading.Thread] = {}
        self._unkept: dict[str, dict[str, Any]] = {}  # what could not be written

    def known(self, project: Project) -> dict[str, Any]:
        """Return {"state": "none" | "running" | "done" | "failed", "rows", "error"} as it is now.

        A row has a `name`, `value`, `low`, `high` and `seconds`. What was measured on other data is
        not known.
        """
        with self._lock:
            thread = self._running.get(project.id)
        if thread is not None and thread.is_alive():
            return {"state": "running", "rows": [], "error": None}
        kept = self._unkept.get(project.id) or read_object(_file(project))
        if kept is not None and kept.get("key") == look(project)["key"]:
            return kept
        return {"state": "none", "rows": [], "error": None}

    def begin(self, project: Project) -> None:
        """Measure, unless that is done or under way."""
        if self.known(project)["state"] in ("running", "done"):
            return
        thread = threading.Thread(target=self._keep, args=(project,), daemon=True)
        with self._lock:
            self._running[project.id] = thread
        thread.start()

    def wait(self, project: Project, seconds: float) -> None:
        """Wait for what is under way."""
        with self._lock:
            thread = self._running.get(project.id)
        if thread is not None:
            thread.join(seconds)

    def _keep(self, project: Project) -> None:
        found = _found(project)
        self._unkept.pop(project.id, None)
        try:
            write_json(_file(project), found)
        except ResourceError:  # a full disk: the page shows it as long as this server runs
            self._unkept[project.id] = found


def _file(project: Project) -> Path:
    return project.folder / "baselines.json"


def _found(project: Project) -> dict[str, Any]:
    """Return what was measured, or why it was not."""
    found: dict[str, Any] = {"key": look(project)["key"], "state": "done", "error": None}
    try:
        found |= measure(project)
    except SapwoodError as error:
        found |= {"state": "failed", "rows": [], "error": named(project, error.to_json())}
    except Exception as error:  # a thread has nobody to tell it to but the page
        what = f"{type(error).__name__}: {error}"
        found |= {"state": "failed", "rows": [], "error": {"error": "E-INTERNAL-001", "what": what}}
    return found


def measure(project: Project) -> dict[str, Any]:
    """Return {"rows": one a baseline, "metric", "splits"} measured on the development rows.

    The splits are those that a run of the same data makes. Raises what the readers raise.
    """
    from sapwood.search.job import Job, read_material

    task = look(project)["task"]
    columns = {role: project.columns[role] for role in NAMED if project.columns.get(role)}
    job = Job(data=str(project.data), out=project.folder, model="", seconds=1, task=task,
              columns=columns)  # fmt: skip
    material = read_material(job)
    splits, names = material.splits, baselines_of(task)
    _answers(material, names[0], splits.dev[:1])  # loads what is loaded once, outside of the clock
    measured = [_measured(material, name) for name in names]
    return {
        "rows": measured,
        "metric": measured[-1]["metric"],
        "splits": [len(splits.train), len(splits.dev), len(splits.test)],
    }


def _measured(material: Material, name: str) -> dict[str, Any]:
    from sapwood.search.marks import AnswerMarks

    began = time.perf_counter()
    rows = material.splits.dev
    marks = AnswerMarks(task=material.task)
    found = marks.tally(rows, _answers(material, name, rows)).interval()
    score = {key: getattr(found, key) for key in ("metric", "value", "low", "high")}
    return {"name": name, **score, "seconds": time.perf_counter() - began}


def _answers(material: Material, name: str, rows: tuple[Example, ...]) -> Any:
    """Fit a baseline on the training rows and return what it answers to others."""
    from sapwood.adaptation import Adaptation
    from sapwood.evaluation import Bases, asking
    from sapwood.interfaces import Answer
    from sapwood.launch import choose_runtime
    from sapwood.readouts import READOUTS
    from sapwood.registry import resolve

    train, labels = material.splits.train, material.splits.labels
    if material.task.name == "multi-label":
        return _several(material, rows)
    member: Any = resolve("readout", READOUTS, name)
    if name in OF_LABELS:
        gold = [row.label or "" for row in train]
        fitted = member.fit([row.text for row in train], gold, labels=labels)
        chosen = fitted.probabilities([row.text for row in rows]).argmax(1)
        return [Answer(words=labels[place]) for place in chosen]
    made = Adaptation(labels=labels, task=material.task.name, readout_name=name,
                      readout=member.fit(train))  # fmt: skip
    with asking(made, Bases(choose_runtime("cpu", "float32"))) as asked:
        return asked.said(rows)


def _several(material: Material, rows: tuple[Example, ...]) -> Any:
    """Return the labels that n-grams give each text: those with a probability of one half."""
    import numpy as np

    from sapwood.readouts.labels import LabelGrams
    from sapwood.readouts.thresholds import labelled

    train, labels = material.splits.train, material.splits.labels
    wanted = np.array([[label in material.task.labels(row) for label in labels] for row in train])
    fitted = LabelGrams.fit([row.text for row in train], wanted, labels=labels)
    return labelled(labels, fitted.each([row.text for row in rows]) >= 0.5)
