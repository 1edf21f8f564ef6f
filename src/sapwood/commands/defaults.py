"""What the command line leaves open, a settings file fills: as defaults, before click parses."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from sapwood.commands.settings import FOUND, RUNS, Setting, entries, read_file, read_overrides
from sapwood.commands.wording import reader_language, say, tell
from sapwood.errors import ConfigError

CONFIG, SET = "config", "overrides"  # the parameters that every command has


def _added() -> list[click.Option]:
    return [
        click.Option(
            ["--config", CONFIG], metavar="FILE", expose_value=False,
            help=f"Settings file.  [default: ./{FOUND} where its DATA or DIR is not given]",
        ),
        click.Option(
            ["--set", SET], metavar="SECTION.KEY=VALUE", multiple=True, expose_value=False,
            help="One setting, as a settings file writes it; may be repeated.",
        ),
    ]  # fmt: skip


def with_settings(command: click.Command) -> click.Command:
    """Return a command that also takes --config and --set, and so do those inside it."""
    made = copy.copy(command)
    if isinstance(made, click.Group):
        made.commands = {name: with_settings(inner) for name, inner in made.commands.items()}
        return made
    there = {flag for parameter in command.params for flag in parameter.opts}
    made.params = [*command.params, *(o for o in _added() if not there & set(o.opts))]
    return made


@dataclass(frozen=True, kw_only=True)
class Filled:
    """Settings that were given: value by dotted name, from the file at `path` and from --set."""

    file: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """Return what counts: the command line wins."""
        return {**self.file, **self.overrides}


def filled(config: str | None, overrides: Sequence[str], *, look: bool) -> Filled:
    """Read the settings file named, or with `look` the one that is found, and what --set says.

    Raises ConfigError E-CONFIG-180 to 183, see `settings`.
    """
    here = Path(FOUND)
    path = Path(config).expanduser() if config else here if look and here.is_file() else None
    file, notes = read_file(path) if path is not None else ({}, [])
    given, more = read_overrides(overrides)
    return Filled(file=file, overrides=given, path=path, notes=(*notes, *more))


def defaults(name: str, command: click.Command, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the default map of the command `name` and what is inside it, for these arguments.

    Says on stderr which file is used. Raises ConfigError as `filled`, and E-CONFIG-184 for a
    setting of --set that the command does not take.
    """
    path, rest = [name], list(arguments)
    while isinstance(command, click.Group):
        if not rest or rest[0] not in command.commands:
            return {}
        command = command.commands[rest[0]]
        path.append(rest.pop(0))
    given = typed(command, rest)
    own = any(p.name == CONFIG and p.expose_value for p in command.params)  # it reads files itself
    if given is None or own:
        return {}
    takes = taken(" ".join(path), command)
    open_ends = [s for s, p in takes if isinstance(p, click.Argument) and p.name not in given]
    found = filled(given.get(CONFIG), given.get(SET, ()), look=bool(open_ends))
    _must_be_taken(found.overrides, [s.name for s, _ in takes], " ".join(path))
    values = found.values
    chosen = {str(p.name): values[s.name] for s, p in takes if s.name in values}
    for setting in open_ends:
        if setting.name == "run.out" and "run.out" not in values and "data.train" in values:
            chosen[setting.also[" ".join(path)]] = str(_last_run(values["data.train"]))
    lang = reader_language(given.get("lang") or values.get("run.lang"))
    _tell(found, " ".join(path), {s.name for s, _ in takes}, lang)
    for part in reversed(path):
        chosen = {part: chosen}
    return chosen


def typed(command: click.Command, arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return what is typed, by parameter and unconverted; None where it ends before it begins.

    That is where it cannot be parsed, which click tells later, and where it asks for help.
    """
    context = click.Context(command, info_name=command.name)
    try:
        parsed, left, order = command.make_parser(context).parse_args(list(arguments))
    except click.UsageError:
        return None
    if left or any(parameter.is_eager for parameter in order):
        return None
    names = {p.name for p in order if not isinstance(p, click.Argument)}
    names |= {p.name for p in order if isinstance(parsed.get(p.name), str)}
    names |= {p.name for p in order if p.nargs == -1 and parsed.get(p.name)}
    return {name: parsed[name] for name in parsed if name in names}


def taken(path: str, command: click.Command) -> list[tuple[Setting, click.Parameter]]:
    """Return the settings that a command takes, each with the parameter it fills."""
    pairs = ((setting, setting.parameter(path, command)) for setting in entries().values())
    return [(setting, parameter) for setting, parameter in pairs if parameter is not None]


def _must_be_taken(given: Mapping[str, Any], takes: Sequence[str], path: str) -> None:
    wrong = [name for name in given if name not in takes]
    if wrong:
        raise ConfigError(
            "E-CONFIG-184",
            f"sapwood {path} takes no {', '.join(wrong)}.",
            fix=f"it takes {', '.join(takes) or 'no settings'}",
        )


def _tell(found: Filled, path: str, takes: set[str], lang: str) -> None:
    if found.path is not None:
        click.echo(say(lang, "found_file", path=found.path), err=True)
    for note in found.notes:
        tell(note, lang)
    unused = [n for n in found.file if n not in takes and path in RUNS and path in entries()[n].by]
    if unused:
        click.echo(say(lang, "not_used", command=path, listed=", ".join(unused)), err=True)


def run_folder(verb: str, data: str) -> Path:
    """Return the folder that a command writes where none is named.

    >>> str(run_folder("adapt", "data/reviews.csv[:500]"))
    'runs/adapt-reviews'
    """
    return Path("runs") / f"{verb}-{Path(data.split('[', maxsplit=1)[0]).stem or 'data'}"


def _last_run(data: str) -> Path:
    """Return the folder of the first of adapt, tune and prompt that was run on `data`."""
    folders = [run_folder(verb, data) for verb in ("adapt", "tune", "prompt")]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def repeatable(context: click.Context) -> list[str]:
    """Return the arguments of this process with what a settings file added written out."""
    written: list[str] = []
    front: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        source = context.get_parameter_source(parameter.name or "")
        if source is not click.core.ParameterSource.DEFAULT_MAP or value is None:
            continue
        if isinstance(parameter, click.Argument):
            front.append(str(value))
        elif isinstance(value, bool):
            written += [parameter.opts[0]] if value else []
        else:
            written += [parameter.opts[0], str(value)]
    own = _without(sys.argv[1:], ("--config", "--set", "--events"))
    return [*own[:1], *front, *own[1:], *written]


def _without(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return arguments without these options and their values."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument.partition("=")[0] in flags:
            skip = not skip and argument in flags
            continue
        kept.append(argument)
    return kept
