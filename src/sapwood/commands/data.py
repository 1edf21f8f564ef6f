"""`sapwood data`: look at data before anything is spent on it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sapwood.interfaces import Example, Floats
    from sapwood.tasks.check import Findings
    from sapwood.tasks.readers import Table

MANY = 20_000  # texts from which on comparing them all takes more than 20 s on one core


@click.group(name="data")
def command() -> None:
    """Check, show and pull labelled data; choose what to label."""


def _columns(function: Callable[..., Any]) -> Callable[..., Any]:
    named = click.option("--label", metavar="COL", help="Column that holds the label.")(function)
    return click.option("--text", metavar="COL", help="Column that holds the text.")(named)


@command.command(name="check")
@click.argument("data")
@click.option("--test", metavar="DATA", help="Test data, checked for leakage from DATA.")
@click.option("--task", help="Kind of task.  [default: what the columns say]")
@_columns
@click.option("--fix", metavar="OUT", help="Write the mended rows to this new file.")
@click.option("--max-length", type=click.IntRange(min=1), help="Longest text, in characters.")
@click.option("--strict", is_flag=True, help="Exit with 3 on warnings too.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of the words.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check_data(
    data: str,
    *,
    test: str | None,
    task: str | None,
    text: str | None,
    label: str | None,
    fix: str | None,
    max_length: int | None,
    strict: bool,
    lang: str | None,
    as_json: bool,
) -> None:
    """Find every problem of DATA at once: rows, labels, spans, tags, duplicates, leakage.

    DATA is a file, a folder with train and test files, or a Hugging Face data set. Exit code 3
    if a problem blocks training; with --fix, that of what is left to mend.
    """
    from sapwood.commands.findings import render
    from sapwood.commands.wording import reader_language, tell
    from sapwood.tasks.check import check
    from sapwood.tasks.mending import write_fixed

    lang = reader_language(lang)
    table, other = _tables(data, test, task, {"text": text, "label": label})
    findings = check(table, test=other, limit_tokens=max_length)
    done = write_fixed(findings, table, fix) if fix else ()
    if as_json:
        click.echo(json.dumps({**findings.to_json(), "fixed": list(done)}, ensure_ascii=False))
    elif not done:
        click.echo(render(findings, lang))
    for line in done:
        tell(line, lang)
    _leave(findings, fixed=bool(done), strict=strict)


def _tables(
    data: str, test: str | None, task: str | None, named: dict[str, str | None]
) -> tuple[Table, Table | None]:
    """Return the tables of the data and of its test data, of the task that was named or guessed."""
    from sapwood.tasks.readers import find_files, read_examples
    from sapwood.tasks.structured import choose_guess, guess_source, read_task, task_named

    files: dict[str, Path] = find_files(data) if Path(data).is_dir() else {}
    source, place = str(files.get("train", data)), test or files.get("test")
    given = {role: name for role, name in named.items() if name}
    guess = None if task or given else choose_guess(guess_source(source))
    kind = task_named(task or (guess.task if guess else "classification")).name

    def read(path: str | Path, classes: int) -> Table:
        if kind != "classification":
            return read_task(path, kind, columns=given, classes=classes)
        return read_examples(path, text=named["text"], label=named["label"], classes=classes)

    return read(source, 2), None if place is None else read(place, 1)


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
@click.option("--tokens", is_flag=True, help="Show rows as they are trained: [[what is learnt]].")
@click.option("--task", help="Kind of task.  [default: what the columns say]")
@click.option(
    "--model",
    "-m",
    default="smollm2-135m",
    show_default=True,
    help="Base whose tokens are shown: a name, hub id, folder or .gguf file.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=2),
    help="Most tokens of a row.  [default: what the base reads, at most 2,048]",
)
@click.option(
    "--turns",
    type=click.Choice(["all", "last"]),
    default="all",
    show_default=True,
    help="Which of the assistant's turns are learnt.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def show_data(data: str, *, text: str | None, label: str | None, **given: Any) -> None:
    """Show the first rows of DATA as they are read, and the columns in use.

    With --tokens they are shown as a language model is trained on them, exactly: what is learnt is
    in colour on a terminal, in [[...]] elsewhere. Then follow the share of tokens learnt over all
    rows and what was cut. Exit code 3 if training on them would be refused.
    """
    from sapwood.commands.showing import View, read, show_rows, show_tokens
    from sapwood.commands.wording import tell
    from sapwood.tasks.readers import describe

    table = read(data, given.pop("task"), text, label)
    if given.pop("tokens"):
        show_tokens(table, View(**given))
    else:
        show_rows(table, given["rows"], as_json=given["as_json"])
    tell(f"{table.columns.why}; {len(table.examples):,} rows can be used")
    for note in (*table.notes, *(describe(dropped) for dropped in table.dropped)):
        tell(note)


@command.command(name="choose")
@click.argument("data")
@click.option(
    "--budget-labels",
    "budget",
    required=True,
    metavar="N",
    type=click.IntRange(min=1),
    help="How many rows you can label.",
)
@_columns
@click.option(
    "--encoder",
    help="Small encoder that tells which texts are alike; 'none' compares"
    " characters.  [default: minilm-l6 if it is here and the text is not Chinese]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--out",
    "-o",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the rows to this new .csv file.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def choose_rows(
    data: str,
    *,
    budget: int,
    text: str | None,
    label: str | None,
    encoder: str | None,
    seed: int,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Choose the N rows of DATA to label first: typical ones, spread over all that there is.

    Prints them as CSV with an empty column for the label, the most telling row first. Rows of DATA
    that have a label already are not chosen, and those like them less so. By vote-k (Su et al.
    2022).
    """
    from sapwood.context.votek import check_budget, vote_k
    from sapwood.files import write_text
    from sapwood.tasks.readers import read_examples, rows_of

    _spare(out)
    table = read_examples(data, text=text, label=label, need_label=False)
    texts, labelled = _distinct(table.examples)
    if len(labelled) == len(texts):
        raise DataError(
            "E-DATA-111",
            f"{Path(table.path).name}: nothing to choose, every text has a label in the column "
            f"'{table.columns.label}'",
            fix="add rows without a label, or name the column of the labels with --label",
        )
    left = len(texts) - len(labelled)
    check_budget(budget, left)  # before an encoder is opened, which takes seconds
    vectors, how = _vectors([example.text for example in texts], encoder, device, seed)
    if len(texts) > MANY:
        click.echo(f"comparing {len(texts):,} texts with each other takes minutes", err=True)
    places = vote_k(vectors, budget, chosen=labelled, seed=seed)
    rows = [{"row": texts[i].row, "text": texts[i].text, "label": None} for i in places]
    if out is not None:
        write_text(out, _as_csv(rows))
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    elif out is None:
        click.echo(_as_csv(rows), nl=False)
    had = f"; {rows_of(len(labelled))} had one already" if labelled else ""
    click.echo(f"{len(rows):,} of {left:,} texts without a label, chosen by {how}{had}", err=True)
    target = out or "FILE"
    wrote = f"Wrote {out}. " if out else ""
    click.echo(f"{wrote}Next: fill in 'label', then: sapwood adapt {target}", err=True)


