"""`sapwood compare`: runs or language models by their scores, or texts by people who vote."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sapwood.commands.decoding import options


@click.command(name="compare")
@click.argument("folders", metavar="DIR DIR...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--html", "out", type=click.Path(path_type=Path), help="Also write an HTML page here."
)
@click.option(
    "--blind",
    "page",
    metavar="FILE.html",
    type=click.Path(path_type=Path),
    help="Write a page on which people choose between what two of them write.",
)
@click.option("--data", help="Prompts for --blind; texts that language models are compared on.")
@click.option(
    "-n",
    "rows",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many of them.",
)
@click.option(
    "--votes",
    metavar="FILE.json",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Count votes that the page saved; may be given several times.",
)
@click.option(
    "--key",
    metavar="FILE.key.json",
    type=click.Path(path_type=Path),
    help="Which text was whose.  [default: beside the votes]",
)
@options
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of the words.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def command(
    folders: tuple[Path, ...],
    *,
    page: Path | None,
    votes: tuple[Path, ...],
    key: Path | None,
    out: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show the recommended candidate of each run, and compare each run with the first.

    Two runs are compared row by row (paired bootstrap) when both hold predictions.json on the
    same test texts: in rows answered right, in bits saved where answers are written freely;
    otherwise the reason why they cannot be compared is given.

    With --blind, two adaptations write to the same prompts and a page asks people which text is
    better, without saying whose is whose; --votes counts what they chose.

    With --data alone, language models of any family (bases, pretrained folders, ARPA files) are
    compared on its texts: bits a byte, perplexity, and paired differences from the first.
    """
    if votes:
        _count(votes, key, given["lang"], as_json=as_json)
    elif page is not None:
        _ask(folders, page, given, as_json=as_json)
    elif given["data"]:
        from sapwood.commands import language

        language.compare(folders, given["data"], given, as_json=as_json)
    else:
        _side_by_side(folders, out, given["lang"], as_json=as_json)


def _ask(folders: tuple[Path, ...], page: Path, given: dict[str, Any], *, as_json: bool) -> None:
    from sapwood.commands.blind import write_page

    made = write_page(folders, page, given)
    if as_json:
        click.echo(json.dumps(made, ensure_ascii=False))
        return
    click.echo(f"{made['questions']} questions in {made['page']}; the key is {made['key']}: "
               "keep it from the people who vote")  # fmt: skip
    click.echo("Next: sapwood compare --votes FILE.json", err=True)


def _count(votes: tuple[Path, ...], key: Path | None, lang: str | None, *, as_json: bool) -> None:
    from sapwood.commands.blind import count_votes, told
    from sapwood.commands.wording import reader_language
    from sapwood.pages.words import Words

    found = count_votes(votes, key)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    click.echo(told(found, Words(lang=reader_language(lang))))


def _side_by_side(
    folders: tuple[Path, ...], out: Path | None, lang: str | None, *, as_json: bool
) -> None:
    """Show the runs in a table, with paired differences."""
    from sapwood.commands.wording import report_language
    from sapwood.errors import ConfigError
    from sapwood.files import write_text
    from sapwood.pages.comparing import comparing_table, difference, run_row
    from sapwood.pages.page import compare_page
    from sapwood.pages.words import Words, language_of
    from sapwood.report import load_report

    if len(folders) < 2:
        raise ConfigError(
            "E-COMPARE-001",
            f"compare needs at least two runs, got {len(folders)}.",
            fix="sapwood compare runs/first runs/second",
        )
    reports = [load_report(folder) for folder in folders]
    words = Words(lang=language_of(report_language(lang) or reports[0].get("language")))
    predictions = [load_predictions(folder) for folder in folders]
    rows = [run_row(str(f), r) for f, r in zip(folders, reports, strict=True)]
    runs = list(zip([str(folder) for folder in folders], predictions, strict=True))
    task = str(reports[0].get("task") or "classification")
    found = [difference(run, runs[0], words, task) for run in runs[1:]]
    if out:
        write_text(out, compare_page(rows, found, words.lang))
        click.echo(f"wrote {out}", err=True)
    if as_json:
        unicode = "utf" in (sys.stdout.encoding or "").lower()
        click.echo(json.dumps({"runs": rows, "differences": found}, ensure_ascii=not unicode))
    else:
        click.echo(comparing_table(rows, found, words, encoding=sys.stdout.encoding or "ascii"))


def load_predictions(folder: Path) -> list[Mapping[str, Any]] | str:
    """Return the rows of DIR/predictions.json, or the path if there is no such file.

    Raises DataError (E-COMPARE-002) if the file is not a list of text, label and predicted.
    """
    from sapwood.errors import DataError

    path = folder / "predictions.json"
    try:
        rows = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return str(path)
    except (OSError, ValueError) as error:
        raise DataError("E-COMPARE-002", f"{path} cannot be read: {error}.") from None
    wanted = ("text", "label", "predicted")
    wrong = [
        f"row {number} has no {', '.join(k for k in wanted if k not in row)}"
        if isinstance(row, Mapping)
        else f"row {number} is not an object"
        for number, row in enumerate(rows if isinstance(rows, list) else [], 1)
        if not isinstance(row, Mapping) or any(key not in row for key in wanted)
    ]
    if not isinstance(rows, list) or wrong:
        raise DataError(
            "E-COMPARE-002",
            f"{path} is not a list of rows with text, label and predicted.",
            details=wrong[:5],
            fix="run 'sapwood adapt' again",
        )
    return rows
