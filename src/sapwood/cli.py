"""The command line: one verb a file in `commands`, loaded when it is called."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from sapwood.commands import ABOUT, COMMANDS
from sapwood.config import VERSION
from sapwood.errors import ConfigError, ResourceError, SapwoodError
from sapwood.registry import did_you_mean


class Verbs(click.Group):
    """A group that knows its verbs by name and imports a verb's module on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, importing it, or None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        from sapwood.commands.defaults import with_settings

        module, attribute = COMMANDS[cmd_name].split(":")
        return with_settings(getattr(import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest verb where there is none of this name; fill in a settings file."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS)
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and command is not None:
            from sapwood.commands.defaults import defaults

            ctx.default_map = defaults(name, command, rest)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their lines from a table, so that help imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, ABOUT[name]) for name in COMMANDS])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="sapwood")
def root() -> None:
    """Prompt a language model, tune it lightly, or both: measured on your data.

    Start with: sapwood adapt reviews.csv --budget 10m
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one message and an exit code, never a traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        root.main(args=given, prog_name="sapwood", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        told = _as_sapwood(error)
        _tell(told, given)
        sys.exit(told.exit_code)


def _as_sapwood(error: Exception) -> SapwoodError:
    """Return any error as a message; what nobody foresaw keeps its traceback in a file."""
    if isinstance(error, SapwoodError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "sapwood"
        what = " ".join(error.format_message().split())
        return ConfigError("E-CONFIG-002", what, fix=f"see {path} --help")
    if isinstance(error, OSError):
        return ResourceError(
            "E-RESOURCE-004",
            f"The system refused a file: {error}.",
            fix="check that the path exists, may be used, and has space",
        )
    return _unforeseen(error)


def _unforeseen(error: Exception) -> SapwoodError:
    import tempfile
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" in {Path(last[0].filename).name}, line {last[0].lineno}" if last else ""
    with tempfile.NamedTemporaryFile(
        "w", prefix="sapwood-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return SapwoodError(
        "E-INTERNAL-001",
        f"Sapwood met something it does not foresee{where}: {type(error).__name__}: {error}.",
        fix=f"please report it, with {file.name}; what was finished before is kept",
    )


def _tell(error: SapwoodError, given: Sequence[str]) -> None:
    """Print an error in the reader's language; as JSON, which programs read, in English."""
    from sapwood.commands.wording import reader_language
    from sapwood.translation import in_language

    if "--json" in given:
        content: dict[str, Any] = error.to_json()
        click.echo(json.dumps(content, ensure_ascii=False))
    words = [part for word in given for part in word.split("=", 1)]
    asked = next((then for word, then in pairwise(words) if word == "--lang"), None)
    click.echo(str(in_language(error, reader_language(asked))), err=True)
