"""What `adapt`, `prompt` and `tune` share: their options, the screen, and how they end."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.defaults import repeatable, run_folder
from sapwood.commands.journal import Journal
from sapwood.commands.wording import reader_language, report_language, say
from sapwood.errors import ConfigError, ResourceError
from sapwood.files import told, write_json
from sapwood.translation import spoken

if TYPE_CHECKING:
    from sapwood.interfaces import Event

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--task", help="Kind of task: see `sapwood tasks`."
                 "  [default: guessed from the columns]"),
    click.option("--model", "-m", default="smollm2-135m", show_default=True,
                 help="Base: a name, hub id, folder or .gguf file."),
    click.option("--encoder", help="Small encoder beside it; 'none' for none."
                 "  [default: minilm-l6 if it is here and the text is not Chinese]"),
    click.option("--budget", default="10m", show_default=True, help="Time to spend: 90s, 10m, 1h."),
    click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder to write."),
    click.option("--test", help="Test file, read once at the end.  [default: from DATA]"),
    click.option("--dev", help="Development file.  [default: from DATA]"),
    click.option("--text", metavar="COL", help="Column of the text."),
    click.option("--label", metavar="COL", help="Column of the label."),
    click.option("--oos", metavar="LABEL", default="", help="Label that means none of the others."
                 "  [default: found by its name, such as oos or other]"),
    click.option("--limit", type=click.IntRange(min=2), help="Most training rows."),
    click.option("--max-length", type=click.IntRange(min=8), default=256, show_default=True,
                 help="Most tokens of one text."),
    click.option("--instruction", help="Words that open the prompt."),
    click.option("--facts", metavar="PATH", help="Knowledge graph or documents: what they say of a "
                 "text is put before it."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--epochs", type=click.FloatRange(min=0, min_open=True),
                 help="Passes over the data.  [default: what the budget allows, at most 3]"),
    click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True),
                 help="[default: what suits the method]"),
    click.option("--rank", type=click.IntRange(min=1), help="LoRA's rank.  [default: 8]"),
    click.option("--scope", type=click.Choice(["suffix", "all"]), default="suffix",
                 show_default=True, help="Where LoRA under a context acts."),
    click.option("--checkpointing", is_flag=True,
                 help="Train with less memory: activations are computed twice."),
    click.option("--engine", type=click.Choice(["torch", "tensorflow"]), default="torch",
                 show_default=True, help="What computes losses and gradients."),
    click.option("--xla", is_flag=True, help="Compile TensorFlow's graphs with XLA."),
    click.option("--max-bytes", type=click.IntRange(min=1), help="Largest adaptation."),
    click.option("--max-ms", type=click.FloatRange(min=0), help="Most milliseconds a query."),
    click.option("--device", default="auto", show_default=True),
    click.option("--dtype", default="auto", show_default=True,
                 help="auto, float32, bfloat16 or float16."),
    click.option("--weights", type=click.Choice(["full", "int8", "int4"]), default="full",
                 show_default=True, help="Keep the base's matrices in fewer bits."),
    click.option("--trust-remote-code", default="", metavar="NAME",
                 help="The one model whose own code may run."),
    click.option("--fresh", is_flag=True, help="Forget an earlier run in OUT."),
    click.option("--events", type=click.Path(path_type=Path),
                 help="Append each event to this file, a JSON line each."),
    click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of the report."),
    click.option("--json", "as_json", is_flag=True, help="Print report.json on stdout."),
)  # fmt: skip


def options(function: Any) -> Any:
    """Add the options of a run to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def run(
    data: str, *, only: tuple[str, ...], verb: str, prompting: Any = None, **given: Any
) -> None:
    """Run `adapt` over `only` these candidate families, show it, and write the report."""
    with Journal(given.pop("events")) as journal:
        _run(data, only, verb, prompting, given, journal)


