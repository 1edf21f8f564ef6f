"""`sapwood predict DIR --data FILE`: apply an adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sapwood.commands.abstaining import label_lines, silence, threshold_of
from sapwood.commands.decoding import asked, check_writes, sampling, several
from sapwood.commands.live import make_bases, open_adaptation
from sapwood.errors import ConfigError


@click.command(name="predict")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--data", help="File with a text column.")
@click.option("--text", metavar="COL", help="Column of the text.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--form", help="Form that poems are written under: wujue, qijue, wulu, qilu.")
@several
@silence
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row.")
def command(
    folder: Path,
    *,
    texts: tuple[str, ...],
    data: str | None,
    text: str | None,
    device: str,
    dtype: str,
    form: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Apply the adaptation in DIR to TEXTS or to the rows of a file, in order.

    The options that say how answers are written are for adaptations whose base writes them.
    """
    from sapwood.commands.answers import asked_of, own_sampling, predict
    from sapwood.commands.verse import under_form
    from sapwood.evaluation import answers_of, predicting
    from sapwood.tasks.readers import describe
    from sapwood.tasks.structured import read_task

    named = {"text": text} if text else {}

    if bool(texts) == bool(data):
        raise ConfigError(
            "E-CONFIG-056",
            "Name what to predict: texts, or a file with --data.",
            fix=f'sapwood predict {folder} "a text"   or   --data FILE',
        )
    made = open_adaptation(folder)
    if form:
        made = under_form(made, form, folder)
    check_writes(made, given, folder)
    threshold = threshold_of(made, given)
    examples = asked_of(made, texts)
    if data:
        table = read_task(data, made.task, columns=named, need_answer=False)
        examples = list(table.examples)
        for dropped in table.dropped:
            click.echo(f"not predicted: {describe(dropped)}", err=True)
    if answers_of(made):
        decoding = sampling(given, own_sampling(made)) if asked(given) else None
        bases = make_bases(device, dtype)
        for line in predict(made, bases, examples, decoding=decoding, as_json=as_json):
            click.echo(line)
        return
    rows = [example.text for example in examples]
    with predicting(made, make_bases(device, dtype)) as predictor:
        for line in label_lines(predictor, rows, threshold, as_json=as_json):
            click.echo(line)
