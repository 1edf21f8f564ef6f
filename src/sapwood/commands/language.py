"""What `eval`, `compare` and `chat` do with language models as they are: any family, any text."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sapwood.interfaces import Answer
    from sapwood.models.language import LanguageModel

FILES = (".arpa", ".arpa.gz", ".gguf")
_KENLM = b"mmap lm http://kheafield.com/code"  # as binaries of KenLM begin
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def is_language(path: Path) -> bool:
    """Tell whether a path names a language model: a base, a pretrained folder, an ARPA file.

    A folder with an adaptation or of a run is none.
    """
    from sapwood.models.store import BASES

    name = str(path)
    if path.is_dir():
        return (path / "config.json").is_file() and not (path / "adaptation.json").exists()
    if path.exists():
        return name.endswith(FILES) or _is_kenlm(path)
    return name in BASES or bool(_HUB.fullmatch(name) and not path.parent.exists())


def _is_kenlm(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_KENLM)) == _KENLM


def load(path: Path, device: str, dtype: str) -> LanguageModel:
    """Load a language model on the runtime that was asked for."""
    from sapwood.launch import choose_runtime, raise_malloc_thresholds
    from sapwood.models.language import language_model

    raise_malloc_thresholds()
    return language_model(str(path), choose_runtime(device, dtype))


def evaluate(path: Path, data: str, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Print bits a byte and perplexity of the texts of a file, with 95 % intervals over texts.

    Raises ConfigError (E-CONFIG-221) for options that speak of answers.
    """
    from sapwood.commands.decoding import asked, flag

    spoken = [*(name for name in ("write", "label") if given.get(name)), *asked(given)]
    if spoken:
        raise ConfigError(
            "E-CONFIG-221",
            f"{path} is a language model, whose score is how well it expects texts.",
            details=[f"{flag(name)} is for adaptations, which answer" for name in spoken],
            fix=f"sapwood eval {path} --data {data}",
        )
    texts = read_texts(data, given.get("text"))
    model = load(path, given["device"], given["dtype"])
    content, _ = scores(model, texts)
    if as_json:
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    from sapwood.commands.answers import _scored

    for name in ("family", "texts", "tokens", "bytes", "unknown"):
        if name != "unknown" or content[name]:
            shown = f"{content[name]:,}" if isinstance(content[name], int) else content[name]
            click.echo(_scored(name, shown))
    for name, value in content.items():
        if isinstance(value, dict):
            click.echo(_scored(name, value))
    _tell_unknown([content])


