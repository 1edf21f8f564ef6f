"""`sapwood eval DIR --data FILE`: score an adaptation."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sapwood.commands.live import make_bases, open_adaptation


@click.command(name="eval")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="File with a text and a label column.")
@click.option("--text", metavar="COL", help="Column of the text.")
@click.option("--label", metavar="COL", help="Column of the label.")
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
) -> None:
    """Score the adaptation in DIR on the rows of a file, with 95 % intervals."""
    import numpy as np

    from sapwood.commands.answers import evaluate, show
    from sapwood.evaluation import answers_of, predicting
    from sapwood.metrics import bootstrap_interval, expected_calibration_error, per_class
    from sapwood.tasks.readers import read_examples

    made = open_adaptation(folder)
    if answers_of(made):
        columns = {role: name for role, name in (("text", text), ("label", label)) if name}
        content = evaluate(made, make_bases(device, dtype), data, columns)
        if as_json:
            click.echo(json.dumps(content, ensure_ascii=False))
        else:
            show(content)
        return
    rows = read_examples(data, text=text, label=label, classes=1).examples
    with predicting(made, make_bases(device, dtype)) as predictor:
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
