"""`sapwood compare`: the recommended candidates of several runs side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


@click.command(name="compare")
@click.argument("folders", metavar="DIR DIR...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--html", "out", type=click.Path(path_type=Path), help="Also write an HTML page here."
)
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of the words.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def command(folders: tuple[Path, ...], out: Path | None, lang: str | None, as_json: bool) -> None:
    """Show the recommended candidate of each run, and compare each run with the first.

    Two runs are compared row by row (accuracy, paired bootstrap) when both hold predictions.json
    on the same test texts; otherwise the reason why they cannot be compared is given.
    """
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
    words = Words(lang=language_of(lang or reports[0].get("language")))
    predictions = [load_predictions(folder) for folder in folders]
    rows = [run_row(str(f), r) for f, r in zip(folders, reports, strict=True)]
    runs = list(zip([str(folder) for folder in folders], predictions, strict=True))
    found = [difference(run, runs[0], words) for run in runs[1:]]
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
