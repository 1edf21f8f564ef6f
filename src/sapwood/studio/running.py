"""Runs of `sapwood adapt` in processes of their own, which go on when the page or its server ends.

A run tells its events to a file (see `commands.journal`) and holds a lock beside it while it
lives; a file that ends in ".stop" asks it to end. So any server, the one that began it or a later
one, sees the same and can do the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sapwood.errors import ConfigError, ResourceError
from sapwood.files import told
from sapwood.studio.looking import NAMED, blocked, look
from sapwood.studio.story import Story
from sapwood.studio.workspace import Project, Run

BUDGETS = ("30s", "1m", "2m", "5m", "10m", "20m", "30m", "1h", "2h", "4h", "8h")
_GRACE = 60.0  # seconds in which a new process takes its lock, on a machine that has much to do
Start = Callable[[list[str], Path], "subprocess.Popen[bytes]"]


def command_of(project: Project, run: Run) -> list[str]:
    """Return the arguments after `sapwood` that a run is started with."""
    asked: Mapping[str, Any] = run.asked
    given = ["adapt", str(project.data), f"--out={run.out}", f"--budget={asked['budget']}",
             f"--model={asked['model']}", f"--task={look(project)['task']}"]  # fmt: skip
    given += [f"--{role}={project.columns[role]}" for role in NAMED if project.columns.get(role)]
    for name in ("encoder", "limit", "seed", "instruction", "lang"):
        if asked.get(name):
            given.append(f"--{name}={asked[name]}")
    return [*given, f"--events={run.events}", "--json"]


def start_process(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start `sapwood` in a session of its own, its output in files of `folder`."""
    with told(folder), (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "sapwood", *arguments],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
        )  # fmt: skip


class Runs:
    """Starts, stops and follows runs. `start` is told to a test that wants no process."""

    def __init__(self, start: Start = start_process) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        self._stories: dict[Path, Story] = {}

    def begin(self, project: Project, asked: Mapping[str, Any]) -> Run:
        """Start a new run. Raises ConfigError: E-CONFIG-312 one is running, 313 the data block it.

        What is wrong with `asked` is told by the run itself, at once.
        """
        with self._lock:
            self._check(project)
            run = project.new_run(asked)
            try:
                self._go(project, run)
            except ResourceError:  # a run that never began is none
                shutil.rmtree(run.folder, ignore_errors=True)
                raise
        return run

    def resume(self, project: Project, run: Run) -> None:
        """Go on where a run that was stopped or cut off left off. Raises as `begin` does."""
        with self._lock:
            self._check(project)
            self._go(project, run)

    def _check(self, project: Project) -> None:
        for run in project.runs():
            if self.story(run)["state"] in ("starting", "running", "stopping"):
                raise ConfigError(
                    "E-CONFIG-312",
                    f"Run {run.number} of '{project.name}' is not over yet.",
                    fix="stop it, or wait until it has ended",
                )
        if blocked(look(project)):
            raise ConfigError(
                "E-CONFIG-313",
                f"'{project.name}' cannot be adapted to as it is.",
                fix="mend first what blocks, under Data",
            )

    def _go(self, project: Project, run: Run) -> None:
        run.events.with_suffix(".stop").unlink(missing_ok=True)
        with told(run.folder):
            (run.folder / "started").touch()
        self._processes[run.folder] = self._start(command_of(project, run), run.folder)

    def stop(self, run: Run) -> None:
        """Ask a run to end after its present step; what it has is kept."""
        if self.story(run)["state"] in ("starting", "running"):
            with told(run.events):
                run.events.with_suffix(".stop").touch()

    def story(self, run: Run) -> dict[str, Any]:
        """Return how a run stands, JSON-ready; see `Story.told`."""
        story = self._stories.setdefault(run.folder, Story(run))
        alive = self._alive(
            run
        )  # asked before the events are read, which then may say how it ended
        found = story.told()
        if found["state"] == "ended":
            return {**found, "state": found["how"]}
        if not alive:
            return {**found, "state": "cut", "error": found["error"] or _last_words(run)}
        stopping = run.events.with_suffix(".stop").exists()
        state = "stopping" if stopping else "running" if found["begun"] else "starting"
        return {**found, "state": state}

    def _alive(self, run: Run) -> bool:
        process = self._processes.get(run.folder)
        if process is not None:
            return process.poll() is None
        if _locked(run.events.with_name(run.events.name + ".lock")):
            return True
        try:
            started = (run.folder / "started").stat().st_mtime
        except OSError:
            return False
        begun = run.events.exists() and run.events.stat().st_mtime >= started
        return not begun and time.time() - started < _GRACE


def _locked(path: Path) -> bool:
    from filelock import FileLock, Timeout

    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def _last_words(run: Run) -> dict[str, Any]:
    """Return what is told of a run that ended without a word: the last lines of its talk."""
    try:
        text = (run.folder / "stderr").read_bytes()[-2000:].decode("utf-8", "replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-3:]
    return {"error": "E-RESOURCE-091", "what": "The run ended without a word.", "details": lines,
            "fix": "go on with it: what was finished is kept"}  # fmt: skip
