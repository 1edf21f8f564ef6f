"""`sapwood distill DIR DATA`: a context becomes weights, from unlabelled texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sapwood.commands.bridging import checked, followed, hand_over, losses, options, tell
from sapwood.commands.live import make_bases, open_adaptation


@click.command(name="distill")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--method",
    type=click.Choice(["lora", "prefix"]),
    default="lora",
    show_default=True,
    help="What the student trains.",
)
@click.option(
    "--rank", type=click.IntRange(min=1), default=8, show_default=True, help="LoRA's rank."
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Length of a prefix.",
)
@click.option("--base", help="The student's base.  [default: the teacher's]")
@click.option(
    "--epochs",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Passes over DATA.",
)
@options
def command(folder: Path, data: str, **given: Any) -> None:
    """Teach a student without a context to answer as the adaptation in DIR does.

    DATA needs no labels, and none is read. A tenth of it is held out to compare the two on.
    """  # fmt: skip
    teacher = open_adaptation(folder)
    run = checked(given["out"])
    from sapwood.bridges.distil import Distillation, distil
    from sapwood.tasks.readers import read_examples
    from sapwood.training import Recipe

    table = read_examples(data, text=given["text"], need_label=False)
    texts = [row.text for row in table.examples[: given["limit"]]]
    method = given["method"]
    rate = given["learning_rate"] or (5e-4 if method == "lora" else 5e-3)
    settings = Distillation(
        method=method,
        rank=given["rank"],
        tokens=given["tokens"],
        base=given["base"],
        recipe=Recipe(learning_rate=rate, epochs=given["epochs"], seed=given["seed"]),
    )
    bases = make_bases(given["device"], given["dtype"])
    events = distil(bases, teacher, texts, settings=settings, folder=run)
    student = followed(events, quiet=given["as_json"])
    size = hand_over(student, given["out"])
    said = student.evidence["distilled"]
    agreement = said["agreement"]
    where = "held-out texts" if agreement["held_out"] else "texts it learnt from"
    lines = {
        "teacher": _in_words(teacher.parts()),
        "student": _in_words(student.parts()),
        "agreement": f"{agreement['value']:.3f} on {agreement['rows']:,} {where}",
        "size": f"{size:,} bytes",
        "trained": f"{said['texts']:,} texts, {losses(said['curve'])}",
    }
    content = {"parts": student.parts(), "bytes": size, "distilled": said}
    tell(content, lines, given["out"], as_json=given["as_json"])


def _in_words(parts: dict[str, str | None]) -> str:
    return "; ".join(words for words in parts.values() if words)
