"""A row added to a project's data: what was tried, with the answer that a person says is right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sapwood.errors import DataError
from sapwood.files import write_text
from sapwood.interfaces import Frame, Span
from sapwood.studio.lines import names_of, read_lines
from sapwood.studio.looking import NAMED, look, replace_data
from sapwood.studio.questions import Question
from sapwood.studio.workspace import Project
from sapwood.tasks.kinds import ONE_LABEL, SPANS
from sapwood.tasks.readers import Table

MOST_BYTES = 256 << 20  # of a data file that is written anew for one row
_WORD = re.compile(r"\w+|[^\w\s]")


def add(project: Project, question: Question, answer: str) -> int:
    """Append a row to the data, which become a .jsonl file, and return how many rows they have.

    `answer`: a label; labels, one a line; entities, relations or events as `lines` has them; or
    what is written. Raises DataError: E-DATA-302 a file too large to be written anew for one row,
    E-DATA-303 an answer that cannot be used, E-DATA-304 where the row would not be read back; the
    data stay as they are.
    """
    from sapwood.tasks.structured import read_task

    seen = look(project)
    task = seen["task"]
    if project.data.stat().st_size > MOST_BYTES:
        raise DataError(
            "E-DATA-302", f"Rows of '{project.name}' are not added here.", fix="edit the file"
        )
    named = {role: project.columns[role] for role in NAMED if role in project.columns}
    table = read_task(project.data, task, columns=named)
    frames: tuple[Frame, ...] = ()
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if task in SPANS:
        frames = read_lines(task, question.shown, lines, names_of(table.examples))
        row = _framed(task, table, question.shown, frames)
    else:
        row = _answered(task, table, question, lines, answer.strip())
        places = {role: column for column, role in seen["roles"].items()}
        row |= _beside(question, places)
    records = [*_records(project), row]
    target = project.data.with_name(f"{project.id}.jsonl")
    part = target.with_name(f"coming-{target.name}")
    write_text(part, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    try:
        _check(table, read_task(part, task, columns=named), question, frames)
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


def _check(before: Table, after: Table, question: Question, frames: tuple[Frame, ...]) -> None:
    gone = sorted(set(before.labels) - set(after.labels))
    if gone:
        raise DataError("E-DATA-304", f"labels {', '.join(gone)} would be gone")
    last = after.examples[-1]
    same = len(after.examples) == len(before.examples) + 1
    if not same or _squeezed(last.text) != _squeezed(question.text):
        raise DataError("E-DATA-304", "its text would be another")
    if frames and _said(last.text, last.frames) != _said(question.shown, frames):
        raise DataError("E-DATA-304", "what its text says would be another")


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _said(text: str, frames: tuple[Frame, ...]) -> list[tuple[object, ...]]:
    """Return what frames say without their places, which tokens with spaces between move."""

    def words(span: Span) -> tuple[str, str]:
        return span.label, _squeezed(text[span.start : span.end])

    return sorted((f.label, f.head is not None and words(f.head), sorted(map(words, f.arguments)))
                  for f in frames)  # fmt: skip


def _records(project: Project) -> list[dict[str, Any]]:
    from sapwood.tasks.readers import open_source

    rows = open_source(project.data).rows.records
    return [dict(record) for _, record in rows if isinstance(record, dict)]


def _framed(task: str, table: Table, text: str, frames: tuple[Frame, ...]) -> dict[str, Any]:
    """Return a row of a text and what it says."""
    column, other = table.columns.text, table.columns.label or task
    listed: list[dict[str, Any]]
    if task == "relations":
        listed = [{"type": f.label, "head": _end(text, f.head), "tail": _end(text, f.arguments[0])}
                  for f in frames]  # fmt: skip
    elif task == "events":
        listed = [_event(text, frame) for frame in frames]
    elif _in_tokens(table):
        return _tagged(text, frames, column, other)
    else:
        spans = sorted(frame.head for frame in frames if frame.head is not None)
        listed = [{"start": s.start, "end": s.end, "label": s.label} for s in spans]
    return {column: text, other: listed}


def _placed(text: str, span: Span) -> dict[str, Any]:
    return {"start": span.start, "end": span.end, "text": text[span.start : span.end]}


def _end(text: str, span: Span | None) -> dict[str, Any]:
    assert span is not None
    return {**_placed(text, span), **({"type": span.label} if span.label else {})}


def _event(text: str, frame: Frame) -> dict[str, Any]:
    trigger = {} if frame.head is None else {"trigger": _placed(text, frame.head)}
    arguments = [{"role": span.label, **_placed(text, span)} for span in frame.arguments]
    return {"type": frame.label, **trigger, "arguments": arguments}


def _answered(
    task: str, table: Table, question: Question, lines: list[str], written: str
) -> dict[str, Any]:
    """Return a row of a text and its label, its labels, or what is written."""
    column, other, text = table.columns.text, table.columns.label or "label", question.shown
    if task == "multi-label":
        return {column: text, other: lines}
    if not lines:
        raise DataError("E-DATA-303", "There is no answer.", fix="write or choose the right one")
    if task == "dialogue" and table.columns.label is None:  # the column holds whole conversations
        said = (("user", text), ("assistant", written))
        return {column: [{"role": role, "content": words} for role, words in said]}
    return {column: text, other: lines[0] if task in ONE_LABEL else written}


def _beside(question: Question, places: Mapping[str, str]) -> dict[str, Any]:
    """Return the other cells of a row about two texts, or about two parts of one."""
    if question.ends:
        ends = [Span(start=start, end=end) for start, end in question.ends]
        return {places[role]: _placed(question.shown, end)
                for role, end in zip(("head", "tail"), ends, strict=True)}  # fmt: skip
    return {places["text_pair"]: question.second} if question.second else {}


def _in_tokens(table: Table) -> bool:
    """Tell whether the rows are tokens with their tags, not a text with spans."""
    from sapwood.tasks.entities import TOKENS

    return table.format == "conll" or table.columns.text.lower() in TOKENS.names


def _tagged(text: str, frames: Sequence[Frame], column: str, other: str) -> dict[str, Any]:
    spans = [Span(start=f.head.start, end=f.head.end, label=f.label) for f in frames if f.head]
    tokens, tags = [], []
    for match in _WORD.finditer(text):
        over = [s for s in spans if s.start < match.end() and match.start() < s.end]
        tokens.append(match.group())
        begins = over and match.start() <= over[0].start
        tags.append(f"{'B' if begins else 'I'}-{over[0].label}" if over else "O")
    return {column: tokens, other: tags}
