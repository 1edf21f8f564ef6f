"""`sapwood corpus`: from dumps, books and crawls to a corpus that `pretrain` reads."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sapwood.errors import ConfigError

if TYPE_CHECKING:
    from sapwood.corpora.build import Share
    from sapwood.corpora.settings import Settings


@click.group(name="corpus")
def command() -> None:
    """Build a corpus for pretraining, look at one, fetch samples."""


@command.command(name="build")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option(
    "--languages",
    metavar="CODES",
    default="",
    help="Languages that stay, such as en,zh.  [default: all]",
)
@click.option(
    "--rules",
    type=click.Choice(["auto", "web", "light", "none"]),
    default="auto",
    show_default=True,
    help="Quality rules; auto takes what suits each format.",
)
@click.option(
    "--tokenizer",
    default="bpe",
    show_default=True,
    help="Kind to train (bpe, wordpiece, unigram), or a base's name or folder.",
)
@click.option(
    "--vocabulary",
    type=click.IntRange(min=1),
    default=8192,
    show_default=True,
    help="Tokens of a trained tokenizer, in all.",
)
@click.option(
    "--sentinels",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Of them for span corruption.",
)
@click.option(
    "--held",
    default="0.01",
    show_default=True,
    metavar="SHARE",
    help="Share of documents held out, as 0.01 or 1%.",
)
@click.option(
    "--held-documents",
    multiple=True,
    metavar="PATTERN",
    help="Documents held out by id, as 'austen/persuasion*'; may be repeated.",
)
@click.option(
    "--keep-out",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Evaluation texts whose passages are cut; may be repeated.",
)
@click.option("--licence", multiple=True, metavar="NAME=TEXT", help="Licence of a source.")
@click.option("--mask/--no-mask", default=True, show_default=True, help="Mask personal data.")
@click.option("--near/--no-near", default=True, show_default=True, help="Drop near duplicates.")
@click.option(
    "--damaged",
    type=click.Choice(["stop", "keep"]),
    default="stop",
    show_default=True,
    help="What to do where a file is cut off.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--rank", type=click.IntRange(min=0), help="This machine's number, from 0.")
@click.option("--world", type=click.IntRange(min=1), help="How many machines clean.")
@click.option("--fresh", is_flag=True, help="Forget an earlier build in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print corpus.json on stdout.")
def build_corpus(sources: tuple[str, ...], out: Path, **given: Any) -> None:
    """Build a corpus of every SOURCE: clean, deduplicated, tokenized, packed.

    A SOURCE is a file, a folder, or a sample's name (`sapwood corpus list`): MediaWiki dumps, WARC
    and WET, EPUB, HTML, text, JSONL, CSV, Parquet, compressed or not, told by what they hold.
    FORMAT=PATH says it instead. A stopped build goes on when the same command is run again.
    """  # fmt: skip
    from sapwood.commands.running import Screen
    from sapwood.corpora.build import build
    from sapwood.corpora.settings import check
    from sapwood.corpora.sources import find_sources

    share = _share(given["rank"], given["world"], given["workers"])
    settings = _settings(given)
    check(settings)
    found = find_sources(sources, _licences(given["licence"]))
    events = build(found, out, settings, share, fresh=given["fresh"])
    card = Screen(quiet=given["as_json"]).follow(events)
    if given["as_json"]:
        click.echo(json.dumps(card, ensure_ascii=False))
    elif share.world > 1:
        click.echo(
            f"{card['pieces']:,} pieces, those of rank {share.rank} of {share.world} are clean"
        )
        click.echo("When all ranks are done, run the command without --rank and --world.", err=True)
    else:
        click.echo(_summary(card))
        click.echo(f"\nCorpus  {out}\nNext: sapwood pretrain {out}", err=True)


def _share(rank: int | None, world: int | None, workers: int | None) -> Share:
    """Return which pieces are cleaned here; a rank and a world belong together."""
    from sapwood.corpora.build import Share

    wrong = ""
    if (rank is None) != (world is None):
        wrong = "--rank and --world go together, and one is missing"
    elif rank is not None and world is not None and rank >= world:
        wrong = f"--rank {rank} and --world {world} do not fit together"
    if wrong:
        raise ConfigError(
            "E-CONFIG-238", f"{wrong}.",
            fix="give both, ranks from 0 to world - 1, as --rank 0 --world 4",
        )  # fmt: skip
    return Share(rank=rank or 0, world=world or 1, workers=workers or _cores())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _settings(given: dict[str, Any]) -> Settings:
    from sapwood.corpora.settings import Settings

    held = 0.0 if given["held_documents"] and _by_default("held") else _share_of(given["held"])
    return Settings(
        languages=tuple(code for code in given["languages"].replace(" ", "").split(",") if code),
        rules=given["rules"],
        mask=given["mask"],
        near=given["near"],
        keep_out=tuple(given["keep_out"]),
        held=held,
        held_documents=tuple(given["held_documents"]),
        tokenizer=_tokenizer(given["tokenizer"]),
        vocabulary=given["vocabulary"],
        sentinels=given["sentinels"],
        damaged=given["damaged"],
    )


def _by_default(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source == click.core.ParameterSource.DEFAULT


def _share_of(text: str) -> float:
    """Return a share that was written as 0.01 or 1%. Raises ConfigError E-CONFIG-239."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ConfigError(
            "E-CONFIG-239", f"--held is '{text}', not a share.", fix="--held 0.01, or --held 1%"
        ) from None


