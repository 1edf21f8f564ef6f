"""`sapwood tasks`: the kinds of task, how a row of each looks, and how answers are measured."""

from __future__ import annotations

import json

import click

from sapwood.commands.wording import laid_out, reader_language, say

FAMILIES = ("classification", "extraction", "generation")
NAME, DETAIL = 16, 10  # columns: the longest name is "classification", the longest word "metric"


@click.command(name="tasks")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of the words.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def command(*, lang: str | None, as_json: bool) -> None:
    """List the kinds of task by family: a row of a file, the metric, what else it is called."""
    from sapwood.tasks import OTHER_NAMES, TASKS
    from sapwood.tasks.structured import task_named

    spoken = reader_language(lang)
    kinds = [task_named(name) for name in TASKS]
    for family in FAMILIES:
        if not as_json:
            click.secho(say(spoken, f"family_{family}"), bold=True)
        for kind in (kind for kind in kinds if kind.family == family):
            others = [name for name, means in OTHER_NAMES.items() if means == kind.name]
            about = say(spoken, f"about_{kind.name}", about=kind.about)
            if as_json:
                content = {"name": kind.name, "family": family, "about": about}
                row = {"metric": kind.metric, "names": others, "row": json.loads(kind.row)}
                click.echo(json.dumps({**content, **row}, ensure_ascii=False))
                continue
            click.echo(laid_out(f"  {kind.name}", about, column=NAME + 2))
            details = {
                "metric": say(spoken, f"metric_{kind.metric}"),
                "names": ", ".join(others),
                "row": kind.row,
            }
            for name, words in details.items():
                if words:
                    head = " " * 4 + say(spoken, f"task_{name}")
                    click.echo(laid_out(head, words, column=DETAIL + 4))
    if not as_json:
        click.echo(say(spoken, "tasks_next"), err=True)
