"""`sapwood prompt DATA`: the prompting half of `adapt`, without training."""

from __future__ import annotations

from typing import Any

import click

from sapwood.commands.running import options, run

FAMILIES = ("majority", "tf-idf", "zero-shot", "few-shot", "knn", "probe")


@click.command(name="prompt")
@click.argument("data")
@options
def command(data: str, **given: Any) -> None:
    """Prompt a frozen base with demonstrations from DATA, beside the cheap baselines."""
    run(data, only=FAMILIES, verb="prompt", **given)
