"""`sapwood tune DATA`: the training half of `adapt`."""

from __future__ import annotations

from typing import Any

import click

from sapwood.commands.running import options, run

BASELINES = ("majority", "tf-idf")
OTHERS = ("compressed", "head")


@click.command(name="tune")
@click.argument("data")
@click.option(
    "--method",
    default="lora",
    show_default=True,
    help="What trains: lora, dora, adapter, prefix, ... ('sapwood tune --methods' lists them), "
    'with settings as "lora(rank=4)", "prefix(start=text)" from words of the task, several as '
    "lora+ia3, under demonstrations as lora+context, on a decoder read as an encoder as "
    "lora+unmasked; 'compressed': demonstrations made a prefix; "
    "'head': on encoders.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Try so many rates and sizes first (needs 'sapwood[search]').",
)
@click.option("--methods", is_flag=True, is_eager=True, expose_value=False,
              callback=lambda context, _, asked: _list(context, asked),
              help="List the methods with their settings.")  # fmt: skip
@options
def command(data: str, method: str, trials: int, **given: Any) -> None:
    """Train a light method on a frozen base with DATA, beside the cheap baselines."""
    if method not in OTHERS:
        from sapwood.methods.together import parse
        from sapwood.search.job import bare

        parse(bare(method))  # a mistake in it is told before anything runs
    only = (*BASELINES, "".join(method.split()))
    run(data, only=only, verb="tune", trials=trials, **given)


def _list(context: click.Context, asked: bool) -> None:
    if not asked:
        return
    import sys
    import textwrap
    from dataclasses import fields

    from sapwood.methods import METHODS
    from sapwood.methods.defaults import learning_rate
    from sapwood.registry import resolve

    for name in METHODS:
        kind = resolve("method", METHODS, name)
        if name == "together":
            continue
        made = kind()
        shown = ", ".join(f"{f.name}={getattr(made, f.name)}" for f in fields(kind))
        # its module says what it is and cites the paper
        words = (sys.modules[kind.__module__].__doc__ or "").split("\n\n")[0].replace("\n", " ")
        rates = f"Rate {learning_rate(made):g}, on encoders {learning_rate(made, encoder=True):g}."
        for part in (words, f"{name}({shown})", rates):
            indent = "" if part is words else "    "
            click.echo(textwrap.fill(part, 78, initial_indent=indent, subsequent_indent="    "))
    context.exit()