def _spare(out: Path | None) -> None:
    """Refuse to write anything but a new .csv file: an older one may hold a person's labels."""
    if out is None:
        return
    if out.exists():
        raise ConfigError(
            "E-CONFIG-020",
            f"{out} exists, and may hold labels; it is never overwritten",
            fix="choose another name with --out",
        )
    if out.suffix.lower() != ".csv":
        raise ConfigError("E-CONFIG-020", f"{out.name} is no .csv file", fix="--out to-label.csv")


def _distinct(examples: Sequence[Example]) -> tuple[list[Example], list[int]]:
    """Return one example a text, the labelled one if any, and the places of those with labels."""
    from sapwood.context.similarity import same_text

    first: dict[str, Example] = {}
    for example in examples:
        key = same_text(example.text)
        if key not in first or (first[key].label is None and example.label is not None):
            first[key] = example
    texts = list(first.values())
    return texts, [place for place, example in enumerate(texts) if example.label is not None]


def _vectors(
    texts: Sequence[str], encoder: str | None, device: str, seed: int
) -> tuple[Floats, str]:
    """Return vectors by which texts are compared, (texts, width), and how they came about."""
    from sapwood.context.similarity import lexical_vectors
    from sapwood.context.template import is_chinese
    from sapwood.models.store import installed

    if encoder is None and "minilm-l6" in installed() and not is_chinese(texts):
        encoder = "minilm-l6"
    if encoder in (None, "none"):
        return lexical_vectors(texts, seed), "characters in common"
    assert encoder is not None
    from sapwood.commands.live import make_bases

    bases = make_bases(device, "auto")
    kind = bases.get(encoder).kind
    if kind != "encoder":
        raise ConfigError(
            "E-CONFIG-114",
            f"'{encoder}' is a {kind}, not an encoder",
            fix="--encoder minilm-l6, or --encoder none to compare characters",
        )
    return bases.embed(encoder, texts), f"{encoder} embeddings"


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["row", "text", "label"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
