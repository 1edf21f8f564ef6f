"""What `compress`, `distill` and `meta` share: their options, their folder, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--text", metavar="COL", help="Column of the text."),
    click.option("--limit", type=click.IntRange(min=1), help="Most rows to train on."),
    click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True)),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--out", "-o", type=click.Path(path_type=Path), required=True,
                 help="Folder to write."),
    click.option("--device", default="auto", show_default=True),
    click.option("--dtype", default="auto", show_default=True,
                 help="auto, float32, bfloat16 or float16."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
)  # fmt: skip


def options(function: Any) -> Any:
    """Add the options that all three have."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def checked(out: Path) -> Path:
    """Return the folder of checkpoints in `out`; refuse an `adaptation` that someone else made."""
    folder = out / "adaptation"
    if out.is_file() or (folder.exists() and not (folder / "adaptation.json").exists()):
        raise ConfigError(
            "E-CONFIG-058",
            f"{out if out.is_file() else folder} exists and was not made by Sapwood; it would be "
            "replaced.",
            fix="choose another folder with --out",
        )
    return out / "run"


def followed(events: Any, *, quiet: bool) -> Any:
    """Show a bridge's events and return its result; Ctrl-C saves and ends the process."""
    from sapwood.commands.running import Screen

    result: Any = Screen(quiet=quiet).follow(events)
    return result


def hand_over(made: Adaptation, out: Path) -> int:
    """Save an adaptation under `out`, forget its checkpoints, and return its bytes."""
    from sapwood.adaptation import save, size_on_disk
    from sapwood.checkpoint import remove_checkpoints

    save(made, out / "adaptation")
    remove_checkpoints(out / "run")
    return size_on_disk(out / "adaptation")


def tell(content: dict[str, Any], lines: dict[str, str], out: Path, *, as_json: bool) -> None:
    """Print `content` as JSON, or `lines` as a table, on stdout; where it lies on stderr."""
    if as_json:
        content = {**content, "adaptation": str(out / "adaptation")}
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    width = max(map(len, lines)) + 2
    for name, words in lines.items():
        click.echo(f"{name:<{width}}{words}")
    click.echo(f"\nAdaptation  {out / 'adaptation'}", err=True)
    click.echo(f"Next: sapwood eval {out} --data FILE", err=True)


def losses(curve: dict[str, list[float]]) -> str:
    """Return how a loss fell, in words: the means of its first and last tenth.

    >>> losses({"loss": [0.9, 0.5], "seconds": [1.0, 1.5]})
    '2 steps in 2.5 s, loss 0.900 to 0.500'
    """
    values = curve["loss"]
    part = max(1, len(values) // 10)
    first, last = sum(values[:part]) / part, sum(values[-part:]) / part
    seconds = sum(curve["seconds"])
    return f"{len(values)} steps in {seconds:.1f} s, loss {first:.3f} to {last:.3f}"
