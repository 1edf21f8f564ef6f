"""`sapwood render-config [COMMAND]`: every setting as it would be used, and where it is from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from sapwood.commands.defaults import CONFIG, SET, Filled, filled, taken, typed
from sapwood.commands.settings import (
    Setting,
    as_toml,
    default_of,
    entries,
    judged,
)
from sapwood.commands.wording import reader_language, say
from sapwood.errors import ConfigError
from sapwood.registry import did_you_mean

ORIGIN = 36  # the column where the origin of a value stands, behind most values


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A setting as it would be used: `value` None where nothing was said and the data decides.

    `origin`: "default", "command line" or the path of the settings file.
    """

    setting: Setting
    value: Any
    origin: str


@click.command(name="render-config", context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="[COMMAND [ARGUMENTS]]", nargs=-1, type=click.UNPROCESSED)
@click.option("--config", CONFIG, metavar="FILE",
              help="Settings file.  [default: ./sapwood.toml where it is there]")  # fmt: skip
@click.option("--set", SET, metavar="SECTION.KEY=VALUE", multiple=True,
              help="One setting, as a settings file writes it; may be repeated.")  # fmt: skip
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of the comments.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    words: tuple[str, ...],
    *,
    config: str | None,
    overrides: tuple[str, ...],
    lang: str | None,
    as_json: bool,
) -> None:
    """Print every setting with its value and where that comes from, as a valid settings file.

    With COMMAND only the settings that it takes; what follows it counts as its command line.
    """
    found = filled(config, overrides, look=True)
    spoken = reader_language(lang or found.values.get("run.lang"))
    names, said = _of_command(words) if words else (list(entries()), {})
    if found.path is not None:
        click.echo(say(spoken, "found_file", path=found.path), err=True)
    for note in found.notes:
        click.echo(note, err=True)
    resolved = [resolve(entries()[name], found, said) for name in names]
    if as_json:
        content: dict[str, dict[str, Any]] = {}
        for one in resolved:
            row = {"value": listed(one.setting, one.value), "from": one.origin}
            content.setdefault(one.setting.section, {})[one.setting.key] = row
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    click.echo(rendered(resolved, spoken), nl=False)


def _of_command(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return (the settings a command takes, those its own arguments say).

    Raises ConfigError: E-CONFIG-186 no such command, 187 arguments it does not take.
    """
    from sapwood.commands import COMMANDS
    from sapwood.commands.settings import attribute

    path, rest = words[0], list(words[1:])
    if path not in COMMANDS:
        hint = did_you_mean(path, COMMANDS)
        fix = f"name one of: {', '.join(COMMANDS)}"
        raise ConfigError("E-CONFIG-186", f"No such command '{path}'.{hint}", fix=fix)
    command: click.Command = attribute(COMMANDS[path])
    if isinstance(command, click.Group):
        if not rest or rest[0] not in command.commands:
            known = ", ".join(f"{path} {name}" for name in command.commands)
            raise ConfigError("E-CONFIG-186", f"'{path}' has commands.", fix=f"name one: {known}")
        path, command, rest = f"{path} {rest[0]}", command.commands[rest[0]], rest[1:]
    given = typed(command, rest)
    if given is None:
        raise ConfigError(
            "E-CONFIG-187", f"sapwood {path} does not take: {' '.join(rest)}",
            fix=f"see sapwood {path} --help",
        )  # fmt: skip
    takes = taken(path, command)
    said: dict[str, Any] = {}
    for setting, parameter in takes:
        if parameter.name in given:
            raw = given[parameter.name]
            value = parameter.type.convert(raw, parameter, None)
            plain = value if isinstance(value, bool | int | float) else str(raw)
            said[setting.name] = judged(setting.name, plain)[0]
    return [setting.name for setting, _ in takes], said


def resolve(setting: Setting, found: Filled, said: Mapping[str, Any]) -> Resolved:
    """Return what a setting comes to: the command line wins over the file, both over defaults."""
    for values, origin in (
        (said, "command line"),
        (found.overrides, "command line"),
        (found.file, str(found.path)),
    ):
        if setting.name in values:
            return Resolved(setting=setting, value=values[setting.name], origin=origin)
    return Resolved(setting=setting, value=default_of(setting), origin="default")


def listed(setting: Setting, value: Any) -> Any:
    """Return a value as a file writes it: what may be several as a list.

    >>> listed(entries()["prompt.shots"], "4,16")
    [4, 16]
    """
    if not setting.many or not isinstance(value, str):
        return value
    parts = value.split(",")
    return [int(part) if part.isdecimal() else part for part in parts]


def rendered(resolved: Sequence[Resolved], lang: str) -> str:
    """Return settings as TOML that is itself a settings file, with comments in `lang`."""
    lines = [f"# {say(lang, 'resolved_head')}"]
    section = ""
    for one in resolved:
        setting = one.setting
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"]
        if one.value is None:
            words = say(lang, "source_unset", unset=(setting.unset or {}).get(lang, "?"))
            lines.append(f"# {setting.key}: {words}")
            continue
        entry = f"{setting.key} = {as_toml(listed(setting, one.value))}"
        known = {"default": "source_default", "command line": "source_command"}
        origin = say(lang, known[one.origin]) if one.origin in known else one.origin
        lines.append(_beside(entry, origin, "# "))
    return "\n".join(lines) + "\n"


def _beside(entry: str, comment: str, mark: str) -> str:
    from rich.cells import cell_len

    return entry + " " * max(2, ORIGIN - cell_len(entry)) + mark + comment
