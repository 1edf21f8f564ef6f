"""Facts put before a query: short lines from a knowledge graph or passages from documents.

Baek et al. (2023, arXiv 2306.04136) put the triples nearest to a question before it. The facts
belong to each query's own text: the demonstrations before them stay one prefix that all queries
share and that is encoded once.

What knows the facts is a member of SOURCES: read from the user's file once, then carried by the
adaptation as JSON lines, so that it works where the file is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from sapwood.context.triples import looks_like_triples
from sapwood.errors import ConfigError, DataError, ModelError
from sapwood.files import write_json, write_text
from sapwood.interfaces import Floats
from sapwood.registry import did_you_mean, resolve

SOURCES = {
    "graph": "sapwood.context.graph:Graph",
    "documents": "sapwood.context.documents:Documents",
}
SETTINGS, RECORDS = "facts.json", "facts.jsonl"
SCHEMA = "sapwood.facts/1"

Record = dict[str, Any]
Embed = Callable[[Sequence[str]], Floats]  # texts -> (texts, width)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of knowledge; `source` is "file:line", `score` ranks the facts of one query."""

    text: str
    source: str
    score: float


class FactSource(Protocol):
    """Anything that finds facts for texts."""

    def find(self, texts: Sequence[str]) -> list[tuple[Fact, ...]]:
        """Return the facts of each text, best first, none where nothing is known."""
        ...


