"""`sapwood pretrain CORPUS`: a net from nothing, or a base taken on to new text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.training.pretraining_job import Job

LISTED, LENGTH = 8192, 256  # the vocabulary and length that --models counts weights for


def _list(context: click.Context, _: object, asked: bool) -> None:
    if not asked:
        return
    from sapwood.models.kinds import KINDS, SIZES, parameter_count

    click.echo(f"{'net':<16} {'weights':>12}  trained for    (vocabulary of {LISTED:,})")
    for kind in KINDS.values():
        if kind.name == "ngram":
            click.echo(f"{'ngram-5':<16} {'counts':>12}  clm")
        for size in SIZES if kind.name != "ngram" else ():
            name = f"{kind.name}-{size}"
            count = parameter_count(name, LISTED, LENGTH)
            click.echo(f"{name:<16} {count:>12,}  {', '.join(kind.objectives)}")
        click.echo(f"    {kind.what}")
    context.exit()


@click.command(name="pretrain")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option("--objective", default=None, help="mlm, clm, mlm+nsp, span(mean=8), ...  "
              "[default: what the net is usually trained for]")  # fmt: skip
@click.option("--model", "-m", default=None, help="A new net: bert-tiny, gpt-mini, ngram-5, ...")
@click.option("--from", "base", default=None, help="Go on with this base instead.")
@click.option("--budget", default=None, help="Time to spend: 90s, 10m, 1h.  [default: 10m]")
@click.option("--steps", type=click.IntRange(min=1), help="Steps to train, whatever they take.")
@click.option("--replay", type=click.Path(path_type=Path), help="Old corpus, against forgetting.")
@click.option("--replay-share", type=click.FloatRange(0, 1, max_open=True), default=0.1,
              show_default=True, help="Share of the rows that come from it.")  # fmt: skip
@click.option("--length", type=click.IntRange(min=8), default=LENGTH, show_default=True,
              help="Tokens of a row.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1),
              help="Rows a step.  [default: 2,048 tokens on CPUs, 32,768 elsewhere]")  # fmt: skip
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True),
              help="[default: what suits the width]")  # fmt: skip
@click.option("--optimiser", type=click.Choice(["auto", "muon", "adamw"]), default="auto",
              show_default=True, help="For hidden matrices; the rest takes AdamW.")  # fmt: skip
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.0,
              show_default=True, help="Of a new net, where text is read many times.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--engine", type=click.Choice(["torch", "tensorflow"]), default="torch",
              show_default=True, help="What computes losses and gradients.")  # fmt: skip
@click.option("--xla", is_flag=True, help="Compile TensorFlow's graphs with XLA.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True, help="auto, float32 or bfloat16.")
@click.option("--fresh", is_flag=True, help="Forget an earlier run in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print pretraining.json on stdout.")
@click.option("--models", is_flag=True, is_eager=True, expose_value=False, callback=_list,
              help="List the nets that can be trained.")  # fmt: skip
def command(corpus: Path, **given: Any) -> None:
    """Train a net on CORPUS, a folder of 'sapwood corpus build'. The result is a base.

    Stopped or killed, the same command goes on.
    """
    from sapwood.commands.defaults import run_folder
    from sapwood.commands.running import Screen

    out = given["out"] or run_folder("pretrain", str(corpus))
    job = _job(corpus, out, given)
    if given["fresh"]:
        _forget(out)
    screen = Screen(quiet=given["as_json"])
    if job.model.startswith("ngram-"):
        from sapwood.training.counted import count

        evidence = screen.follow(count(job))
    else:
        from sapwood.launch import choose_runtime, raise_malloc_thresholds
        from sapwood.training.pretraining import pretrain

        raise_malloc_thresholds()
        runtime = choose_runtime(given["device"], given["dtype"])
        evidence = screen.follow(pretrain(job, runtime, *_reading(given)))
    if given["as_json"]:
        click.echo(json.dumps(evidence, ensure_ascii=False))
        return
    for sample in evidence.get("samples", ()):
        click.echo(f"{sample['prompt']} | {sample['text']}")
    held = evidence["held_out"]["held"]
    click.echo(f"{evidence['net']} · {evidence['objective']} · held-out {held['words']}")
    counted = job.model.startswith("ngram-")
    then = f"eval {out} --data FILE" if counted else f"adapt DATA --model {out}"
    click.echo(f"The base: {out}\nNext: sapwood {then}", err=True)


def _job(corpus: Path, out: Path, given: dict[str, Any]) -> Job:
    from sapwood.search.job import parse_budget
    from sapwood.training.pretraining_job import Job

    if given["budget"] and given["steps"]:
        raise ConfigError(
            "E-CONFIG-244", "--budget and --steps both say how long to train.", fix="give one"
        )
    return Job(
        corpus=corpus, out=out, objective=given["objective"] or "",
        model=given["model"] or "", base=given["base"] or "",
        seconds=0.0 if given["steps"] else parse_budget(given["budget"] or "10m"),
        steps=given["steps"] or 0, length=given["length"], batch_size=given["batch_size"] or 0,
        learning_rate=given["learning_rate"] or 0.0, optimiser=given["optimiser"],
        dropout=given["dropout"], seed=given["seed"], engine=given["engine"], xla=given["xla"],
        replay=given["replay"], share=given["replay_share"],
    )  # fmt: skip


def _reading(given: dict[str, Any]) -> tuple[Any, ...]:
    """Return what makes the other engine's readings, nothing for torch's."""
    if given["engine"] == "torch":
        return ()
    if given["dtype"] not in ("auto", "float32"):
        raise ConfigError(
            "E-CONFIG-263", "The engine 'tensorflow' computes in float32.", fix="--dtype float32"
        )
    from functools import partial

    from sapwood.tensorflow.arrival import tensorflow
    from sapwood.tensorflow.reading import TensorFlowReading

    tensorflow()
    return (partial(TensorFlowReading, xla=given["xla"]),)


def _forget(out: Path) -> None:
    """Remove an earlier run; what is not of this command stays."""
    if (out / "run").is_dir():
        shutil.rmtree(out / "run")
    (out / "pretraining.json").unlink(missing_ok=True)
