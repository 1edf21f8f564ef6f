"""`sapwood tune DATA`: the training half of `adapt`."""

from __future__ import annotations

from typing import Any

import click

from sapwood.commands.running import options, run

BASELINES = ("majority", "tf-idf")
CONTEXT = "+context"
OTHERS = ("compressed", "head")


@click.command(name="tune")
@click.argument("data")
@click.option(
    "--method",
    default="lora",
    show_default=True,
    help="What trains: lora, dora, adapter, prefix, ... ('sapwood tune --methods' lists them), "
    'with settings as "lora(rank=4)", several as lora+ia3, under demonstrations as '
    "lora+context; 'compressed': demonstrations made a prefix; 'head': on encoders.",
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

        parse(method.removesuffix(CONTEXT))  # a mistake in it is told before anything runs
    only = (*BASELINES, "".join(method.split()))
    run(data, only=only, verb="tune", trials=trials, **given)


def _list(context: click.Context, asked: bool) -> None:
    if not asked:
        return
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
        click.echo(f"{name}({shown})")
        words = (kind.__doc__ or "").split("\n")[0]
        click.echo(f"    {words}  Rate {learning_rate(made):g}, "
                   f"{learning_rate(made, encoder=True):g} on encoders.")  # fmt: skip
    context.exit()