def _licences(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in given:
        name, sign, licence = text.partition("=")
        if not sign or not licence.strip():
            raise ConfigError(
                "E-CONFIG-239", f"--licence is '{text}', not a source's name and its licence.",
                fix="--licence crawl='CC BY 4.0'",
            )  # fmt: skip
        found[name.strip()] = licence.strip()
    return found


def _tokenizer(name: str) -> str:
    """Return the kind to train, or the folder of a base."""
    from sapwood.corpora.tokenizing import KINDS

    if name in KINDS:
        return name
    if Path(name).is_dir():
        return str(Path(name).resolve())
    from sapwood.models.load import resolve_base

    return str(resolve_base(name).folder)


def _summary(card: dict[str, Any]) -> str:
    counts = card["counts"]
    rows = [
        ("documents", f"{counts['documents']:,} of {counts['records']:,} records"),
        ("dropped", _reasons(card["dropped"])),
        ("text", f"{_size(counts['bytes'])}, {_languages(card['languages'])}"),
        *((name, f"{counts[part]['documents']:,} documents, {counts[part]['tokens']:,} tokens")
          for name, part in (("train", "train"), ("held out", "held"))),
        ("tokenizer", f"{card['tokenizer']['kind']}, {card['tokenizer']['vocabulary']:,} tokens"),
    ]  # fmt: skip
    return "\n".join(f"{name:<11}{words}" for name, words in rows)


def _reasons(by_step: dict[str, dict[str, int]]) -> str:
    """Return the three most frequent reasons and how many went for others."""
    counts = [(n, reason) for reasons in by_step.values() for reason, n in reasons.items()]
    counts.sort(key=lambda one: (-one[0], one[1]))
    if not counts:
        return "none"
    words = [f"{n:,} {reason}" for n, reason in counts[:3]]
    rest = sum(n for n, _ in counts[3:])
    return ", ".join([*words, *([f"{rest:,} others"] if rest else [])])


def _languages(found: dict[str, dict[str, int]]) -> str:
    total = sum(one["bytes"] for one in found.values()) or 1
    shares = sorted(((one["bytes"] / total, code) for code, one in found.items()), reverse=True)
    return ", ".join(f"{code} {share:.0%}" if share >= 0.01 else f"{code} <1%"
                     for share, code in shares[:5])  # fmt: skip


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


@command.command(name="show")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-n",
    "rows",
    default=3,
    show_default=True,
    type=click.IntRange(min=0),
    help="Documents to show with their words and sentences.",
)
@click.option("--json", "as_json", is_flag=True, help="Print corpus.json on stdout.")
def show_corpus(folder: Path, *, rows: int, as_json: bool) -> None:
    """Show the card of the corpus in DIR, and how its first documents were cut into tokens.

    A bar stands before each token that goes on with a word; every sentence has its line.
    """
    from sapwood.corpora.corpus import Corpus

    corpus = Corpus.open(folder)
    if as_json:
        click.echo(json.dumps(corpus.card, ensure_ascii=False))
        return
    for line in (corpus.folder / "README.md").read_text(encoding="utf-8").splitlines():
        click.echo(_fitted(line))
    if rows:
        _show_documents(corpus, rows)