class Source(Protocol):
    """A member of SOURCES: what a file says, ready to be searched and stored."""

    limit: ClassVar[int]  # facts a query unless the user says otherwise

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the user's file or folder; raises DataError with every fault."""
        ...

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> Self:
        """Rebuild from what `records` gave."""
        ...

    def records(self) -> Iterator[Record]:
        """Yield JSON-ready records that hold everything, provenance included."""
        ...

    def search(
        self, texts: Sequence[str], *, hops: int, limit: int, embed: Embed | None
    ) -> list[tuple[Fact, ...]]:
        """Return at most `limit` facts of each text, best first."""
        ...


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The settings of a fact source.

    `path`: where it was read from; `kind`: a key of SOURCES; `hops`: 1 or 2, how far from a
    mentioned entity a graph is searched; `limit`: facts a query, 1 or more; `embedder`: the encoder
    that helps to find passages, or ""; `sha256`: of the stored records, whatever file held them.
    """

    path: str
    kind: str
    hops: int = 1
    limit: int = 8
    embedder: str = ""
    sha256: str = ""

    def describe(self) -> str:
        """Return the facts in words for the report."""
        words = f"up to {self.limit} facts a query from {Path(self.path).name}"
        if self.kind == "graph":
            return f"{words} ({self.hops} hop{'s' if self.hops > 1 else ''})"
        return f"{words} (BM25{' + ' + self.embedder if self.embedder else ''})"


class Knowledge:
    """Facts ready to be found, with their settings: a FactSource that can be stored."""

    def __init__(self, settings: Facts, source: Source, *, embed: Embed | None = None) -> None:
        if settings.hops not in (1, 2) or settings.limit < 1:
            raise ConfigError(
                "E-CONFIG-090",
                f"Facts take 1 or 2 hops and a limit of 1 or more, not {settings.hops} hops and a "
                f"limit of {settings.limit}.",
                fix="--fact-hops 1 --fact-limit 8",
            )
        if settings.embedder and embed is None:
            raise ConfigError(
                "E-CONFIG-091",
                f"These facts are found with the encoder '{settings.embedder}', which is not here.",
                fix=f"sapwood models pull {settings.embedder}",
            )
        self.settings, self.source = settings, source
        self._embed = embed

    def find(self, texts: Sequence[str]) -> list[tuple[Fact, ...]]:
        """Return the facts of each text, best first, none where nothing is known."""
        return self.source.search(
            texts, hops=self.settings.hops, limit=self.settings.limit, embed=self._embed
        )

    def save(self, folder: Path) -> tuple[str, ...]:
        """Write the settings and a copy of the knowledge; return the names of the files."""
        write_text(folder / RECORDS, _lines(self.source))
        write_json(folder / SETTINGS, {"schema": SCHEMA, **asdict(self.settings)})
        return SETTINGS, RECORDS


def open_facts(
    path: str | Path,
    *,
    kind: str = "auto",
    hops: int = 1,
    limit: int | None = None,
    embedder: str = "",
    embed: Embed | None = None,
) -> Knowledge:
    """Read a graph or documents from a file or folder.

    `kind` "auto" looks at the first row: head, relation and tail make a graph. `limit` None: 8
    facts of a graph, 3 passages. `embedder` names what `embed` does, so that a stored copy can ask
    for it again.

    Raises ConfigError: E-CONFIG-090 hops or limit out of range, 091 an encoder that is not given,
    and for a kind that does not exist; DataError: see `read_triples` and `read_passages`.
    """
    place = Path(path).expanduser()
    if not place.exists():
        beside = place.parent if place.parent.is_dir() else Path()
        near = did_you_mean(place.name, [p.name for p in beside.iterdir()])
        raise DataError(
            "E-DATA-001",
            f"No such file or folder: {place}.{near}",
            fix="give triples (.tsv, .csv, .jsonl, .nt) or documents (.txt, .md, .jsonl, .csv)",
        )
    if kind == "auto":
        kind = "graph" if looks_like_triples(place) else "documents"
    member = resolve("kind of facts", SOURCES, kind)
    source: Source = member.read(place)
    settings = Facts(
        path=str(place), kind=kind, hops=hops, limit=member.limit if limit is None else limit,
        embedder=embedder, sha256=_digest(_lines(source)),
    )  # fmt: skip
    return Knowledge(settings, source, embed=embed)


def has_facts(folder: Path) -> bool:
    """Tell whether `folder` carries facts."""
    return (folder / SETTINGS).is_file()


def load_facts(folder: Path, *, embed: Embed | None = None) -> Knowledge:
    """Return what `Knowledge.save` wrote.

    Raises ModelError: E-MODEL-090 not facts of this version, 091 changed since they were saved.
    """
    try:
        content = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        settings = Facts(**content)
        text = (folder / RECORDS).read_bytes().decode()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            "E-MODEL-090",
            f"{folder / SETTINGS} does not hold facts that this version reads: {error}.",
            fix="make the adaptation again from the original file of facts",
        ) from None
    if _digest(text) != settings.sha256:
        raise ModelError(
            "E-MODEL-091",
            f"{folder / RECORDS} was changed or damaged since it was saved.",
            fix="copy the folder again, or make the adaptation again from the original file",
        )
    member = resolve("kind of facts", SOURCES, settings.kind)
    source = member.from_records([json.loads(line) for line in text.split("\n") if line])
    return Knowledge(settings, source, embed=embed)


def with_limit(knowledge: Knowledge, limit: int) -> Knowledge:
    """Return the same knowledge with another number of facts a query."""
    settings = replace(knowledge.settings, limit=limit)
    return Knowledge(settings, knowledge.source, embed=knowledge._embed)


def facts_block(facts: Sequence[Fact], chinese: bool = False) -> str:
    r"""Return the line that is put before a query or a demonstration, "" without facts.

    >>> facts_block([Fact(text="alga is a plant", source="kg.tsv:3", score=1.0)])
    'Facts: alga is a plant\n'
    """
    lines = dict.fromkeys(" ".join(fact.text.split()) for fact in facts)
    ends, join = (".;。；", "；" if chinese else "; ")
    body = join.join(line.rstrip(ends) or line for line in lines)
    if not body:
        return ""
    return f"已知：{body}\n" if chinese else f"Facts: {body}\n"


def fact_blocks(source: FactSource, texts: Sequence[str], *, chinese: bool = False) -> list[str]:
    """Return the block of each text, as `facts_block` writes it."""
    return [facts_block(found, chinese) for found in source.find(texts)]


def facts_json(facts: Sequence[Fact]) -> list[Mapping[str, object]]:
    """Return facts for `--json`: [{"text", "source", "score"}], best first."""
    return [{"text": f.text, "source": f.source, "score": round(f.score, 4)} for f in facts]


def _lines(source: Source) -> str:
    encoder = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return "".join(encoder.encode(record) + "\n" for record in source.records())


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
