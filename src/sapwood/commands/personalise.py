"""`sapwood personalise DATA --user COL`: one small adaptation a user over one that all share."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.bridging import checked, followed, options
from sapwood.commands.live import make_bases
from sapwood.errors import DataError

if TYPE_CHECKING:
    from sapwood.evaluation import Bases, Reader
    from sapwood.interfaces import Event, Example
    from sapwood.training.personal import Gain, Personalised

_SHOWN = 20


@click.command(name="personalise")
@click.argument("data")
@click.option("--user", required=True, metavar="COL", help="Column that says whose row it is.")
@click.option("--label", metavar="COL", help="Column of the label.")
@click.option("--model", "-m", default="smollm2-135m", show_default=True, help="Base.")
@click.option("--rank", type=click.IntRange(min=1), default=8, show_default=True,
              help="LoRA's rank of the shared adaptation.")  # fmt: skip
@click.option("--user-rank", type=click.IntRange(min=1), default=1, show_default=True,
              help="LoRA's rank of a user's.")  # fmt: skip
@click.option("--fewest", type=click.IntRange(min=1), default=8, show_default=True,
              help="Rows to train on below which a user has the shared one only.")  # fmt: skip
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), default=3.0,
              show_default=True, help="Passes over DATA.")  # fmt: skip
@options
def command(data: str, user: str, **given: Any) -> None:
    """Train one adaptation that all users share and a small one for each, in one pass.

    A fifth of each user's rows is held out. What users gain is measured there against the same
    task adaptation trained without users, in the same steps.
    """
    run = checked(given["out"])
    from sapwood.checkpoint import remove_checkpoints
    from sapwood.training import Recipe
    from sapwood.training.personal import Personal

    rows, users, labels = _rows(data, user, given)
    bases = make_bases(given["device"], given["dtype"])
    reader = _reader(bases, given["model"], rows, labels)
    recipe = Recipe(
        learning_rate=given["learning_rate"] or 1e-3, epochs=given["epochs"], seed=given["seed"]
    )
    settings = Personal(
        rank=given["rank"], user_rank=given["user_rank"], fewest=given["fewest"], recipe=recipe
    )
    events = _events(reader, (rows, users, labels), settings, run)
    made = followed(events, quiet=given["as_json"])
    folders = _hand_over(made, reader, bases.reference(given["model"]), given["out"])
    remove_checkpoints(run)
    _tell(made, folders, as_json=given["as_json"])


def _rows(
    data: str, user: str, given: dict[str, Any]
) -> tuple[list[Example], list[str], tuple[str, ...]]:
    """Return the rows that have text, label and user, their users, and the labels."""
    from sapwood.tasks.readers import read_examples

    table = read_examples(data, text=given["text"], label=given["label"])
    named = read_examples(data, text=table.columns.text, label=user, classes=1)
    owners = {row.row: row.label for row in named.examples if row.label}
    rows = [row for row in table.examples if row.row in owners][: given["limit"]]
    if not rows:
        raise DataError("E-DATA-098", f"No row of {data} has text, label and '{user}'.")
    return rows, [owners[row.row] or "" for row in rows], table.labels


def _reader(bases: Bases, model: str, rows: list[Example], labels: tuple[str, ...]) -> Reader:
    from sapwood.context.prompter import Context
    from sapwood.context.template import default_template
    from sapwood.evaluation import Reader

    template = default_template(labels, [row.text for row in rows[:200]])
    return Reader(bases, model, Context(template=template), labels)


def _events(
    reader: Reader,
    table: tuple[list[Example], list[str], tuple[str, ...]],
    settings: Any,
    run: Path,
) -> Generator[Event, None, Personalised]:
    from sapwood.interfaces import Event
    from sapwood.training.personal import People, personalise

    rows, users, labels = table
    prompts = reader.prompter.rest([row.text for row in rows])
    people = People(
        prompts=prompts,
        gold=[labels.index(row.label or "") for row in rows],
        users=users,
        trie=reader.trie,
        shared=reader.prompter.prefix,
    )
    steps = personalise(reader.decoder, people, settings, folder=run)
    while True:
        try:
            one = next(steps).steps["personal"]
        except StopIteration as end:
            made: Personalised = end.value
            return made
        try:
            yield Event(kind="progress", candidate="personalise", done=one.number,
                        total=one.total, note=f"loss {one.loss:.3f}")  # fmt: skip
        except GeneratorExit:
            steps.close()
            raise


def _hand_over(made: Personalised, reader: Reader, base: Any, out: Path) -> dict[str, str]:
    """Save the shared adaptation and each user's, ready to serve; return the folders by user."""
    from sapwood.adaptation import Adaptation, save
    from sapwood.files import write_json
    from sapwood.methods import parts
    from sapwood.readouts import bias
    from sapwood.readouts.verbalizer import Verbalizer

    labels = tuple(reader.labels)
    transposed = parts.transposed(made.bank.net)
    verbalizer = Verbalizer(labels=labels, bias=bias.none(len(labels)), normalise="trie")
    gains = {gain.user: asdict(gain) for gain in made.gains}
    folders = {"": "adaptation"}
    folders |= {user: f"users/{n + 1}/adaptation" for n, user in enumerate(made.users)}
    for user, folder in folders.items():  # numbered: a user's name may not be a file's
        method, weights = made.adaptation(user)
        whole = Adaptation(
            labels=labels,
            readout_name="verbalizer",
            readout=verbalizer,
            base=base,
            context=reader.context,
            method=method,
            weights=weights,
            transposed=transposed,
            evidence={"personalised": gains.get(user) or asdict(made.overall)},
        )
        (out / folder).parent.mkdir(parents=True, exist_ok=True)
        save(whole, out / folder)
    paths = {user: str(out / folder) for user, folder in folders.items()}
    write_json(out / "users.json", {user: path for user, path in paths.items() if user})
    return paths


def _tell(made: Personalised, folders: dict[str, str], *, as_json: bool) -> None:
    import json

    if as_json:
        content = {
            "overall": asdict(made.overall),
            "users": [asdict(gain) for gain in made.gains],
            "adaptation": folders.pop(""),
            "adaptations": folders,
        }
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    click.echo(f"{'user':<20}{'rows':>6}{'shared':>9}{'own':>9}{'gain':>9}  95 % interval")
    gains = sorted(made.gains, key=lambda gain: -gain.rows)
    for gain in gains[:_SHOWN]:
        click.echo(_line(gain.user[:18], gain))
    if len(gains) > _SHOWN:
        click.echo(f"and {len(gains) - _SHOWN} more (--json shows all)")
    click.echo(_line("all", made.overall))
    few = sum(not gain.own for gain in gains)
    if few:
        people = "1 user has" if few == 1 else f"{few} users have"
        click.echo(f"{people} too few rows for an adaptation of their own: the shared one serves.")
    click.echo(f"\nAdaptation  {folders['']}, and one a user: see users.json there", err=True)


def _line(name: str, gain: Gain) -> str:
    words = f"{name:<20}{gain.rows:>6}{gain.alone:>9.3f}{gain.personal:>9.3f}"
    return f"{words}{gain.difference:>+9.3f}  {gain.low:+.3f} to {gain.high:+.3f}"
