"""`sapwood models`: the bases that need no hub, and what is known of any base."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from sapwood.errors import ConfigError

BYTES_A_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}


@click.group(name="models")
def command() -> None:
    """List, pull and inspect base models."""


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def list_bases(*, as_json: bool) -> None:
    """List the bases of the store and say which are on this machine."""
    from sapwood.models.store import BASES, installed

    here = installed()
    rows = [
        {
            "name": base.name,
            "kind": base.kind,
            "parameters": base.parameters,
            "languages": list(base.languages),
            "licence": base.licence,
            "what": base.what,
            "pulled": base.name in here,
            "bytes": _folder_bytes(here[base.name]) if base.name in here else 0,
        }
        for base in BASES.values()
    ]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    click.echo(
        _table(("name", "kind", "parameters", "languages", "licence", "here"), map(_row, rows))
    )
    click.echo("Any hub id, folder or .gguf file works as --model too.", err=True)
    if len(here) < len(BASES):
        click.echo("Fetch one with: sapwood models pull NAME", err=True)


@command.command(name="pull")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Pull every base of the store.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def pull_bases(names: tuple[str, ...], *, everything: bool, as_json: bool) -> None:
    """Fetch bases, check them and convert them once."""
    from sapwood.models.store import BASES, describe, pull

    if bool(names) == everything:
        raise ConfigError(
            "E-CONFIG-012",
            "Name the bases to pull, or pass --all",
            fix=f"sapwood models pull {next(iter(BASES))}",
        )
    wanted = list(BASES) if everything else list(dict.fromkeys(names))
    for name in wanted:
        describe(name)  # a wrong name stops the command before the first download
    for name in wanted:
        folder = pull(name)
        if as_json:
            done = {"name": name, "folder": str(folder), "bytes": _folder_bytes(folder)}
            click.echo(json.dumps(done))
        else:
            click.echo(f"{name}  {folder}")


@command.command(name="show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def show_base(name: str, *, as_json: bool) -> None:
    """Show one base: config, licence, hash, place, memory. NAME as in --model."""
    from sapwood.models.load import resolve_base
    from sapwood.models.weights import read_tensors, weights_hash

    files = resolve_base(name)
    tensors: dict[str, Any] = {}
    for path in sorted(files.folder.glob("*.safetensors")):
        tensors.update(read_tensors(path))
    parameters = sum(_values(place.shape) for place in tensors.values())
    facts = {
        "name": files.name,
        "kind": files.kind,
        "licence": files.licence,
        "upstream": files.upstream,
        "folder": str(files.folder),
        "sha256": weights_hash(files.folder),
        "parameters": parameters,
        "stored_as": sorted({place.dtype for place in tensors.values()}),
        "memory_bytes": {dtype: parameters * size for dtype, size in BYTES_A_VALUE.items()},
        "config": json.loads((files.folder / "config.json").read_text(encoding="utf-8")),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(_described(facts))


@command.command(name="arpa")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write (.arpa or .arpa.gz), or folder.",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="Folder of the tokenizer whose tokens an ARPA file holds.  [default: words]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def convert_arpa(source: Path, *, out: Path, tokenizer: Path | None, as_json: bool) -> None:
    """Turn an n-gram folder into an ARPA file, or an ARPA file into a folder."""
    from sapwood.models import arpa, ngram
    from sapwood.models.counting import Symbols

    to_file = out.name.endswith((".arpa", ".arpa.gz"))
    if ngram.is_ngram(source) and to_file and tokenizer is None:
        model = ngram.load(source)
        arpa.write_arpa(model, arpa.words_of(ngram.tokenizer_in(source), model.symbols), out)
    elif source.name.endswith((".arpa", ".arpa.gz")) and not to_file:
        parts = ngram.tokenizer_in(tokenizer) if tokenizer else None
        known = arpa.words_of(parts, Symbols.of(parts)) if parts is not None else None
        model, words = arpa.read_arpa(source, known)
        model.save(out, arpa.word_tokenizer(model, words) if parts is None else parts)
    else:
        raise ConfigError(
            "E-CONFIG-224",
            f"{source} cannot be turned into {out}.",
            details=["an n-gram folder becomes an .arpa file, an .arpa file becomes a folder"],
            fix="sapwood models arpa FOLDER --out FILE.arpa   or   FILE.arpa --out FOLDER",
        )
    done = {"out": str(out), "order": model.order, "ngrams": list(model.sizes)}
    if as_json:
        click.echo(json.dumps(done))
        return
    sizes = ", ".join(f"{size:,} {n}-grams" for n, size in enumerate(model.sizes, 1))
    click.echo(f"{out}  {sizes}")


def _described(facts: dict[str, Any]) -> str:
    memory = ", ".join(f"{n / 1e9:.2f} GB as {d}" for d, n in facts["memory_bytes"].items())
    shown = (
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "vocab_size",
        "max_position_embeddings",
    )
    config = ", ".join(f"{k} {facts['config'][k]}" for k in shown if k in facts["config"])
    lines = {
        "name": facts["name"],
        "kind": facts["kind"],
        "licence": facts["licence"] or "not stated",
        "upstream": facts["upstream"] or "not stated",
        "parameters": f"{facts['parameters']:,} stored as {', '.join(facts['stored_as'])}",
        "memory": memory,
        "config": config,
        "sha256": facts["sha256"],
        "folder": facts["folder"],
    }
    return "\n".join(f"{key:<12}{value}" for key, value in lines.items())


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    here = f"{row['bytes'] / 1e6:,.0f} MB" if row["pulled"] else "no"
    languages = ", ".join(row["languages"])
    millions = f"{row['parameters'] / 1e6:.0f}M"
    return (row["name"], row["kind"], millions, languages, row["licence"], here)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return columns padded to their widest cell, two spaces apart."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _values(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
