"""`sapwood compress DIR [DATA]`: a context becomes a prefix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.bridging import checked, followed, hand_over, losses, options, tell
from sapwood.commands.live import make_bases, open_adaptation

if TYPE_CHECKING:
    from sapwood.interfaces import Example


@click.command(name="compress")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens to keep.  [default: all]")
@click.option(
    "--start",
    default="last",
    show_default=True,
    type=click.Choice(["first", "last", "even", "pooled"]),
    help="Which tokens, when not all.",
)
@click.option(
    "--epochs",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Passes over DATA.",
)
@click.option("--label", metavar="COL", help="Column of the label.")
@options
def command(folder: Path, data: str | None, **given: Any) -> None:
    """Turn the context of the adaptation in DIR into a prefix: the text is not read again.

    With all tokens kept it answers as before. With --tokens P it starts from P of them and, if
    labelled DATA is given, trains on that.
    """  # fmt: skip
    made = open_adaptation(folder)
    run = checked(given["out"])
    from sapwood.bridges.compress import Compression, compress
    from sapwood.tasks.readers import read_examples
    from sapwood.training import Recipe

    rows: tuple[Example, ...] = ()
    if data:
        table = read_examples(data, text=given["text"], label=given["label"], classes=1)
        rows = table.examples[: given["limit"]]
    recipe = Recipe(
        learning_rate=given["learning_rate"] or 5e-3, epochs=given["epochs"], seed=given["seed"]
    )
    settings = Compression(tokens=given["tokens"], start=given["start"], recipe=recipe)
    bases = make_bases(given["device"], given["dtype"])
    events = compress(bases, made, rows, settings=settings, folder=run)
    result = followed(events, quiet=given["as_json"])
    size = hand_over(result, given["out"])
    said = result.evidence["compressed"]
    shown = made.parts()["context"] or "the instruction"
    lines = {
        "context": f"{said['context_tokens']:,} tokens ({shown})",
        "prefix": result.parts()["prefix"] or "",
        "size": f"{size:,} bytes",
    }
    if said["curve"]:
        lines["trained"] = f"{len(rows):,} rows, {losses(said['curve'])}"
    content = {"parts": result.parts(), "bytes": size, "compressed": said}
    tell(content, lines, given["out"], as_json=given["as_json"])
