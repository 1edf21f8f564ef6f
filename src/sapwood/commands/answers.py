"""What `eval` and `predict` do with adaptations whose answers are written or found in the text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.evaluation import Bases
    from sapwood.interfaces import Answer, Example, Frame, Span
    from sapwood.models.choosing import Sampling

WIDTH = 22  # of the names of scores


def asked_of(made: Adaptation, texts: Sequence[str]) -> list[Example]:
    """Return texts as rows to answer, numbered; of a dialogue each is what the user says first."""
    from sapwood.interfaces import Example, Turn

    def turns(text: str) -> tuple[Turn, ...]:
        return (Turn(role="user", content=text),) if made.task == "dialogue" else ()

    return [Example(text=text, row=n, turns=turns(text)) for n, text in enumerate(texts, 1)]


def own_sampling(made: Adaptation) -> Sampling:
    """Return how an adaptation's answers are written unless the user says otherwise."""
    from sapwood.models.choosing import Sampling
    from sapwood.readouts.written import Written

    own = made.readout
    assert isinstance(own, Written)
    return Sampling(tokens=own.tokens, temperature=own.temperature, top_p=own.top_p)


def predict(
    made: Adaptation,
    bases: Bases,
    rows: Sequence[Example],
    *,
    decoding: Sampling | None = None,
    as_json: bool,
) -> Iterator[str]:
    """Yield a line for each answer: it and the text, or one JSON object a row with offsets."""
    for row, several in answered(made, bases, rows, decoding):
        if as_json:
            yield _line(row, several)
            continue
        for answer in several:
            yield f"{_one_line(answer.words)}\t{_one_line(row.text)}"


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def answered(
    made: Adaptation, bases: Bases, rows: Sequence[Example], decoding: Sampling | None
) -> Iterator[tuple[Example, list[Answer]]]:
    """Yield each row with its answers, written by `decoding`, None for the adaptation's own way."""
    from dataclasses import replace

    from sapwood.evaluation import CHUNK, asked_safely

    _check_template(made, bases, rows)
    with asked_safely(made, bases) as asked:
        if decoding is not None:
            asked.decode_by(decoding)  # type: ignore[attr-defined]
        for start in range(0, len(rows), CHUNK):
            part = [replace(row, label=None, frames=()) for row in rows[start : start + CHUNK]]
            if decoding is None:
                yield from ((r, [a]) for r, a in zip(part, asked.said(part), strict=True))
            else:
                yield from zip(part, asked.drawn(part), strict=True)  # type: ignore[attr-defined]


def _check_template(made: Adaptation, bases: Bases, rows: Sequence[Example]) -> None:
    """Tell of texts that hold a chat template's control tokens, or refuse them (E-TPL-001)."""
    from sapwood.commands.wording import tell
    from sapwood.search.rendered import template_notes
    from sapwood.tasks.structured import task_named

    if made.base is not None:
        for note in template_notes(task_named(made.task), rows, bases.get(made.base.name)):
            tell(note)


def _line(row: Example, several: Sequence[Answer]) -> str:
    content = {"text": row.text, **_answer(row, several[0])}
    if len(several) > 1:
        content["answers"] = [_answer(row, answer) for answer in several]
    return json.dumps(content, ensure_ascii=False)


def _answer(row: Example, answer: Answer) -> dict[str, Any]:
    content: dict[str, Any] = {"answer": answer.words}
    if answer.frames:
        content["frames"] = [_frame(row.text, frame) for frame in answer.frames]
    if not answer.stopped:
        content["complete"] = False
    return content


def _frame(text: str, frame: Frame) -> dict[str, Any]:
    content: dict[str, Any] = {"label": frame.label}
    if frame.head is not None:
        content |= _span(text, frame.head)
    if frame.arguments:
        content["arguments"] = [{"role": a.label, **_span(text, a)} for a in frame.arguments]
    return content


