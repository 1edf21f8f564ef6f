"""`sapwood adapt DATA`: the main job."""

from __future__ import annotations

from typing import Any

import click

from sapwood.commands.running import options, run


@click.command(name="adapt")
@click.argument("data")
@options
def command(data: str, **given: Any) -> None:
    """Decide by measuring whether to prompt, tune, or both; keep the best.

    DATA is a CSV, TSV, JSON, JSONL or Parquet file with a text and a label column, a folder with
    train and test files, or a Hugging Face data set. The same command run again resumes.
    """
    run(data, only=(), verb="adapt", **given)