def _fitted(line: str) -> str:
    """Return a line of the card in 80 columns."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(line) <= 80:
        return line
    if line.startswith("|"):
        return set_cell_size(line, 79).rstrip() + "…"
    return _wrapped(line, "> " if line.startswith("> ") else "  ")


def _wrapped(text: str, indent: str) -> str:
    """Return text in lines of 80 columns, wide characters counted twice."""
    from rich.cells import cell_len

    lines, line = [], ""
    for word in text.replace("\n", " ").split(" "):
        for piece in [word] if cell_len(word) < 76 else list(word):
            joined = f"{line}{'' if piece is not word or not line else ' '}{piece}"
            if cell_len(joined) > 80:
                lines.append(line)
                joined = indent + piece
            line = joined
    return "\n".join([*lines, line])


def _show_documents(corpus: Any, rows: int) -> None:
    from sapwood.corpora.tokenizing import opened

    tokenizer = opened(corpus.tokenizer)
    for name in ("train", "held"):
        part = corpus.part(name)
        for index in range(min(rows, len(part))):
            document = part.document(index)
            click.secho(f"{name} document {index}: {len(document.ids):,} tokens, "
                        f"{len(document.sentences) - 1:,} sentences, {document.bytes:,} bytes",
                        bold=True)  # fmt: skip
            bounds = document.sentences[:4].tolist()
            for start, end in itertools.pairwise(bounds):
                click.echo(_wrapped("  " + _marked(tokenizer, document, start, end), "    "))


def _marked(tokenizer: Any, document: Any, start: int, end: int) -> str:
    """Return the words of a sentence, a bar before each token that begins none."""
    words: list[str] = []
    at = start
    while at < end:
        after = at + 1
        while after < end and not document.starts[after]:
            after += 1
        ids = [int(token) for token in document.ids[at:after]]
        pieces = "|".join(tokenizer.decode([token]).strip() for token in ids)
        # A character of several tokens has no pieces that can be shown.
        words.append(tokenizer.decode(ids).strip() if "\ufffd" in pieces else pieces.strip("|"))
        at = after
    return " ".join(filter(None, words))


@command.command(name="pull")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def pull_sample(name: str, *, as_json: bool) -> None:
    """Fetch a real sample by NAME; see `sapwood corpus list`."""
    from sapwood.config import home
    from sapwood.corpora.samples import pull

    folder = pull(name, home())
    if as_json:
        click.echo(json.dumps({"name": name, "folder": str(folder)}))
        return
    click.echo(folder)
    click.echo(f"Next: sapwood corpus build {name} --out corpus", err=True)


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line on stdout.")
def list_samples(*, as_json: bool) -> None:
    """List the samples that can be pulled without any hub."""
    from sapwood.config import home
    from sapwood.corpora.samples import SAMPLES

    for name, known in SAMPLES.items():
        here = (home() / "corpora" / name / "SOURCE.md").is_file()
        if as_json:
            row = {"name": name, "about": known.about, "languages": known.languages.split()}
            click.echo(
                json.dumps({**row, "licence": known.licence, "bytes": known.bytes, "here": here})
            )
        else:
            size = "here" if here else f"{known.bytes / 1e6:.0f} MB"
            click.echo(f"{name:<16} {known.about:<48} {size:>6}")
    if not as_json:
        click.echo("Fetch one with: sapwood corpus pull NAME", err=True)
