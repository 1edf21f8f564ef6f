"""What a settings file may hold, what each entry accepts, and every mistake of a file at once."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from sapwood.commands import COMMANDS
from sapwood.errors import ConfigError, SapwoodError
from sapwood.registry import did_you_mean

FOUND = "sapwood.toml"  # the file that is found by itself in the folder of the command
RUNS = ("adapt", "prompt", "tune")  # the commands whose options a settings file is made of


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One entry of a settings file, as settings.toml describes it.

    `option`: the parameter that it fills of the commands `by`, adapt, prompt and tune unless it
    names others; the first that has it says what is accepted. `names`: what other tools call it;
    `also`: parameter by name of another command; `everywhere`: any command with a parameter of
    this name takes it; `known`: tables of the values accepted, `check`: a function that raises
    SapwoodError for others, both as "module:attribute"; `about`, `unset`: words by language;
    `example`: a value, where there is no default.
    """

    section: str
    key: str
    option: str
    by: tuple[str, ...] = RUNS
    names: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)
    everywhere: bool = False
    known: tuple[str, ...] = ()
    check: str = ""
    about: Mapping[str, str]
    unset: Mapping[str, str] | None = None
    example: Any = None

    @property
    def name(self) -> str:
        """Return the dotted name, as in ``tune.rank``."""
        return f"{self.section}.{self.key}"

    @property
    def many(self) -> bool:
        """Return whether it may hold a list."""
        return isinstance(self.example, list)

    def parameter(self, path: str, command: click.Command) -> click.Parameter | None:
        """Return the parameter of `command` that this fills; `path` is "tune" or "data show"."""
        wanted = self.also.get(path)
        if wanted is None and (path in self.by or self.everywhere):
            wanted = self.option
        return next((p for p in command.params if p.name == wanted), None)


@cache
def entries() -> dict[str, Setting]:
    """Return every setting by its dotted name, in the order in which they are written."""
    told = tomllib.loads(files("sapwood.commands").joinpath("settings.toml").read_text("utf-8"))
    found = {}
    for section, keys in told.items():
        for key, row in keys.items():
            row = {"option": key, **row}
            about = {"en": row.pop("en"), "zh": row.pop("zh")}
            for name in {"names", "known", "by"} & set(row):
                row[name] = tuple(row[name])
            found[f"{section}.{key}"] = Setting(section=section, key=key, about=about, **row)
    return found


@cache
def declared(name: str) -> click.Parameter:
    """Return the parameter that says what a setting accepts."""
    setting = entries()[name]
    for verb in setting.by:
        found = setting.parameter(verb, attribute(COMMANDS[verb]))
        if found is not None:
            return found
    raise KeyError(name)


def read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return (value by dotted name, notes on other names) of a settings file.

    Raises ConfigError: E-CONFIG-180 it cannot be read, 181 it is no TOML, 182 with every entry
    that is unknown or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "E-CONFIG-180", f"{path} is not UTF-8: {error.reason}", fix="save it as UTF-8"
        ) from None
    except OSError as error:
        beside = path.parent if path.parent.is_dir() else Path()
        near = did_you_mean(path.name, [p.name for p in beside.glob("*.toml")])
        raise ConfigError(
            "E-CONFIG-180",
            f"Cannot read the settings file {path}: {error.strerror or error}.{near}",
            fix="sapwood init DATA writes one",
        ) from None
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            "E-CONFIG-181", f"{path} is no valid TOML: {error}",
            fix='write entries as key = value under [section], and words in "quotes"',
        ) from None  # fmt: skip
    values, notes, problems = _read(told, text)
    if problems:
        raise ConfigError(
            "E-CONFIG-182", f"{path}: {_count(problems)}", details=problems,
            fix="sapwood render-config shows every setting with its value",
        )  # fmt: skip
    return values, [f"{path}: {note}" for note in notes]


def _count(problems: Sequence[str]) -> str:
    return "1 setting is wrong" if len(problems) == 1 else f"{len(problems)} settings are wrong"


