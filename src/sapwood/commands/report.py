"""`sapwood report`: write a run's page again and print its table."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from shutil import get_terminal_size

import click


@click.command(name="report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File to write; DIR/report.html.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of the page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def command(folder: Path, out: Path | None, lang: str | None, as_json: bool) -> None:
    """Write the report of the run in DIR as one HTML file, and print its table.

    The evidence is read from DIR/report.json; nothing is run again.
    """
    from sapwood.commands.wording import report_language
    from sapwood.pages.words import language_of
    from sapwood.report import load_report, terminal_table, verdict, write_html

    lang = report_language(lang)
    report = load_report(folder)
    path = out or folder / "report.html"
    write_html(report, path, lang)
    language = language_of(lang or report.get("language"))
    if as_json:
        sentence, separable = verdict(report, language)
        answer = {
            "html": str(path),
            "recommended": report.get("recommended"),
            "verdict": sentence,
            "separable": separable,
        }
        click.echo(json.dumps(answer, ensure_ascii=_ascii()))
        return
    width = max(40, min(get_terminal_size().columns, 100))
    table = terminal_table(report, width, encoding=sys.stdout.encoding or "ascii", lang=lang)
    click.echo(_emphasised(table))
    click.echo(f"wrote {path}", err=True)


def _ascii() -> bool:
    return "utf" not in (sys.stdout.encoding or "").lower()


def _emphasised(table: str) -> str:
    """Return the table with the recommended in bold; click drops it where no terminal reads."""
    if os.environ.get("NO_COLOR"):
        return table
    lines = table.split("\n")
    return "\n".join(click.style(x, bold=True) if x.startswith("* ") else x for x in lines)
