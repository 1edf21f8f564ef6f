"""`sapwood eval DIR --data FILE`: score an adaptation, or a language model as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.decoding import asked, check_writes, options, sampling
from sapwood.commands.live import make_bases, open_adaptation
from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.evaluation import Bases
    from sapwood.interfaces import Example


@click.command(name="eval")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    help="File with a text and a label column; of a language model a .txt file with a text a line "
    "will do, or a corpus.",
)
@click.option("--text", metavar="COL", help="Column of the text.")
@click.option("--label", metavar="COL", help="Column of the label.")
@click.option(
    "--write",
    metavar="N",
    type=click.IntRange(min=1),
    help="Also write answers to N rows and compare them with the wanted texts.",
)
@options
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    folder: Path,
    *,
    data: str,
    text: str | None,
    label: str | None,
    device: str,
    dtype: str,
    as_json: bool,
    write: int | None,
    **given: Any,
) -> None:
    """Score the adaptation in DIR on the rows of a file, with 95 % intervals.

    Of generated texts: bits a byte and perplexity of the wanted ones, the end of each counted in.
    DIR may also be a language model of any family (a base, a pretrained folder, an ARPA file): then
    bits a byte and perplexity of the texts themselves.
    """
    from sapwood.commands import language

    if language.is_language(folder):
        options = {**given, "text": text, "label": label, "write": write,
                   "device": device, "dtype": dtype}  # fmt: skip
        language.evaluate(folder, data, options, as_json=as_json)
        return
    from sapwood.commands.answers import Measuring, evaluate, own_sampling, show
    from sapwood.evaluation import answers_of
    from sapwood.tasks.structured import read_task

    made = open_adaptation(folder)
    check_writes(made, given, folder)
    columns = {role: name for role, name in (("text", text), ("label", label)) if name}
    if answers_of(made):
        measuring = Measuring(
            data=data,
            columns=columns,
            write=write or 0,
            decoding=sampling(given, own_sampling(made)) if asked(given) else None,
        )
        content = evaluate(made, make_bases(device, dtype), measuring)
        if as_json:
            click.echo(json.dumps(content, ensure_ascii=False))
        else:
            show(content)
        return
    if write:
        raise ConfigError(
            "E-CONFIG-133",
            f"--write is for texts, and {folder} chooses labels: all rows are scored anyway.",
            fix="leave out --write",
        )
    _labels(made, make_bases(device, dtype), read_task(data, made.task, columns=columns).examples,
            as_json=as_json)  # fmt: skip


def _labels(made: Adaptation, bases: Bases, rows: Sequence[Example], *, as_json: bool) -> None:
    """Print how well the labels of rows are told."""
    import numpy as np

    from sapwood.evaluation import predicting
    from sapwood.metrics import bootstrap_interval, expected_calibration_error, per_class

    with predicting(made, bases) as predictor:
        found = np.concatenate(list(predictor.stream([e.text for e in rows])))
    gold = [str(e.label) for e in rows]
    said = [made.labels[n] for n in found.argmax(axis=1)]
    scores = {
        metric: bootstrap_interval((gold, said), metric) for metric in ("accuracy", "macro_f1")
    }
    index = np.array([made.labels.index(g) if g in made.labels else -1 for g in gold])
    ece = expected_calibration_error(found, index)
    classes = per_class(gold, said, sorted({*made.labels, *gold}))
    if as_json:
        content = {
            "rows": len(rows),
            **{
                name: {"value": s.value, "low": s.low, "high": s.high}
                for name, s in scores.items()
            },
            "ece": ece,
            "per_class": {c.label: {"precision": c.precision, "recall": c.recall, "f1": c.f1,
                                    "support": c.support} for c in classes},
        }  # fmt: skip
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    for name, score in scores.items():
        click.echo(f"{name:<10} {score.value:.3f}  ({score.low:.3f} to {score.high:.3f})")
    click.echo(f"{'ece':<10} {ece:.3f}\nrows       {len(rows):,}")
    for one in classes:
        click.echo(
            f"  {one.label:<20} precision {one.precision:.3f}  recall {one.recall:.3f}  "
            f"F1 {one.f1:.3f}  rows {one.support:,}"
        )
