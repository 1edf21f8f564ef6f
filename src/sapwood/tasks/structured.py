"""Read the rows of any task: its form tells how, and every row that cannot be used says why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Dropped, Example, Schema
from sapwood.registry import resolve
from sapwood.tasks import OTHER_NAMES, TASKS
from sapwood.tasks.kinds import NAMES_BESIDE, ONE_LABEL, Form, Opening, Task, Unusable
from sapwood.tasks.likeness import likeness
from sapwood.tasks.readers import (
    Source,
    Table,
    digest,
    must_be_usable,
    open_source,
    sampled,
    sorted_labels,
    wrong_encoding,
)
from sapwood.tasks.rows import PEEK, Numbered, Record, class_names

GUESS_LEAST = 0.5  # of the records; a task that reads fewer is none of theirs
NEAR = 1.0  # of likeness; guesses this close to the likeliest are as good
# What a task is a kind of, or contains: where it is likelier than these, they are no rivals of it.
GENERAL = {
    "relations": ("entities",),
    "events": ("entities", "relations"),
    "dialogue": ("story", "poetry"),
    "poetry": ("story",),
}


def task_named(name: str) -> Task:
    """Return a task by its name or what people call it ("ner").

    Raises ConfigError E-CONFIG-001 with the nearest name.
    """
    plain = name.strip().lower().replace("_", "-")
    task: Task = resolve("task", TASKS, OTHER_NAMES.get(plain, plain))
    return task


def read_task(
    source: str | Path,
    task: str,
    *,
    columns: Mapping[str, str] | None = None,
    need_answer: bool = True,
    classes: int = 1,
) -> Table:
    """Read the rows of `task` from a file, the train file of a folder, or a hub data set.

    `columns` names columns by their role in the task ({"text": "Body"}); names and aliases decide
    the others. ``FILE[:500]`` and ``FILE#500`` as in `readers.read_examples`. Records are read one
    at a time and not kept, of a sample never more rows than it has. `classes`: the fewest distinct
    labels that a task with one label takes.

    Raises DataError: E-DATA-001 to 009 as `readers.read_examples`, 010 too few classes, 014 no
    usable row; ConfigError E-CONFIG-001 unknown task, 121 unknown role.
    """
    kind = task_named(task)
    opened = open_source(source)
    reading = _Reading()
    try:
        form, records = _form(kind, opened, columns or {}, need_answer=need_answer)
        examples = reading.examples(form, islice(records, opened.first))
        kept, told = sampled(examples, opened)
    except UnicodeDecodeError as error:
        raise wrong_encoding(opened.name, error) from error
    notes = form.finish(reading.mended) if form.finish else ()
    dropped = reading.dropped()
    one_label = kind.name in ONE_LABEL and need_answer
    must_be_usable(
        opened.name, kept, dropped, reading.total, form.columns, classes if one_label else 0
    )
    return Table(
        examples=tuple(kept),
        columns=form.columns,
        path=opened.path,
        sha256=opened.sha256 or digest(kept),
        rows=reading.total,
        dropped=dropped,
        labels=sorted_labels({label for example in kept for label in kind.labels(example)}),
        format=opened.rows.format,
        notes=(*told, *form.notes, *notes),
        task=kind.name,
        mended=tuple(Dropped(reason=r, rows=tuple(at)) for r, at in reading.mended.items()),
    )


def _form(
    kind: Task, opened: Source, given: Mapping[str, str], *, need_answer: bool
) -> tuple[Form, Numbered]:
    first = list(islice(opened.rows.records, PEEK))
    opening = Opening(
        found=tuple(name for name in opened.rows.columns if name),
        first=tuple(record for _, record in first if isinstance(record, dict)),
        names={**names_beside(Path(opened.path)), **opened.rows.names},
        given=given,
        need_answer=need_answer,
        where=opened.name,
    )
    return kind.form(opening), chain(first, opened.rows.records)


class _Reading:
    """What reading has come to: rows seen, and reasons with their rows, in order of appearance."""

    def __init__(self) -> None:
        self.total = 0
        self.mended: dict[str, list[int]] = {}
        self._lost: dict[str, list[int]] = {}
        self._detail: dict[str, Unusable] = {}

    def examples(
        self, form: Form, records: Iterable[tuple[int, Record | str]]
    ) -> Iterator[Example]:
        for row, record in records:
            self.total += 1
            if isinstance(record, str):
                self._lost.setdefault(record, []).append(row)
                continue
            mended: list[str] = []
            try:
                example = form.read(record, mended)
            except Unusable as fault:
                self._lost.setdefault(fault.reason, []).append(row)
                self._detail.setdefault(fault.reason, fault)
                continue
            for repair in dict.fromkeys(mended):
                self.mended.setdefault(repair, []).append(row)
            yield replace(example, row=row)

    def dropped(self) -> tuple[Dropped, ...]:
        found = []
        for reason, rows in self._lost.items():
            detail = self._detail.get(reason)
            value = ""
            if detail is not None and detail.value:
                value = f"{', e.g.' if len(rows) > 1 else ':'} {detail.value}"
            fix = detail.fix if detail is not None else ""
            found.append(Dropped(reason=reason + value, rows=tuple(rows), fix=fix))
        return tuple(found)


def names_beside(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the names of class numbers that files beside `path` tell, by column.

    From ``dataset_info.json`` as the `datasets` library writes it, and from ``labels.txt`` (one
    name a line), whose names stand under that file's name since it names no column.
    """
    names: dict[str, tuple[str, ...]] = {}
    info, listed = path.parent / "dataset_info.json", path.parent / NAMES_BESIDE
    if path.is_file() and info.is_file():
        try:
            content = json.loads(info.read_text(encoding="utf-8"))
            names.update(class_names(content.get("features") or {}))
        except (ValueError, OSError, AttributeError, KeyError, TypeError):
            pass  # it describes something else
    if path.is_file() and listed.is_file():
        try:
            lines = listed.read_text(encoding="utf-8-sig").splitlines()
        except (ValueError, OSError):
            return names
        names[NAMES_BESIDE] = tuple(line.strip() for line in lines if line.strip())
    return names


