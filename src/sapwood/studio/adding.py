"""A row added to a project's data: what was tried, with the answer that a person says is right."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from sapwood.errors import DataError
from sapwood.files import write_text
from sapwood.interfaces import Span
from sapwood.studio.looking import NAMED, look, replace_data
from sapwood.studio.workspace import Project
from sapwood.tasks.readers import Table

ADDABLE = ("classification", "multi-label", "entities", "dialogue", "story", "poetry")
MOST_BYTES = 256 << 20  # of a data file that is written anew for one row
_WORD = re.compile(r"\w+|[^\w\s]")


def add(project: Project, text: str, answer: str) -> int:
    """Append a row to the data, which become a .jsonl file, and return how many rows they have.

    `answer`: a label; labels, one a line; "TYPE: words of the text", one entity a line; or what is
    written. Raises DataError: E-DATA-302 a task whose rows are not added here, E-DATA-303 an answer
    that cannot be used, E-DATA-304 where the row would not be read back; the data stay as they are.
    """
    from sapwood.tasks.structured import read_task

    task = look(project)["task"]
    if task not in ADDABLE or project.data.stat().st_size > MOST_BYTES:
        raise DataError(
            "E-DATA-302", f"Rows of '{project.name}' are not added here.", fix="edit the file"
        )
    if not text.strip():
        raise DataError("E-DATA-303", "There is no text.", fix="write the text first")
    named = {role: project.columns[role] for role in NAMED if role in project.columns}
    table = read_task(project.data, task, columns=named)
    records = [*_records(project), _record(task, table, text, answer)]
    target = project.data.with_name(f"{project.id}.jsonl")
    part = target.with_name(f"coming-{target.name}")
    write_text(part, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    try:
        _check(table, read_task(part, task, columns=named), text)
    except DataError as error:
        part.unlink(missing_ok=True)
        raise DataError(
            "E-DATA-304",
            "The row would not be read as it is meant, so it was not added.",
            details=[error.what, *error.details],
            fix="add it to the file by hand, and bring that again",
        ) from None
    part.replace(target)
    replace_data(project, target.name)
    return len(records)


def _check(before: Table, after: Table, text: str) -> None:
    gone = sorted(set(before.labels) - set(after.labels))
    same = len(after.examples) == len(before.examples) + 1
    if gone or not same or "".join(after.examples[-1].text.split()) != "".join(text.split()):
        what = f"labels {', '.join(gone)} would be gone" if gone else "its text would be another"
        raise DataError("E-DATA-304", what)


def _records(project: Project) -> list[dict[str, Any]]:
    from sapwood.tasks.readers import open_source

    rows = open_source(project.data).rows.records
    return [dict(record) for _, record in rows if isinstance(record, dict)]


def _record(task: str, table: Table, text: str, answer: str) -> dict[str, Any]:
    column, other = table.columns.text, table.columns.label or "label"
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if task == "entities":
        spans = entities(text, lines)
        if _in_tokens(table):
            return _tagged(text, spans, column, other)
        listed = [{"start": s.start, "end": s.end, "label": s.label} for s in spans]
        return {column: text, other: listed}
    if task == "multi-label":
        return {column: text, other: lines}
    if not lines:
        raise DataError("E-DATA-303", "There is no answer.", fix="write or choose the right one")
    if task == "dialogue" and table.columns.label is None:  # the column holds whole conversations
        said = (("user", text), ("assistant", answer.strip()))
        return {column: [{"role": role, "content": words} for role, words in said]}
    return {column: text, other: lines[0] if task == "classification" else answer.strip()}


def entities(text: str, lines: Sequence[str]) -> tuple[Span, ...]:
    """Return the spans that lines such as "PER: Ada Lovelace" name, by place.

    Words that stand in the text several times are meant once for each line. Raises DataError
    (E-DATA-303) with every line that cannot be used.
    """
    found: list[Span] = []
    wrong = []
    for line in lines:
        label, mark, words = (part.strip() for part in line.partition(":"))
        places = [m.start() for m in re.finditer(re.escape(words), text)] if words else []
        free = [at for at in places
                if not any(s.start < at + len(words) and at < s.end for s in found)]  # fmt: skip
        if not (label and mark and words):
            wrong.append(f"'{line}' is not TYPE: words")
        elif not free:
            wrong.append(f"'{words}' is not in the text" + (" once more" if places else ""))
        else:
            found.append(Span(start=free[0], end=free[0] + len(words), label=label))
    if wrong:
        raise DataError(
            "E-DATA-303", "These entities cannot be used.", details=wrong,
            fix="write one a line, such as PER: Ada Lovelace",
        )  # fmt: skip
    return tuple(sorted(found))


def _in_tokens(table: Table) -> bool:
    """Tell whether the rows are tokens with their tags, not a text with spans."""
    from sapwood.tasks.entities import TOKENS

    return table.format == "conll" or table.columns.text.lower() in TOKENS.names


def _tagged(text: str, spans: Sequence[Span], column: str, other: str) -> dict[str, Any]:
    tokens, tags = [], []
    for match in _WORD.finditer(text):
        over = [s for s in spans if s.start < match.end() and match.start() < s.end]
        tokens.append(match.group())
        begins = over and match.start() <= over[0].start
        tags.append(f"{'B' if begins else 'I'}-{over[0].label}" if over else "O")
    return {column: tokens, other: tags}
