"""`sapwood data`: look at data before anything is spent on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import DataError

if TYPE_CHECKING:
    from sapwood.tasks.check import Findings
    from sapwood.tasks.readers import Table


@click.group(name="data")
def command() -> None:
    """Check, show and pull labelled data."""


def _columns(function: Callable[..., Any]) -> Callable[..., Any]:
    named = click.option("--label", metavar="COL", help="Column that holds the label.")(function)
    return click.option("--text", metavar="COL", help="Column that holds the text.")(named)


@command.command(name="check")
@click.argument("data")
@click.option("--test", metavar="DATA", help="Test data, checked for leakage from DATA.")
@_columns
@click.option("--fix", metavar="OUT", help="Write the mended rows to this new file.")
@click.option("--max-length", type=click.IntRange(min=1), help="Longest text, in characters.")
@click.option("--strict", is_flag=True, help="Exit with 3 on warnings too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check_data(
    data: str,
    *,
    test: str | None,
    text: str | None,
    label: str | None,
    fix: str | None,
    max_length: int | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Find every problem of DATA at once: rows, labels, duplicates, leakage.

    DATA is a file, a folder with train and test files, or a Hugging Face data set. Exit code 3
    if a problem blocks training; with --fix, that of what is left to mend.
    """
    from sapwood.tasks.check import check
    from sapwood.tasks.findings import render, write_fixed

    table, other = _tables(data, test, text, label)
    findings = check(table, test=other, limit_tokens=max_length)
    done = write_fixed(findings, table, fix) if fix else ()
    if as_json:
        click.echo(json.dumps({**findings.to_json(), "fixed": list(done)}, ensure_ascii=False))
    elif not done:
        click.echo(render(findings))
    for line in done:
        click.echo(line, err=True)
    _leave(findings, fixed=bool(done), strict=strict)


def _tables(
    data: str, test: str | None, text: str | None, label: str | None
) -> tuple[Table, Table | None]:
    from sapwood.tasks.readers import find_files, read_examples

    files: dict[str, Path] = find_files(data) if Path(data).is_dir() else {}
    table = read_examples(files.get("train", data), text=text, label=label)
    place = test or files.get("test")
    if place is None:
        return table, None
    return table, read_examples(place, text=text, label=label, classes=1)


def _leave(findings: Findings, *, fixed: bool, strict: bool) -> None:
    """Exit with 3 where problems remain: those that block, and with `strict` all warnings."""
    mended = {"D-LEAK", "D-LEAK-NEAR", "D-LABEL", "D-DROPPED"} if fixed else set()
    left = [problem for problem in findings.problems if problem.code not in mended]
    if any(p.level == "block" or (strict and p.level == "warn") for p in left):
        raise SystemExit(DataError.exit_code)


@command.command(name="show")
@click.argument("data")
@_columns
@click.option("-n", "rows", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def show_data(data: str, *, text: str | None, label: str | None, rows: int, as_json: bool) -> None:
    """Show the first rows of DATA as they are read, and the columns in use."""
    from sapwood.tasks.readers import describe, read_examples

    table = read_examples(data, text=text, label=label, need_label=label is not None)
    for example in table.examples[:rows]:
        if as_json:
            row = {"row": example.row, "text": example.text, "label": example.label}
            click.echo(json.dumps(row, ensure_ascii=False))
            continue
        head = f"row {example.row}"
        click.secho(head if example.label is None else f"{head}  {example.label}", bold=True)
        click.echo(click.wrap_text(example.text, 80, "  ", "  ", preserve_paragraphs=True))
    click.echo(f"{table.columns.why}; {len(table.examples):,} rows can be used", err=True)
    for note in (*table.notes, *(describe(dropped) for dropped in table.dropped)):
        click.echo(note, err=True)


@command.command(name="pull")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def pull_data(name: str, *, as_json: bool) -> None:
    """Fetch a real data set by NAME; see `sapwood data list`."""
    from sapwood.config import home
    from sapwood.tasks.pull import pull

    folder = pull(name, home())
    if as_json:
        click.echo(json.dumps({"name": name, "folder": str(folder)}))
        return
    click.echo(folder)
    click.echo(f"Next: sapwood adapt {folder} --budget 10m", err=True)


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def list_data(*, as_json: bool) -> None:
    """List the data sets that can be pulled without any hub."""
    from sapwood.config import home
    from sapwood.tasks.pull import DATASETS

    for name, known in DATASETS.items():
        here = (home() / "data" / name / "SOURCE.md").is_file()
        if as_json:
            row = {"name": name, "about": known.about, "language": known.language}
            click.echo(json.dumps({**row, "licence": known.licence, "here": here}))
        else:
            mark = "here" if here else ""
            click.echo(f"{name:<16} {known.language}  {known.about:<48} {mark}".rstrip())
    if not as_json:
        click.echo("Fetch one with: sapwood data pull NAME", err=True)
