"""What was found in data, for a person: the worst first, then what the data is."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sapwood.commands.wording import wrapped
from sapwood.translation import spoken

if TYPE_CHECKING:
    from sapwood.tasks.check import Findings, Problem

WIDTH = 80
SIGNS = {"block": "✗ blocks", "warn": "! look at", "note": "· note"}
BAR = 24
Say = Callable[[str], str]


def render(findings: Findings, lang: str = "en") -> str:
    """Return the findings as text, 80 cells wide, in English or Chinese ("zh")."""
    say: Say = partial(spoken, lang=lang)
    dropped = findings.rows - findings.kept
    name = Path(findings.path).name
    lines = [_cut(say(f"{name}: {findings.kept:,} of {findings.rows:,} rows can be used"))]
    columns = findings.columns
    named = f"columns    text '{columns.get('text')}'"
    if columns.get("label"):
        named += f", label '{columns['label']}'"
    lines += [_cut("  " + say(named)), *_labels(findings, say), *_facts(findings, say)]
    lines += [part for note in findings.notes for part in _indented(say(f"note: {note}"), "  ")]
    for level, sign in SIGNS.items():
        chosen = [problem for problem in findings.problems if problem.level == level]
        if chosen:
            lines += ["", say(sign)]
            for problem in chosen:
                lines += _problem(problem, say)
    return "\n".join([*lines, "", say(_verdict(findings, dropped))])


def _labels(findings: Findings, say: Say) -> list[str]:
    if not findings.labels:
        return []
    items = list(findings.labels.items())
    most = items[0][1]
    width = min(24, max(_wide(label) for label, _ in items[:8]))
    head, lines = _padded("  " + say("labels     "), 13), []
    for label, count in items[:8]:
        bar = "█" * max(1, round(BAR * count / most))
        lines.append(f"{head}{_padded(label, width)} {bar:<{BAR}} {count:>9,}")
        head = " " * 13
    if len(items) > 8:
        rest = sum(count for _, count in items[8:])
        lines.append(head + say(f"and {len(items) - 8} more labels with {rest:,} rows"))
    return lines


def _facts(findings: Findings, say: Say) -> list[str]:
    lengths = findings.lengths
    median, longest, unit = lengths["median"], lengths["longest"], lengths["unit"]
    lines = ["  " + say(f"length     median {median:,}, longest {longest:,} {unit}")]
    if findings.languages:
        listed = ", ".join(
            f"{code} {share:.0%}" for code, share in findings.languages.items() if share >= 0.005
        )
        lines.append(_cut("  " + say(f"languages  {listed}")))
    return lines


def _problem(problem: Problem, say: Say) -> list[str]:
    from sapwood.tasks.readers import rows_of

    what = say(problem.what)
    if problem.rows:
        what = say(f"{rows_of(problem.count)}: {problem.what}")
    if problem.where == "test":
        what = say(f"test: {what}")
    lines = _indented(what, "  • ")
    details = []
    if problem.rows:
        more = ", ..." if len(problem.rows) > 5 else ""
        listed = ", ".join(f"{row:,}" for row in problem.rows[:5])
        details.append(say(f"{'row' if len(problem.rows) == 1 else 'rows'} {listed}{more}"))
    if problem.value and f"'{problem.value}'" not in problem.what:
        details.append(say(f"e.g. {json.dumps(problem.value, ensure_ascii=False)}"))
    if details:
        lines += _indented("  ".join(details), "    ")
    tail = [say(part) for part in (problem.cause, problem.fix) if part]
    return lines + (_indented(say("; ").join(tail), "    ") if tail else [])


def _verdict(findings: Findings, dropped: int) -> str:
    fixable = dropped or findings.repeated or findings.relabel or findings.leaked
    name = Path(findings.path).name
    if findings.blocks and not findings.leaked:
        return "Not fit for training as it is: mend what blocks first."
    if fixable:
        return "Fix: run the same command again with --fix clean.jsonl"
    if findings.warns:
        return "Fit for training; look at the points above first."
    return f"Nothing to mend. Next: sapwood adapt {name} --budget 10m"


def _wide(text: str) -> int:
    """Return the cells a text takes on a terminal; Chinese characters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, width: int) -> str:
    from rich.cells import set_cell_size

    cut = text if _wide(text) <= width else set_cell_size(text, width - 1) + "…"
    return set_cell_size(cut, width)


def _cut(line: str) -> str:
    return line if _wide(line) <= WIDTH else _padded(line, WIDTH).rstrip()


def _indented(text: str, indent: str) -> list[str]:
    """Return a text as lines behind an indent, which only the first line shows."""
    first, *rest = wrapped(text, WIDTH - len(indent)) or [""]
    return [indent + first, *(" " * len(indent) + line for line in rest)]
