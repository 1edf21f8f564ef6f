"""`sapwood prompt DATA`: the prompting half of `adapt`, without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from sapwood.commands.running import options, run
from sapwood.errors import ConfigError
from sapwood.registry import did_you_mean

FAMILIES = ("majority", "tf-idf", "zero-shot", "few-shot", "channel", "knn", "probe")


@click.command(name="prompt")
@click.argument("data")
@click.option("--shots", help="How many demonstrations, such as 4,16,64.  [default: the ladder's]")
@click.option(
    "--selector",
    help="How demonstrations are chosen: stratified, nearest, bm25, dpp, bank or greedy.",
)
@click.option(
    "--order",
    help="How they are ordered: given, similar-last, likelihood, "
    "global-entropy, local-entropy or mdl.",
)
@click.option("--scorer", help="direct, direct-tokens, direct-bytes or channel.")
@click.option("--bias", help="Estimators of the bias that may be used, separated by commas.")
@click.option(
    "--contexts",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Contexts of a bank.",
)
@click.option(
    "--encoding",
    type=click.Choice(["exact", "blocks", "windows"]),
    default="exact",
    show_default=True,
    help="Approximations: blocks encodes each demonstration alone, windows each third of them.",
)
@options
def command(data: str, **given: Any) -> None:
    """Prompt a frozen base with demonstrations from DATA, beside the cheap baselines.

    With none of --shots, --selector, --order, --scorer and --encoding a ladder of prompts is tried,
    from few demonstrations to many; with any of them only the prompts they describe.
    """
    run(data, only=FAMILIES, verb="prompt", prompting=_prompting(given), **given)


def _prompting(given: dict[str, Any]) -> Any:
    """Take the options of prompts out of `given`; raises ConfigError naming all that is wrong."""
    from sapwood.context.order import ORDERS
    from sapwood.context.select import SELECTORS
    from sapwood.readouts.bias import BIASES
    from sapwood.readouts.verbalizer import SCORERS
    from sapwood.search.job import Prompting

    bias = tuple(part.strip() for part in (given.pop("bias") or "").split(",") if part.strip())
    chosen = {name: given.pop(name) for name in ("selector", "order", "scorer")}
    shots, problems = _numbers(given.pop("shots"))
    problems += [p for name in bias for p in _unknown("bias", name, BIASES)]
    for name, table in (("selector", SELECTORS), ("order", ORDERS), ("scorer", SCORERS)):
        problems += _unknown(name, chosen[name], table)
    if problems:
        raise ConfigError(
            "E-CONFIG-059", "The prompt cannot be made as asked.", details=problems,
            fix="see sapwood prompt --help",
        )  # fmt: skip
    return Prompting(
        shots=shots,
        selection=chosen["selector"],
        order=chosen["order"],
        scorer=chosen["scorer"],
        bias=bias,
        contexts=given.pop("contexts"),
        encoding=given.pop("encoding"),
    )


def _numbers(text: str | None) -> tuple[tuple[int, ...], list[str]]:
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal()]
    return (
        tuple(dict.fromkeys(int(part) for part in parts if part.isdecimal())),
        [f"--shots {part} is not a whole number of 0 or more" for part in wrong],
    )


def _unknown(option: str, name: str | None, table: Mapping[str, Any]) -> list[str]:
    if name is None or name in table:
        return []
    return [f"--{option} {name} is unknown.{did_you_mean(name, table)} Known: {', '.join(table)}"]
