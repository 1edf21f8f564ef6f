"""`sapwood tune DATA`: the training half of `adapt`."""

from __future__ import annotations

from typing import Any

import click

from sapwood.commands.running import options, run
from sapwood.errors import ConfigError
from sapwood.registry import did_you_mean

METHODS = {
    "lora": ("majority", "tf-idf", "lora"),
    "lora+context": ("majority", "tf-idf", "lora+context"),
    "prefix": ("majority", "tf-idf", "prefix"),
}


@click.command(name="tune")
@click.argument("data")
@click.option("--method", default="lora", show_default=True, help=" or ".join(METHODS) + ".")
@options
def command(data: str, method: str, **given: Any) -> None:
    """Train a light method on a frozen base with DATA, beside the cheap baselines."""
    if method not in METHODS:
        raise ConfigError(
            "E-CONFIG-055",
            f"Unknown method '{method}'.{did_you_mean(method, METHODS)}",
            fix=f"use one of: {', '.join(METHODS)}",
        )
    run(data, only=METHODS[method], verb="tune", **given)
