"""What a project's data file holds: its task, the role of each column, first rows, problems."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from sapwood.errors import ConfigError, DataError, ResourceError
from sapwood.files import write_json
from sapwood.studio.workspace import Project, read_object

MOST = 20_000  # rows that are checked; their texts are compared with each other, which takes time
HEAD = 8  # rows shown
CELL = 240  # characters of a cell shown
VERSION = 1
_ROLE = re.compile(r"(\w+): '([^']*)'")
NAMED = ("text", "label")  # the roles that a run takes columns for

Look = dict[str, Any]


def look(project: Project) -> Look:
    """Return what was seen of the data, JSON-ready; seen once and kept until something changes.

    `task`, `why`, `guesses` [(task, why)], `columns` in the file's order, `roles` (column -> role),
    `head` rows of cells, `rows`, `kept`, `findings` as `Findings.to_json`; `error` and its parts
    where the rows cannot be read so, in which case only what is known before is there.
    """
    kept, key = project.folder / "look.json", _key(project)
    before = read_object(kept)
    if before is not None and before.get("key") == key:
        return before
    seen = {"key": key, **_looked(project)}
    with suppress(ResourceError):  # where it cannot be kept, it is seen again the next time
        write_json(kept, seen)
    return seen


def _key(project: Project) -> list[Any]:
    try:
        found = project.data.stat()
    except OSError:
        raise DataError(
            "E-DATA-301",
            f"The data file of '{project.name}' is gone.",
            fix="bring it again",
        ) from None
    task, columns = project.task, sorted(project.columns.items())
    return [VERSION, found.st_size, found.st_mtime_ns, task, [list(pair) for pair in columns]]


def _looked(project: Project) -> Look:
    seen: Look = {"task": project.task, "why": "", "guesses": [], "columns": [], "roles": {},
                  "head": [], "rows": 0, "kept": 0, "findings": None, "error": None}  # fmt: skip
    try:
        seen |= _opened(project)
        seen |= _guessed(project)
        seen |= _read_as(project, seen["task"])
    except (DataError, ConfigError, ResourceError) as error:
        seen["error"] = named(project, error.to_json())
    return seen


def named(project: Project, error: Mapping[str, object]) -> dict[str, object]:
    """Return an error with the file called as its owner calls it."""
    text = json.dumps(error, ensure_ascii=False)
    for place in (str(project.data), project.file):
        text = text.replace(json.dumps(place, ensure_ascii=False)[1:-1], project.name)
    found: dict[str, object] = json.loads(text)
    return found


def _opened(project: Project) -> Look:
    from sapwood.tasks.readers import open_source

    rows = open_source(project.data).rows
    columns = [name for name in dict.fromkeys(rows.columns) if name]
    head = [[_cell(record.get(name)) for name in columns]
            for _, record in islice(rows.records, HEAD) if isinstance(record, dict)]  # fmt: skip
    return {"columns": columns, "head": head}


def _cell(value: object) -> str:
    """Return a cell as a person reads it: turns of a conversation and spans in lines of their own.

    >>> print(_cell([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]))
    user: Hi
    assistant: Hello
    """
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        lines = [_line(one) for one in value]
        text = "\n".join(lines) if all(lines) else json.dumps(value, ensure_ascii=False)
    elif isinstance(value, str) or value is None:
        text = value or ""
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def _line(one: Mapping[str, object]) -> str:
    if set(one) == {"role", "content"}:
        return f"{one['role']}: {one['content']}"
    if set(one) == {"start", "end", "label"}:
        return f"{one['label']} {one['start']}–{one['end']}"
    return ""


def _guessed(project: Project) -> Look:
    from sapwood.tasks.structured import choose_guess, guess_source

    guesses = guess_source(project.data, _columns(project.columns))
    best = choose_guess(guesses) or (guesses[0] if guesses else None)
    task = project.task or (best.task if best else "classification")
    why = next((guess.why for guess in guesses if guess.task == task), "")
    return {"task": task, "why": why, "guesses": [[g.task, g.why] for g in guesses]}


def _columns(columns: Mapping[str, str]) -> dict[str, str]:
    return {role: column for role, column in columns.items() if role in NAMED and column}


def _read_as(project: Project, task: str) -> Look:
    from sapwood.tasks.check import check
    from sapwood.tasks.structured import read_task

    columns = _columns(project.columns)
    table = read_task(f"{project.data}[:{MOST}]", task, columns=columns, classes=1)
    findings = check(table).to_json()
    for problem in findings["problems"]:
        problem["rows"] = problem["rows"][:5]
    roles = {column: role for role, column in _ROLE.findall(table.columns.why)}
    for role, column in (("text", table.columns.text), ("label", table.columns.label)):
        if column and column not in roles:
            roles[column] = role
    return {"roles": roles, "rows": table.rows, "kept": len(table.examples), "findings": findings}


def blocked(seen: Look) -> bool:
    """Tell whether these data cannot be adapted to as they are."""
    return bool(seen["error"]) or bool(seen["findings"] and seen["findings"]["blocks"])


def mend(project: Project) -> tuple[str, ...]:
    """Write the rows mended as `sapwood data check --fix` does; return what was done.

    Raises what the readers raise.
    """
    from sapwood.tasks.check import check
    from sapwood.tasks.mending import write_fixed
    from sapwood.tasks.structured import read_task

    task, columns = look(project)["task"], _columns(project.columns)
    table = read_task(project.data, task, columns=columns, classes=1)
    names = (f"{project.id}-mended.jsonl", f"{project.id}-mended-2.jsonl")
    clean = project.data.with_name(next(name for name in names if name != project.file))
    clean.unlink(missing_ok=True)
    done = write_fixed(check(table), table, clean)
    replace_data(project, clean.name)
    return done[1:]  # the first names the file


def replace_data(project: Project, file: str) -> Project:
    """Make another file of the data folder the project's data, and take the old one away.

    Where that cannot be written, the old one stays and the other is taken away.
    """
    old = project.data
    if file == project.file:
        return project
    try:
        changed = project.save(file=file)
    except ResourceError:
        old.with_name(file).unlink(missing_ok=True)
        raise
    old.unlink(missing_ok=True)
    return changed