def _tell_unknown(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say where bits a byte leave words out."""
    for row in rows:
        if row["unknown"]:
            click.echo(
                f"{row['model']}: {row['unknown']:,} of {row['tokens']:,} tokens are outside its "
                "vocabulary and count as <unk>, whichever word they are: bits a byte are too low.",
                err=True,
            )


def scores(model: LanguageModel, texts: Sequence[str]) -> tuple[dict[str, Any], list[Answer]]:
    """Return (scores of all texts, JSON-ready; how probable each text is)."""
    from sapwood.interfaces import Example
    from sapwood.models.language import answers
    from sapwood.tasks.perplexity import perplexities
    from sapwood.tasks.texts import likelihood

    found = answers(model, texts)
    score = likelihood(found).interval()
    gold = [Example(text="", label=text) for text in texts]
    return {
        "model": model.name,
        "family": model.family,
        "texts": len(texts),
        "tokens": sum(one.tokens for one in found),
        "bytes": sum(one.bytes for one in found),
        "unknown": model.unknown(texts),
        score.metric: {"value": score.value, "low": score.low, "high": score.high},
        **perplexities(gold, found),
    }, found


def compare(paths: Sequence[Path], data: str, given: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a table of language models on the same texts, each compared with the first.

    Raises ConfigError: E-COMPARE-001 for a single one, E-CONFIG-222 where some are none.
    """
    if len(paths) < 2:
        raise ConfigError(
            "E-COMPARE-001",
            f"compare needs at least two language models, got {len(paths)}.",
            fix=f"sapwood compare FIRST SECOND --data {data}",
        )
    others = [str(path) for path in paths if not is_language(path)]
    if others:
        raise ConfigError(
            "E-CONFIG-222",
            "With --data and without --blind, language models are compared.",
            details=[f"{name} is no language model" for name in others],
            fix="name bases, pretrained folders or ARPA files; for runs leave out --data",
        )
    texts = read_texts(data, None)
    rows, first = list[dict[str, Any]](), list[Any]()
    for path in paths:
        row, found = scores(load(path, given["device"], given["dtype"]), texts)
        if first:
            row["against_first"] = _against(found, first)
        else:
            first = found
        rows.append(row)
    if as_json:
        click.echo(json.dumps({"data": data, "models": rows}, ensure_ascii=False))
        return
    click.echo(_table(rows))
    _tell_unknown(rows)


def _against(found: Sequence[Answer], first: Sequence[Answer]) -> dict[str, Any]:
    """Return how many bits a byte a model needs more than the first, drawn with the same texts."""
    from sapwood.tally import paired
    from sapwood.tasks.texts import likelihood

    less, low, high = paired(likelihood(found), likelihood(first))
    verdict = "better" if low > 0 else "worse" if high < 0 else "not separable"
    return {"bits_a_byte": -less, "low": -high, "high": -low, "verdict": verdict}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the models with their scores, and under it what each is against the first."""
    from sapwood.pages.terminal import aligned, wrapped

    names = _named([str(row["model"]) for row in rows])
    table = [["model", "family", "bits a byte (95 %)", "perplexity a token (95 %)"]]
    for name, row in zip(names, rows, strict=True):
        bits, token = _span(row["bits_a_byte"], ".3f"), _span(row["perplexity_a_token"], ".4g")
        table.append([name, str(row["family"]), bits, token])
    first = rows[0]
    lines = [*aligned(table, 80, left=2), ""]
    for name, row in zip(names[1:], rows[1:], strict=True):
        found = row["against_first"]
        more = f"{found['bits_a_byte']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
        lines += wrapped(f"{name} against {names[0]}: {found['verdict']}, {more} bits a byte", 80)
    lines.append(f"{first['texts']:,} texts, {first['bytes']:,} bytes; intervals over texts")
    return "\n".join(lines)


def _named(paths: Sequence[str]) -> list[str]:
    """Return what to call models: the last part of each path, unless two have the same."""
    short = [Path(path).name or path for path in paths]
    return short if len({*short}) == len(short) else list(paths)


def _span(score: Mapping[str, float], form: str) -> str:
    return f"{score['value']:{form}} ({score['low']:{form}} to {score['high']:{form}})"


def read_texts(data: str, column: str | None) -> list[str]:
    """Return the texts to score: lines of a .txt file, a column of a table, held-out documents.

    A folder with corpus.json gives the documents that were held out. Raises DataError: E-DATA-173
    no text, E-DATA-174 not UTF-8, and those of the readers.
    """
    from sapwood.tasks.readers import describe, read_examples

    path = Path(data).expanduser()
    if path.is_dir() and (path / "corpus.json").is_file():
        texts = list(_held_out(path))
    elif path.is_file() and path.suffix.lower() == ".txt":
        texts = _lines(path)
    else:
        table = read_examples(data, text=column, need_label=False)
        for dropped in table.dropped:
            click.echo(f"not scored: {describe(dropped)}", err=True)
        texts = [row.text for row in table.examples]
    if not texts:
        raise DataError(
            "E-DATA-173",
            f"{data} holds no text to score.",
            fix="a .txt file with one text a line, or a table with a text column",
        )
    return texts


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            "E-DATA-174", f"{path} is not UTF-8 text: byte {error.start:,} cannot be read.",
            fix="save it as UTF-8",
        ) from None  # fmt: skip
    return [line.strip() for line in lines if line.strip()]


def _held_out(folder: Path) -> Iterator[str]:
    for path in sorted((folder / "documents").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if row.get("part") == "held" and row["text"].strip():
                    yield row["text"].strip()