def _run(
    data: str,
    only: tuple[str, ...],
    verb: str,
    prompting: Any,
    given: dict[str, Any],
    journal: Journal,
) -> None:
    from sapwood.tasks.readers import find_files

    _check(given)
    given["lang"] = report_language(given["lang"])
    train = find_files(data)["train"]  # a missing file is told before torch, which takes seconds
    given["task"] = given["task"] or _guessed(str(train), given)
    from sapwood.launch import choose_runtime, raise_malloc_thresholds
    from sapwood.report import model_card, terminal_table, verdict, write_html
    from sapwood.search.adapt import adapt

    raise_malloc_thresholds()
    job = _job(data, only, verb, given)
    job = job if prompting is None else replace(job, prompting=prompting)
    _spare(job.out)
    runtime = choose_runtime(given["device"], given["dtype"], given["weights"])
    screen = Screen(quiet=given["as_json"], lang=given["lang"], journal=journal)
    with _forgetting(job.out / "run", given["fresh"]):
        events = adapt(
            job, runtime, card=model_card, trust_remote_code=given["trust_remote_code"],
            oos=given.get("oos", ""),
        )  # fmt: skip
        report = screen.follow(events)
    if report["recommended"] is None:
        raise ResourceError(
            "E-RESOURCE-014",
            f"No candidate finished, so {job.out} holds no adaptation.",
            details=[f"{c['name']} {c['status']}: {c['why']}" for c in report["candidates"]],
            fix="a larger --budget, or looser --max-ms and --max-bytes, and another --out",
        )
    if given["lang"]:  # what reads the report later speaks the language asked for, too
        report |= {"language": given["lang"], "verdict": verdict(report, given["lang"])[0]}
        write_json(job.out / "report.json", report)
    html = job.out / "report.html"
    write_html(report, html)
    if given["as_json"]:
        click.echo(json.dumps(report, ensure_ascii=False))
        return
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(terminal_table(report, encoding=encoding, lang=given["lang"]))
    spoken = reader_language(given["lang"])
    report_line = say(spoken, "run_report", path=html)
    click.echo(
        f"\n{report_line}\n{say(spoken, 'run_adaptation', path=job.out / 'adaptation')}", err=True
    )
    click.echo(say(spoken, "run_next", path=job.out), err=True)


def _check(given: dict[str, Any]) -> None:
    """Raise ConfigError for settings that click cannot judge."""
    from sapwood.tasks.structured import task_named

    if given["task"]:
        task_named(given["task"])
    for name in ("epochs", "learning_rate", "max_ms"):
        if given[name] is not None and not math.isfinite(given[name]):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(
                "E-CONFIG-057", f"{flag} is {given[name]}, not a number.", fix=f"{flag} NUMBER"
            )


def _named(given: dict[str, Any]) -> dict[str, str]:
    """Return the columns that were named, by role."""
    return {role: given[role] for role in ("text", "label") if given[role]}


def _guessed(train: str, given: dict[str, Any]) -> str:
    """Return the task that the columns and first rows fit, and say so unless it is the usual one.

    Raises ConfigError (E-CONFIG-185) where they fit several as well.
    """
    from sapwood.tasks.structured import choose_guess, guess_source

    guesses = guess_source(train, _named(given))
    if not guesses:
        return "classification"  # whose reader says which columns it looked for
    best = choose_guess(guesses)
    if best is None:
        raise ConfigError(
            "E-CONFIG-185",
            f"{Path(train).name} may be for several tasks; name the one you mean.",
            details=[f"{g.task}: {g.why}" for g in guesses if 2 * g.weight >= guesses[0].weight],
            fix=" or ".join(f"--task {guess.task}" for guess in guesses[:2]),
        )
    lang = reader_language(given["lang"])
    other = guesses[0] if guesses[0] is not best else None
    if best.task != "classification" or other is not None:
        why = spoken(best.why, lang)
        click.echo(say(lang, "guessed_task", task=best.task, why=why), err=True)
    if other is not None:
        why = spoken(other.why, lang)
        click.echo(say(lang, "guessed_other", other=other.task, why=why), err=True)
    return best.task


def _spare(out: Path) -> None:
    """Refuse a folder whose `adaptation` or `run` someone else made, before anything is written."""
    for name, mark in (("adaptation", "adaptation.json"), ("run", "job.json")):
        folder = out / name
        held = [p for p in folder.iterdir() if p.name[0] != "."] if folder.is_dir() else []
        if held and not (folder / mark).exists():
            raise ConfigError(
                "E-CONFIG-058",
                f"{folder} exists and was not made by Sapwood; it would be replaced.",
                fix="choose another folder with --out",
            )