def schema_of(examples: Iterable[Example]) -> Schema:
    """Return what the frames of these examples hold: types, roles by type, and heads."""
    roles: dict[str, set[str]] = {}
    heads = False
    for example in examples:
        for frame in example.frames:
            known = roles.setdefault(frame.label, set())
            known.update(argument.label for argument in frame.arguments)
            heads = heads or frame.head is not None
    return Schema(
        types=sorted_labels(set(roles)),
        roles={label: sorted_labels(found) for label, found in sorted(roles.items()) if found},
        heads=heads,
    )


class Guess(NamedTuple):
    """A task that rows may be for.

    `weight`: how much they look like it, in [0, 10]; `read`: how many of them it can use.
    """

    task: str
    why: str
    weight: float
    read: int


def guess_task(
    columns: Sequence[str], records: Sequence[Record], given: Mapping[str, str] | None = None
) -> list[Guess]:
    """Return every task these rows may be for, the likeliest first; [] where no task fits.

    A task is a guess only if its form finds its columns (those in `given` by role, the others by
    name) and reads most of the records; where several do, what the answers look like decides.
    """
    first = tuple(records[:PEEK])
    opening = Opening(
        found=tuple(columns),
        first=first,
        names={name: _stand_ins(name, first) for name in columns},
        given=given or {},
        need_answer=True,
        where="the data",
    )
    ranked: list[Guess] = []
    for name in TASKS:
        try:
            form = task_named(name).form(opening)
        except (ConfigError, DataError):  # it has no such column, or no such role
            continue
        reading = _Reading()
        examples = list(reading.examples(form, enumerate(first, 1)))
        if not examples or len(examples) < GUESS_LEAST * len(first):
            continue
        weight, shape = likeness(name, form, examples)
        if weight > 0:
            read = f"{len(examples)} of the first {len(first)} rows read so"
            why = f"{form.columns.why}; {shape}; {read}"
            ranked.append(Guess(name, why, weight, len(examples)))
    return sorted(ranked, key=lambda guess: -guess.weight)


def guess_source(source: str | Path, given: Mapping[str, str] | None = None) -> list[Guess]:
    """Return every task that the first rows of a source may be for, the likeliest first.

    Raises what `open_source` raises.
    """
    opened = open_source(source)
    try:
        first = [r for _, r in islice(opened.rows.records, PEEK) if isinstance(r, dict)]
    except UnicodeDecodeError as error:
        raise wrong_encoding(opened.name, error) from error
    return guess_task([name for name in opened.rows.columns if name], first, given)


def choose_guess(guesses: Sequence[Guess]) -> Guess | None:
    """Return the guess to act on, or None where only a person can tell.

    Classification wins where it is about as likely as the likeliest and reads as many rows.

    >>> choose_guess([Guess("story", "", 3.0, 9), Guess("dialogue", "", 2.5, 9)])
    >>> choose_guess([Guess("multi-label", "", 6.5, 9), Guess("classification", "", 6.0, 9)]).task
    'classification'
    """
    if not guesses:
        return None
    best = guesses[0]
    near = [guess for guess in guesses[1:] if best.weight - guess.weight <= NEAR]
    for guess in near:
        if guess.task == "classification" and guess.read >= best.read:
            return guess
    rivals = [guess for guess in near if guess.task not in GENERAL.get(best.task, ())]
    return None if any(guess.read >= best.read for guess in rivals) else best


def _stand_ins(column: str, records: Sequence[Record]) -> tuple[str, ...]:
    """Return names for tag numbers that only the whole file may name, so that a guess can be."""
    found = [value for record in records if isinstance(value := record.get(column), list)]
    numbers = [n for value in found for n in value if isinstance(n, int)]
    return ("O", *(f"B-{n}" for n in range(1, min(max(numbers), 1000) + 1))) if numbers else ()