def _read(told: Mapping[str, Any], text: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return (values, notes, problems) of a parsed file; `text` tells on which lines they are."""
    values: dict[str, Any] = {}
    notes: list[str] = []
    problems: list[str] = []
    sections = list(dict.fromkeys(setting.section for setting in entries().values()))
    for outer, content in told.items():
        if not isinstance(content, dict):
            where = _line(text, "", outer)
            problems.append(f"{where}{outer} stands outside any section.{_belongs(outer, '')}")
            continue
        if _plain(outer) not in sections:
            at = _line(text, outer, "")
            hint = did_you_mean(outer, sections) or f" Sections: {', '.join(sections)}"
            problems.append(f"{at}section [{outer}] is unknown.{hint}")
            continue
        for key, value in content.items():
            where = _line(text, outer, key)
            name, note, problem = named(outer, key)
            if name is not None and not problem:
                value, problem = judged(name, value)
            if name in values and not problem:
                problem = f"{name} is given twice, here as '{key}'"
            problems += [where + problem] if problem else []
            notes += [note] if note else []
            if name is not None and not problem:
                values[name] = value
    return values, notes, problems


def named(section: str, key: str) -> tuple[str | None, str, str]:
    """Return (dotted name or None, note on another tool's name, problem) of one entry.

    >>> named("tune", "learning-rate")[0], named("tune", "lr")
    ('tune.learning_rate', ('tune.learning_rate', 'tune.lr is read as tune.learning_rate', ''))
    """
    inside, plain = _plain(section), _plain(key)
    if f"{inside}.{plain}" in entries():
        return f"{inside}.{plain}", "", ""
    for setting in entries().values():
        if setting.section == inside and plain in setting.names:
            return setting.name, f"{section}.{key} is read as {setting.name}", ""
    return None, "", f"[{section}] {key} is unknown.{_belongs(key, inside)}"


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _belongs(key: str, section: str) -> str:
    """Return where a key that is unknown in `section` is known, or what is spelt like it."""
    plain = _plain(key)
    for setting in entries().values():
        if plain == setting.key or plain in setting.names:
            return f" Did you mean '{setting.key}' in [{setting.section}]?"
    spelt = {name: s for s in entries().values() for name in (*s.names, s.key)}
    here = {name: s for name, s in spelt.items() if s.section == section}
    for names in (here, spelt):
        near = re.search("'(.+)'", did_you_mean(plain, names))
        if near:
            found = names[near[1]]
            place = "" if found.section == section else f" in [{found.section}]"
            return f" Did you mean '{found.key}'{place}?"
    keys = [s.key for s in entries().values() if s.section == section]
    return f" Known here: {', '.join(keys)}" if keys else ""


def judged(name: str, value: Any) -> tuple[Any, str]:
    """Return (the value as its option takes it, what is wrong with it or "")."""
    setting, parameter = entries()[name], declared(name)
    if isinstance(value, list) and setting.many and value:
        parts = value
    elif isinstance(value, str) and setting.many and not getattr(parameter, "multiple", False):
        parts = [part.strip() for part in value.split(",") if part.strip()]
    else:
        parts = [value]
    found = []
    for part in parts:
        fits, wanted = _fits(setting, parameter, part)
        if not fits:
            also = " or a list of them" if setting.many else ""
            return value, f"{name} is {as_toml(value)}, not {wanted}{also}"
        said = str(part) if isinstance(parameter.type, _WORDS) else part
        problem = _refused(setting, parameter, said)
        if problem:
            return value, f"{name} is {as_toml(value)}{problem}"
        found.append(said)
    if getattr(parameter, "multiple", False):
        return found, ""
    return (",".join(found) if setting.many else found[0]), ""


_WORDS = (click.types.StringParamType, click.Path, click.Choice)


def _fits(setting: Setting, parameter: click.Parameter, value: Any) -> tuple[bool, str]:
    """Return whether a value has the type of a parameter, and that type in words."""
    if setting.many and isinstance(setting.example[0], int):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return whole or (isinstance(value, str) and value.isdecimal()), "a whole number"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = parameter.type
    if isinstance(kind, click.types.BoolParamType):
        return isinstance(value, bool), "true or false"
    if isinstance(kind, click.types.IntParamType):
        return number and float(value).is_integer(), "a whole number"
    if isinstance(kind, click.types.FloatParamType):
        return number, "a number"
    if isinstance(kind, click.Choice):
        return isinstance(value, str), f"one of {', '.join(map(str, kind.choices))}"
    return isinstance(value, str) or number, "words in quotes"


def _refused(setting: Setting, parameter: click.Parameter, value: Any) -> str:
    """Return why an option would refuse a value of the right type, to put behind it, or ""."""
    try:
        parameter.type.convert(value, parameter, None)
    except click.BadParameter as error:
        choices = getattr(parameter.type, "choices", ())
        words = re.sub(r"^.* is not", "not", error.message).rstrip(".")
        return f", {words}.{did_you_mean(str(value), choices)}"
    known = list(dict.fromkeys(name for table in setting.known for name in attribute(table)))
    if known and _plain(str(value)) not in {_plain(name) for name in known}:
        listed = ", ".join(attribute(setting.known[0]))
        return f", unknown.{did_you_mean(str(value), known)} Known: {listed}"
    if setting.check:
        try:
            attribute(setting.check)(value)
        except SapwoodError as error:
            return f": {error.what.rstrip('.')}" + (f"; {error.fix}" if error.fix else "")
    return ""


def attribute(place: str) -> Any:
    """Return what "module:attribute" names."""
    module, name = place.split(":")
    return getattr(import_module(module), name)


def _line(text: str, section: str, key: str) -> str:
    """Return ``line 7: `` for the line of an entry, or of a section's head; "" if not found."""
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        head = re.match(r"\s*\[\s*[\"']?(.+?)[\"']?\s*\]\s*(#.*)?$", line)
        if head:
            inside = head[1]
            if inside == section and not key:
                return f"line {number}: "
        found = re.match(r"\s*[\"']?([^\"'=#]+?)[\"']?\s*=", line)
        if key and found and found[1] in (key, f"{section}.{key}") and inside in (section, ""):
            return f"line {number}: "
    return ""


def read_overrides(pairs: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return (value by dotted name, notes) of ``section.key=value`` from the command line.

    A value is TOML; what is none is taken as words. Raises ConfigError E-CONFIG-183 with every
    pair that is unknown or wrong.
    """
    values: dict[str, Any] = {}
    notes: list[str] = []
    problems: list[str] = []
    for pair in pairs:
        dotted, equals, text = pair.partition("=")
        section, dot, key = dotted.strip().partition(".")
        if not equals or not dot:
            known = equals and any(s.key == _plain(section) for s in entries().values())
            hint = _belongs(section, "") if known else ""
            problems.append(f"'{pair}' is not SECTION.KEY=VALUE.{hint}")
            continue
        name, note, problem = named(section, key)
        if name is not None:
            values[name], problem = judged(name, _value(text.strip()))
        problems += [problem] if problem else []
        notes += [note] if note else []
    if problems:
        raise ConfigError(
            "E-CONFIG-183", "--set cannot be read.", details=problems,
            fix="--set tune.rank=4; sapwood render-config shows every setting",
        )  # fmt: skip
    return values, notes


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def as_toml(value: Any) -> str:
    r"""Return a value as TOML writes it.

    >>> as_toml("a\tb"), as_toml(1e-4), as_toml([4, 16]), as_toml(True)
    ('"a\\tb"', '0.0001', '[4, 16]', 'true')
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    quoted = json.dumps(str(value), ensure_ascii=False)  # JSON's escapes are TOML's, but for DEL
    return quoted.replace("\x7f", "\\u007f")


def by_section() -> Iterator[tuple[str, list[Setting]]]:
    """Yield (section, its settings), in the order in which they are written."""
    found: dict[str, list[Setting]] = {}
    for setting in entries().values():
        found.setdefault(setting.section, []).append(setting)
    yield from found.items()


def default_of(setting: Setting) -> Any:
    """Return what a setting is where nothing is said, None where that depends on the data."""
    parameter = declared(setting.name)
    value = parameter.get_default(click.Context(click.Command("none")), call=False)
    flag = isinstance(parameter, click.Option) and parameter.is_flag
    if setting.unset is not None or value is None or not isinstance(value, str | int | float):
        return False if flag else None
    return value
