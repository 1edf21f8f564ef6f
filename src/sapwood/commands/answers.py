"""What `eval` and `predict` do with adaptations whose answers are written or found in the text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.evaluation import Bases
    from sapwood.interfaces import Answer, Example, Frame, Span

WIDTH = 12  # of the names of scores


def predict(
    made: Adaptation, bases: Bases, rows: Sequence[Example], *, as_json: bool
) -> Iterator[str]:
    """Yield a line for each row: its answer and text, or one JSON object with offsets."""
    from dataclasses import replace

    from sapwood.evaluation import CHUNK, asked_safely

    with asked_safely(made, bases) as asked:
        for start in range(0, len(rows), CHUNK):
            part = [replace(row, label=None, frames=()) for row in rows[start : start + CHUNK]]
            for row, answer in zip(part, asked.said(part), strict=True):
                words = " ".join(answer.words.split("\n"))
                yield _line(row, answer) if as_json else f"{words}\t{row.text}"


def _line(row: Example, answer: Answer) -> str:
    content: dict[str, Any] = {"text": row.text, "answer": answer.words}
    if answer.frames:
        content["frames"] = [_frame(row.text, frame) for frame in answer.frames]
    if not answer.stopped:
        content["complete"] = False
    return json.dumps(content, ensure_ascii=False)


def _frame(text: str, frame: Frame) -> dict[str, Any]:
    content: dict[str, Any] = {"label": frame.label}
    if frame.head is not None:
        content |= _span(text, frame.head)
    if frame.arguments:
        content["arguments"] = [{"role": a.label, **_span(text, a)} for a in frame.arguments]
    return content


def _span(text: str, span: Span) -> dict[str, Any]:
    return {"text": text[span.start : span.end], "start": span.start, "end": span.end}


def evaluate(made: Adaptation, bases: Bases, data: str, columns: dict[str, str]) -> dict[str, Any]:
    """Return the scores of an adaptation on the rows of a file, JSON-ready."""
    from sapwood.evaluation import CHUNK, asked_safely
    from sapwood.search.job import worded
    from sapwood.search.marks import AnswerMarks
    from sapwood.tasks.scoring import details
    from sapwood.tasks.structured import read_task, task_named

    table = worded(read_task(Path(data), made.task, columns=columns))
    rows, said = list(table.examples), list[Any]()
    with asked_safely(made, bases) as asked:
        for start in range(0, len(rows), CHUNK):
            said += asked.said(rows[start : start + CHUNK])
    marks = AnswerMarks(task=task_named(made.task))
    score = marks.tally(rows, said).interval()
    return {
        "task": made.task,
        "rows": len(rows),
        score.metric: {"value": score.value, "low": score.low, "high": score.high},
        **marks.further(rows, said),
        "details": details(made.task, rows, said),
    }


def show(content: dict[str, Any]) -> None:
    """Print the scores, and those of each type where there are any."""
    for name, value in content.items():
        if isinstance(value, dict) and "value" in value:
            interval = f"({value['low']:.3f} to {value['high']:.3f})"
            click.echo(f"{name:<{WIDTH}} {value['value']:.3f}  {interval}")
        elif isinstance(value, float):
            click.echo(f"{name:<{WIDTH}} {value:.3f}")
        elif name != "details":
            click.echo(f"{name:<{WIDTH}} {value}")
    for one in content["details"].get("by_type", ()):
        click.echo(
            f"  {one['label']:<20} precision {one['precision']:.3f}  recall {one['recall']:.3f}  "
            f"F1 {one['f1']:.3f}  spans {one['support']:,}"
        )
