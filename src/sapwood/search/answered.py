"""What the report shows of answers that are found in a text or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sapwood.interfaces import Answer, Example
from sapwood.search.workbench import Workbench
from sapwood.tasks.scoring import details

SAMPLES, ERRORS = 6, 8


def answered_details(bench: Workbench, said: Sequence[Answer]) -> dict[str, Any]:
    """Return the task's panel and some rows with their answers, for report.json."""
    rows = bench.splits.test
    return {
        "panel": details(bench.task.name, rows, said),
        "answers": [*_samples(rows, said), *_errors(bench, rows, said)],
    }


def _samples(rows: Sequence[Example], said: Sequence[Answer]) -> list[dict[str, Any]]:
    shown = [n for n in range(len(rows)) if rows[n].frames or said[n].frames or said[n].words]
    return [_shown(rows[n], said[n], "sample") for n in shown[:SAMPLES]]


def _errors(
    bench: Workbench, rows: Sequence[Example], said: Sequence[Answer]
) -> list[dict[str, Any]]:
    """Return the rows of extraction tasks on which most frames differ."""
    if bench.task.family == "generation":
        return []

    def wrong(n: int) -> int:
        return len(set(rows[n].frames) ^ set(said[n].frames))

    worst = sorted((n for n in range(len(rows)) if wrong(n)), key=lambda n: (-wrong(n), n))
    return [_shown(rows[n], said[n], "error") for n in worst[:ERRORS]]


def _shown(row: Example, answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "text": row.text,
        "wanted": row.label or "",
        "words": answer.words,
        "frames_wanted": [asdict(frame) for frame in row.frames],
        "frames": [asdict(frame) for frame in answer.frames],
        "right": set(row.frames) == set(answer.frames) if row.frames or answer.frames else None,
        "base": None,
    }
