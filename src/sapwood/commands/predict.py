"""`sapwood predict DIR --data FILE`: apply an adaptation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sapwood.commands.live import make_bases, open_adaptation
from sapwood.errors import ConfigError


@click.command(name="predict")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--data", help="File with a text column.")
@click.option("--text", metavar="COL", help="Column of the text.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row.")
def command(
    folder: Path,
    *,
    texts: tuple[str, ...],
    data: str | None,
    text: str | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Apply the adaptation in DIR to TEXTS or to the rows of a file, in order."""
    from sapwood.commands.answers import predict
    from sapwood.context.facts import facts_json
    from sapwood.evaluation import CHUNK, answers_of, predicting
    from sapwood.interfaces import Example
    from sapwood.tasks.readers import describe, read_examples
    from sapwood.tasks.structured import read_task

    named = {"text": text} if text else {}

    if bool(texts) == bool(data):
        raise ConfigError(
            "E-CONFIG-056",
            "Name what to predict: texts, or a file with --data.",
            fix=f'sapwood predict {folder} "a text"   or   --data FILE',
        )
    made = open_adaptation(folder)
    if answers_of(made):
        examples = [Example(text=one) for one in texts]
        if data:
            table = read_task(data, made.task, columns=named, need_answer=False)
            examples = list(table.examples)
            for dropped in table.dropped:
                click.echo(f"not predicted: {describe(dropped)}", err=True)
        for line in predict(made, make_bases(device, dtype), examples, as_json=as_json):
            click.echo(line)
        return
    rows = list(texts)
    if data:
        table = read_examples(data, text=text, need_label=False)
        rows = [e.text for e in table.examples]
        for dropped in table.dropped:
            click.echo(f"not predicted: {describe(dropped)}", err=True)
    bases = make_bases(device, dtype)
    with predicting(made, bases) as predictor:
        for number, part in enumerate(predictor.stream(rows)):
            chunk = rows[number * CHUNK : (number + 1) * CHUNK]
            known = made.facts.find(chunk) if made.facts is not None and as_json else None
            for place, (words, values) in enumerate(zip(chunk, part, strict=True)):
                best = int(values.argmax())
                if not as_json:
                    click.echo(f"{made.labels[best]}\t{values[best]:.3f}\t{words}")
                    continue
                content: dict[str, Any] = {
                    "text": words,
                    "label": made.labels[best],
                    "probabilities": dict(zip(made.labels, map(float, values), strict=True)),
                }
                if known is not None:  # what was put before this text, and where it comes from
                    content["facts"] = facts_json(known[place])
                click.echo(json.dumps(content, ensure_ascii=False))