def _span(text: str, span: Span) -> dict[str, Any]:
    return {"text": text[span.start : span.end], "start": span.start, "end": span.end}


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured: the rows of the file `data`, read by `columns`.

    `write`: of how many rows answers are written beside the wanted ones; `decoding`: how.
    """

    data: str
    columns: Mapping[str, str] = field(default_factory=dict)
    write: int = 0
    decoding: Sampling | None = None


def evaluate(made: Adaptation, bases: Bases, measuring: Measuring) -> dict[str, Any]:
    """Return the scores of an adaptation on the rows of a file, JSON-ready.

    Raises ConfigError (E-CONFIG-133) where rows are to be written that are written anyway.
    """
    from sapwood.evaluation import CHUNK, asked_safely
    from sapwood.search.job import worded
    from sapwood.search.marks import AnswerMarks
    from sapwood.tasks.scoring import details
    from sapwood.tasks.structured import read_task, task_named

    task = task_named(made.task)
    if measuring.write and task.family != "generation":
        raise ConfigError(
            "E-CONFIG-133",
            f"--write is for texts; all answers of {made.task} are written and scored anyway.",
            fix="leave out --write",
        )
    table = worded(read_task(Path(measuring.data), made.task, columns=measuring.columns))
    rows, said = list(table.examples), list[Any]()
    _check_template(made, bases, rows)
    with asked_safely(made, bases) as asked:
        if measuring.decoding is not None:
            asked.decode_by(measuring.decoding)  # type: ignore[attr-defined]
        for start in range(0, len(rows), CHUNK):
            said += asked.said(rows[start : start + CHUNK])
        written = _written(asked, spread(rows, measuring.write)) if measuring.write else {}
    marks = AnswerMarks(task=task)
    score = marks.tally(rows, said).interval()
    return {
        "task": made.task,
        "rows": len(rows),
        score.metric: {"value": score.value, "low": score.low, "high": score.high},
        **marks.further(rows, said),
        "details": {**details(made.task, rows, said), **written},
    }


def spread(rows: Sequence[Example], count: int) -> list[Example]:
    """Return `count` of the rows, evenly from the first to the last: files may be sorted."""
    kept = min(count, len(rows))
    return [rows[n * len(rows) // kept] for n in range(kept)]


def _written(asked: Any, rows: Sequence[Example]) -> dict[str, Any]:
    """Return how answers written to `rows` compare with the wanted ones; empty ones count too."""
    from sapwood.tasks.texts import compared

    said = asked.written(rows)
    return {
        "written": {
            "rows": len(rows),
            **compared([row.label or "" for row in rows], [answer.words for answer in said]),
            "stopped": sum(answer.stopped for answer in said) / len(said),
            "empty": sum(not answer.words for answer in said),
        }
    }


def show(content: dict[str, Any]) -> None:
    """Print the scores, those of each type where there are any, and of what was written."""
    details = content["details"]
    perplexities = {key: value for key, value in details.items() if key.startswith("perplexity")}
    for name, value in {**content, **perplexities}.items():
        if name != "details":
            click.echo(_scored(name, value))
    for one in details.get("by_type", ()):
        click.echo(
            f"  {one['label']:<20} precision {one['precision']:.3f}  recall {one['recall']:.3f}  "
            f"F1 {one['f1']:.3f}  spans {one['support']:,}"
        )
    if "written" in details:
        click.echo(f"written, {details['written']['rows']:,} rows:")
        for name, value in details["written"].items():
            if name != "rows":
                click.echo("  " + _scored(name, value))


def _scored(name: str, value: Any) -> str:
    """Return one score as a line: with its interval, or with that of the wanted texts beside it."""
    shown = f"{name.replace('_', ' '):<{WIDTH}}"
    if isinstance(value, dict) and "low" in value:
        return f"{shown} {value['value']:.3f}  ({value['low']:.3f} to {value['high']:.3f})"
    if isinstance(value, dict) and "wanted" in value:
        return f"{shown} {value['value']:.3f}  (wanted {value['wanted']:.3f})"
    return f"{shown} {value:.3f}" if isinstance(value, float) else f"{shown} {value}"