@contextmanager
def _forgetting(folder: Path, fresh: bool) -> Iterator[None]:
    """With `fresh`, set an earlier run aside; it comes back when the new one does not begin."""
    aside = folder.with_name(f".{folder.name}.before")
    if fresh and folder.exists():
        with told(folder):
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
    try:
        yield
    finally:
        if aside.exists() and not (folder / "job.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)


def _job(data: str, only: tuple[str, ...], verb: str, given: dict[str, Any]) -> Any:
    from sapwood.search.job import Job, Tuning, parse_budget

    return Job(
        data=data,
        out=given["out"] or run_folder(verb, data),
        model=given["model"],
        task=given["task"],
        columns=_named(given),
        encoder=_encoder(given["encoder"], data, given),
        seconds=parse_budget(given["budget"]),
        only=only,
        tuning=Tuning(
            epochs=given["epochs"],
            learning_rate=given["learning_rate"],
            rank=given["rank"],
            scope=given["scope"],
            checkpointing=given["checkpointing"],
            trials=given.get("trials", 0),
            engine=given["engine"],
            xla=given["xla"],
        ),
        command=shlex.join(["sapwood", *repeatable(click.get_current_context())]),
        **{
            key: given[key]
            for key in (
                "dev", "test", "seed", "limit", "max_length", "instruction",
                "facts", "max_bytes", "max_ms",
            )
        },
    )  # fmt: skip


def _encoder(name: str | None, data: str, given: dict[str, Any]) -> str | None:
    """Return the encoder to use: the one named, or minilm-l6 where it is here and fits."""
    from sapwood.models.store import BASES, installed

    if name == "none":
        return None
    if name:
        return name
    if "minilm-l6" not in BASES or "minilm-l6" not in installed():
        return None
    from sapwood.context.template import is_chinese
    from sapwood.tasks.readers import find_files
    from sapwood.tasks.structured import read_task

    head = read_task(find_files(data)["train"], given["task"], columns=_named(given)).examples
    return None if is_chinese(e.text for e in head[:200]) else "minilm-l6"


class Screen:
    """Show events on stderr: a live bar on a terminal, plain lines elsewhere."""

    def __init__(
        self, *, quiet: bool = False, lang: str | None = None, journal: Journal | None = None
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description:<22}"), BarColumn(bar_width=16), MofNCompleteColumn(),
            Remaining(compact=True), TextColumn("{task.fields[note]}"),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip
        self.task: Any = None
        self.stopping = False
        self.lang = lang
        self.journal = journal or Journal(None)

    def follow(self, events: Generator[Event, None, dict[str, Any]]) -> dict[str, Any]:
        """Run a generator of events to its end and return its result; Ctrl-C ends it cleanly."""
        before = signal.signal(signal.SIGINT, self._stop)
        try:
            with self.bar:
                while True:
                    try:
                        event = next(events)
                    except StopIteration as end:
                        result: dict[str, Any] = end.value
                        return result
                    self.journal.event(event)
                    self._show(event)
                    if self.stopping or self.journal.asked_to_stop:
                        events.close()
                        break
        finally:
            signal.signal(signal.SIGINT, before)
        click.echo(say(reader_language(self.lang), "run_stopped"), err=True)
        sys.exit(130)

    def _stop(self, *_: Any) -> None:
        if self.stopping:  # a second Ctrl-C does not wait for the step to end
            raise KeyboardInterrupt
        self.stopping = True

    def _show(self, event: Event) -> None:
        if event.kind in ("start", "end") and self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None
        if event.kind == "progress":
            if self.task is None:
                self.task = self.bar.add_task(event.candidate, note="")
            self.bar.update(
                self.task, description=event.candidate, completed=event.done,
                total=event.total, note=self._said(event.note),
            )  # fmt: skip
        elif event.kind in ("note", "end"):
            head = f"{event.candidate:<22} " if event.kind == "end" else ""
            self.console.print(head + self._said(event.note), markup=False)

    def _said(self, note: str) -> str:
        return spoken(note, reader_language(self.lang))
