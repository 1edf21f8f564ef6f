"""A folder of projects: each its data, its settings and its runs. All that the page knows is here.

    WORKSPACE/PROJECT/project.json      the file's own name, the task and columns that were chosen
    WORKSPACE/PROJECT/data/NAME.csv     the data
    WORKSPACE/PROJECT/runs/1/           asked.json, events.jsonl, out/PROJECT/ (what `adapt` writes)

A request names a project and a run by what `id` and `number` are checked to be, never by a path.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError, DataError
from sapwood.files import told, write_json
from sapwood.registry import did_you_mean
from sapwood.tasks.rows import FORMATS

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_LONGEST_ID = 32  # a number follows where the name is taken
_MAIN, _ASKED, _EVENTS = "project.json", "asked.json", "events.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a project; `asked` is what its form said."""

    folder: Path
    number: int
    asked: Mapping[str, Any]

    @property
    def out(self) -> Path:
        """Return the folder that `adapt` writes; called as its project, and so it is served."""
        return self.folder / "out" / self.folder.parent.parent.name

    @property
    def events(self) -> Path:
        """Return the file of its events."""
        return self.folder / _EVENTS

    def report(self) -> dict[str, Any] | None:
        """Return its report, None before it is written or where it cannot be read."""
        from sapwood.report import load_report

        try:
            return load_report(self.out)
        except DataError:
            return None


@dataclass(frozen=True, kw_only=True)
class Project:
    """One data file and what was made of it.

    `name`: the file's own name, for people; `file`: its name on disk; `task` "" and `columns` {}
    where they are guessed; `made`: seconds since 1970.
    """

    folder: Path
    name: str
    file: str
    made: float
    task: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return the name by which requests ask for it."""
        return self.folder.name

    @property
    def data(self) -> Path:
        """Return the data file."""
        return self.folder / "data" / self.file

    def save(self, **changes: Any) -> Project:
        """Write the settings with these changes, and return the project that has them."""
        said = {"name": self.name, "file": self.file, "made": self.made, "task": self.task,
                "columns": dict(self.columns), **changes}  # fmt: skip
        write_json(self.folder / _MAIN, said)
        return Project(folder=self.folder, **said)

    def runs(self) -> tuple[Run, ...]:
        """Return its runs, the newest first."""
        places = self.folder.glob("runs/[0-9]*")
        numbers = sorted((int(p.name) for p in places if p.name.isdecimal()), reverse=True)
        found = (self._run(number) for number in numbers)
        return tuple(run for run in found if run is not None)

    def run(self, number: int) -> Run:
        """Return one run. Raises ConfigError (E-CONFIG-311)."""
        found = self._run(number)
        if found is None:
            raise ConfigError(
                "E-CONFIG-311", f"'{self.name}' has no run {number}.", fix="choose one of its runs"
            )
        return found

    def _run(self, number: int) -> Run | None:
        folder = self.folder / "runs" / str(number)
        asked = read_object(folder / _ASKED)
        return None if asked is None else Run(folder=folder, number=number, asked=asked)

    def new_run(self, asked: Mapping[str, Any]) -> Run:
        """Make the folder of a further run."""
        number = max((run.number for run in self.runs()), default=0) + 1
        folder = self.folder / "runs" / str(number)
        write_json(folder / _ASKED, {**asked, "made": time.time()})
        return self.run(number)


class Workspace:
    """The projects of one folder, which is made if it is not there.

    Raises what `files.told` raises where it cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with told(self.root):
            self.root.mkdir(parents=True, exist_ok=True)

    def projects(self) -> tuple[Project, ...]:
        """Return every project, the newest first."""
        found = (_project(path.parent) for path in self.root.glob(f"*/{_MAIN}"))
        return tuple(sorted(filter(None, found), key=lambda p: (-p.made, p.id)))

    def project(self, identity: str) -> Project:
        """Return a project. Raises ConfigError (E-CONFIG-310) where there is none."""
        found = _project(self.root / identity) if _ID.fullmatch(identity) else None
        if found is None:
            known = [project.id for project in self.projects()]
            shown = ascii(identity)[1:-1][:40]
            raise ConfigError(
                "E-CONFIG-310",
                f"There is no project '{shown}'.{did_you_mean(identity, known)}",
                fix="choose one of the list, or bring a data file",
            )
        return found

    def room(self) -> Path:
        """Return a file that an upload may be written to; `take` or the caller takes it away."""
        with told(self.root):
            (self.root / ".coming").mkdir(exist_ok=True)
        return self.root / ".coming" / secrets.token_hex(8)

    def take(self, name: str, upload: Path) -> Project:
        """Make a project of an uploaded file that was called `name`. The upload is moved.

        Raises DataError (E-DATA-300) where its ending names no known kind of file.
        """
        shown = Path(name.replace("\\", "/")).name[-120:] or "data"
        suffix = Path(shown).suffix.lower()
        if suffix not in (*FORMATS, ".txt"):
            raise DataError(
                "E-DATA-300",
                f"'{shown}' is no kind of data file that is known here.",
                fix="bring a .csv, .tsv, .jsonl, .json, .parquet or .conll file",
            )
        plain = re.sub(r"[^a-z0-9]+", "-", Path(shown).stem.lower()).strip("-")
        identity = self._free(plain[:_LONGEST_ID].strip("-") or "data")
        folder = self.root / identity
        project = Project(folder=folder, name=shown, file=f"{identity}{suffix}", made=time.time())
        try:
            with told(folder):
                project.data.parent.mkdir(parents=True)
                upload.replace(project.data)
            return project.save()
        except BaseException:  # no half of a project
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def remove(self, project: Project) -> None:
        """Delete a project and everything in it."""
        aside = self.root / f".gone-{secrets.token_hex(4)}"
        with told(project.folder):
            project.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _free(self, name: str) -> str:
        number = 1
        found = name
        while (self.root / found).exists():
            number += 1
            found = f"{name}-{number}"
        return found


def _project(folder: Path) -> Project | None:
    said = read_object(folder / _MAIN)
    if said is None:
        return None
    try:
        return Project(folder=folder, **said)
    except TypeError:  # written by another version
        return None


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
