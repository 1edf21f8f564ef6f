"""`sapwood meta DATA... --held-out DATA`: weights learn to read demonstrations."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from sapwood.commands.bridging import checked, followed, hand_over, losses, options, tell
from sapwood.commands.live import make_bases
from sapwood.errors import ConfigError


@click.command(name="meta")
@click.argument("data", nargs=-1, required=True)
@click.option("--held-out", required=True, metavar="DATA", help="The task to be good at after.")
@click.option(
    "--model",
    "-m",
    default="smollm2-135m",
    show_default=True,
    help="Base: a name, hub id, folder or .gguf file.",
)
@click.option(
    "--shots",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Demonstrations before a query.",
)
@click.option(
    "--episodes",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Rows of demonstrations to train on.",
)
@click.option("--one-target", is_flag=True, help="Train on the query's answer alone.")
@click.option(
    "--rank", type=click.IntRange(min=1), default=8, show_default=True, help="LoRA's rank."
)
@click.option(
    "--max-length",
    type=click.IntRange(min=8),
    default=64,
    show_default=True,
    help="Most tokens of one text.",
)
@click.option(
    "--queries",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Held-out rows to measure on.",
)
@click.option(
    "--orders",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Orders of the demonstrations to measure.",
)
@click.option("--label", metavar="COL", help="Column of the label.")
@options
def command(data: tuple[str, ...], held_out: str, **given: Any) -> None:
    """Teach a base to read demonstrations on several tasks; measure it on one it has not seen.

    DATA are labelled files or folders, each a task. OUT holds LoRA with demonstrations of the
    held-out task, and what changed: accuracy, the spread over orders, and whether the labels of
    the demonstrations are followed.
    """  # fmt: skip
    out = given["out"]
    run = checked(out)
    from sapwood.bridges.demonstrate import Demonstrating, demonstrate
    from sapwood.training import Recipe

    held, queries = _held_out(held_out, given)
    asked = frozenset(query.text for query in queries)  # DATA may hold the same rows
    tasks = [_task(one, given, asked) for one in data]
    settings = Demonstrating(
        shots=given["shots"], episodes=given["episodes"], every=not given["one_target"],
        rank=given["rank"], max_text_tokens=given["max_length"],
        recipe=Recipe(
            learning_rate=given["learning_rate"] or 5e-4, batch_size=4, epochs=1.0,
            seed=given["seed"],
        ),
    )  # fmt: skip
    bases = make_bases(given["device"], given["dtype"])

    def events() -> Generator[Any, None, Any]:
        made = yield from demonstrate(
            bases, given["model"], tasks, held, settings=settings, folder=run
        )
        plain = replace(made, method=None, weights={})
        before = yield from _measured(bases, plain, queries, given)
        after = yield from _measured(bases, made, queries, given)
        evidence = {"before": asdict(before), "after": asdict(after)}
        return replace(made, evidence={**made.evidence, "robustness": evidence})

    made = followed(events(), quiet=given["as_json"])
    size = hand_over(made, out)
    said, measured = made.evidence["practised"], made.evidence["robustness"]
    lines = {
        "practised": ", ".join(task.name for task in tasks),
        "trained": losses(said["curve"]),
        "size": f"{size:,} bytes",
        "held out": f"{held.name}, {measured['after']['queries']:,} queries",
        "": f"{'before':>10}{'after':>10}",
        **{
            words: f"{measured['before'][key]:10.3f}{measured['after'][key]:10.3f}"
            for key, words in _WORDS.items()
        },
    }
    content = {"parts": made.parts(), "bytes": size, "practised": said, "robustness": measured}
    tell(content, lines, out, as_json=given["as_json"])


_WORDS = {
    "accuracy": "accuracy, mean over orders",
    "spread": "standard deviation of orders",
    "worst": "worst order",
    "follows": "labels exchanged: follows them",
    "keeps": "labels exchanged: keeps the true ones",
}


def _measured(bases: Any, made: Any, queries: Any, given: dict[str, Any]) -> Any:
    from sapwood.bridges.robustness import answering, robustness

    with answering(bases, made) as predict:
        return (
            yield from robustness(
                predict, made.context.demonstrations, queries, made.labels,
                orders=given["orders"], seed=given["seed"],
            )
        )  # fmt: skip


def _read(source: Path | str, given: dict[str, Any], classes: int) -> Any:
    from sapwood.tasks.readers import read_examples

    return read_examples(source, text=given["text"], label=given["label"], classes=classes).examples


def _task(source: str, given: dict[str, Any], asked: frozenset[str] = frozenset()) -> Any:
    """Return a task of the training rows of a source, without those that are `asked` later."""
    from sapwood.bridges.demonstrate import practice
    from sapwood.tasks.readers import find_files

    rows = [r for r in _read(str(find_files(source)["train"]), given, 2) if r.text not in asked]
    path = Path(source.split("[", maxsplit=1)[0])
    return practice(path.name if path.is_dir() else path.stem, rows[: given["limit"]])


def _held_out(source: str, given: dict[str, Any]) -> tuple[Any, Any]:
    """Return the held-out task and the labelled queries to measure on, none of them shown."""
    from sapwood.tasks.readers import find_files

    files, count = find_files(source), given["queries"]
    task = _task(source, given)
    where = files.get("test") or files.get("dev")
    if where is not None:
        rows = [row for row in _read(str(where), given, 1) if row.label in task.labels][:count]
        asked = {row.text for row in rows}
        return replace(task, rows=tuple(r for r in task.rows if r.text not in asked)), rows
    rows = list(task.rows[-count:])
    kept = tuple(r for r in task.rows[:-count] if r.text not in {row.text for row in rows})
    if len({row.label for row in kept}) < len(task.labels):
        raise ConfigError(
            "E-CONFIG-087",
            f"{source} has {len(task.rows):,} rows: too few to show some and ask {count}.",
            fix=f"--queries {max(1, len(task.rows) // 4)}",
        )
    return replace(task, rows=kept), rows
