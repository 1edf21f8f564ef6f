"""`sapwood chat` with a language model that was never taught to answer: each line is continued."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.commands.decoding import TEMPERATURE, TOP_P, flag, sampling
from sapwood.errors import ConfigError, SapwoodError

if TYPE_CHECKING:
    from sapwood.models.choosing import Sampling
    from sapwood.models.language import LanguageModel

_HELP = """Each line is continued by the model; nothing is kept from line to line.
/help     show this
/exit     leave (Ctrl-D does too); Ctrl-C stops a continuation"""
_TOKENS = 64  # of a continuation: a few lines


def continues(folder: Path | None, model: str | None) -> Path | None:
    """Return the language model to continue lines with, None where there is a conversation.

    A folder that is a language model, or a model of a family that holds no conversations.
    """
    from sapwood.commands.language import is_language

    if folder is not None:
        return folder if is_language(folder) and model is None else None
    path = Path(model or "").expanduser()
    if model is None or not is_language(path):
        return None
    if path.is_file():
        return path if path.name.endswith((".arpa", ".arpa.gz")) else None
    config = path / "config.json"
    try:
        kind = json.loads(config.read_text("utf-8")).get("model_type") if path.is_dir() else ""
    except (OSError, ValueError, AttributeError):
        return None
    return path if kind in ("sapwood_ngram", "sapwood_rnn") else None


def talk(path: Path, given: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Continue each of the lines.

    Raises ConfigError (E-CONFIG-223) for options of a conversation.
    """
    from sapwood.commands.language import load
    from sapwood.models.choosing import Sampling

    spoken = [name for name in ("context", "demonstrations", "system") if given.get(name)]
    if spoken:
        raise ConfigError(
            "E-CONFIG-223",
            f"{path} is a language model that continues lines; it holds no conversation.",
            details=[f"{flag(name)} is for conversations" for name in spoken],
            fix="leave them out, or write such words at the beginning of the line",
        )
    way = sampling(given, Sampling(tokens=_TOKENS, temperature=TEMPERATURE, top_p=TOP_P))
    model = load(path, given["device"], given["dtype"])
    if not as_json:
        click.echo(f"{path}, {model.family}: each line is continued. /help says more.", err=True)
    for number, line in enumerate(lines):
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            click.echo(_HELP, err=True)
            continue
        try:
            _continue(model, line, (way, number), as_json=as_json)
        except SapwoodError as error:
            if as_json:
                click.echo(json.dumps(error.to_json(), ensure_ascii=False))
            click.echo(str(error), err=True)


def _continue(model: LanguageModel, line: str, how: tuple[Sampling, int], *, as_json: bool) -> None:
    """Write one continuation as it comes; `how`: settings, and the number of the line."""
    from dataclasses import replace

    way, number = how
    started, said = time.perf_counter(), list[str]()
    pieces = model.streamed(line, replace(way, seed=way.seed + number))
    stopped = False
    try:
        for piece in pieces:
            said.append(piece)
            if not as_json:
                click.echo(piece, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        stopped = True
    if not as_json:
        click.echo(" [stopped]" if stopped else "")
        return
    content = {"message": line, "answer": "".join(said), "stopped": stopped,
               "seconds": round(time.perf_counter() - started, 3)}  # fmt: skip
    click.echo(json.dumps(content, ensure_ascii=False))
