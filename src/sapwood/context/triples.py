"""Triples (head, relation, tail) of a knowledge graph, read from TSV, CSV, JSONL or N-Triples.

Names of entities come from an `entities.jsonl` beside the file, or from labels among the triples
(rdfs:label, skos:prefLabel, skos:altLabel, ...), which are then names and no facts. Whatever cannot
be read is told by line, all lines at once.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from sapwood.context.ntriples import label_rank, parse
from sapwood.errors import DataError
from sapwood.registry import did_you_mean
from sapwood.tasks.encodings import inspect
from sapwood.tasks.rows import kind_of

ENTITIES = "entities.jsonl"
DELIMITED, LINES_OF_JSON, N_TRIPLES = (
    (".tsv", ".tab", ".csv"),
    (".jsonl", ".ndjson"),
    (".nt", ".ntriples"),
)
SUFFIXES = (*DELIMITED, *LINES_OF_JSON, *N_TRIPLES)
COLUMNS = {
    "head": ("head", "subject", "source", "from", "h", "s"),
    "relation": ("relation", "predicate", "property", "edge", "rel", "r", "p"),
    "tail": ("tail", "object", "target", "to", "t", "o"),
}
NAMES = ("name", "names", "lemmas", "label", "labels", "alias", "aliases", "title")
GLOSSES = ("gloss", "description", "definition")
SHOWN = 100  # faulty lines listed; more of the same teach nothing and drown the screen
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
_SENSE = re.compile(r"\.[nvasr]\.\d+$")  # WordNet: carob.n.12493208, dog.n.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Triple:
    """One fact of a graph; `literal`: the tail is a value and no entity; `line` is 1-based."""

    head: str
    relation: str
    tail: str
    file: str
    line: int
    literal: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what makes it the same fact wherever it stands."""
        return self.head, self.relation, self.tail

    @property
    def place(self) -> str:
        """Return "file:line"."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class TripleSet:
    """Triples in the order of their file, and the names that it gives to entities or relations.

    `names`: identifier -> names, the one to show first; identifiers without an entry are named by
    their own text (see `own_name`).
    """

    triples: tuple[Triple, ...]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class _Faulty(Exception):
    """What is wrong with one line."""


def looks_like_triples(path: Path) -> bool:
    """Tell whether a file or folder holds a graph rather than texts, by its suffix or first row."""
    if path.is_dir():
        return (path / ENTITIES).is_file() or any(map(looks_like_triples, _candidates(path)))
    if path.suffix.lower() in N_TRIPLES:
        return True
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    encoding = inspect(path).encoding
    with path.open(encoding=encoding, errors="replace") as file:
        top = next((line for line in file if line.strip("\ufeff \t\r\n")), "").strip("\ufeff\r\n")
    if path.suffix.lower() in LINES_OF_JSON:
        try:
            row = json.loads(top)
        except ValueError:
            return False
        return isinstance(row, dict) and _columns(list(row)) is not None
    fields = next(csv.reader([top], delimiter=_delimiter(path, top)))
    texts = {"text", "sentence", "content", "label", "document", "passage"}
    named = {name.strip().lower() for name in fields}
    return _columns(fields) is not None or (len(fields) == 3 and not named & texts)


def read_triples(path: Path) -> TripleSet:
    """Read the triples of a file, or of a folder (its train file, else its only one).

    Raises DataError: E-DATA-001 no such file, 002 kind, 003 encoding, 095 lines that are no
    triples (all of them are listed), 091 no triple at all, 092 several files in a folder.
    """
    path = _file(path)
    encoding = inspect(path).encoding
    if encoding is None or path.suffix.lower() not in SUFFIXES:
        raise DataError(
            "E-DATA-002",
            f"{path.name}: triples are not read from this kind of file",
            fix="give .tsv, .csv, .jsonl or .nt (N-Triples; for Turtle or RDF/XML: "
            f"rapper -i guess -o ntriples {path.name} > graph.nt)",
        )
    faults: list[tuple[int, str]] = []
    try:
        triples = list(_rows(path, encoding, faults))
        names, triples = _named(triples)
        beside = path.parent / ENTITIES
        if beside.is_file() and beside != path:
            more, glosses = _entities(beside)
            names |= more
            triples += glosses
    except UnicodeDecodeError as error:
        raise DataError(
            "E-DATA-003", f"{path.name} is not valid {error.encoding}", fix="save it as UTF-8"
        ) from error
    _must_be_clean(path, faults, len(triples) + len(faults))
    if not triples:
        raise DataError(
            "E-DATA-091",
            f"{path.name} holds no triple",
            fix="one a line: head<TAB>relation<TAB>tail",
        )
    return TripleSet(triples=tuple(triples), names=names)


def own_name(identifier: str) -> str:
    """Return the words of an identifier: its local name, without underscores and sense numbers.

    >>> own_name("carob.n.12493208"), own_name("http://ex.org/place#S%C3%A3o_Paulo")
    ('carob', 'São Paulo')
    """
    local = identifier
    if "://" in identifier or identifier.startswith("urn:"):
        pieces = [p for p in re.split(r"[/#]|(?<=urn):|:(?!//)", identifier) if p]
        local = unquote(pieces[-1]) if pieces else identifier
    elif identifier.startswith("_:"):
        local = identifier[2:]
    words = " ".join(_SENSE.sub("", local).replace("_", " ").split())
    return words or identifier


def _candidates(folder: Path) -> list[Path]:
    found = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name != ENTITIES]
    return [p for p in found if p.suffix.lower() in SUFFIXES]


def _file(path: Path) -> Path:
    if path.is_dir():
        files = _candidates(path)
        train = [p for p in files if p.stem.lower() == "train"]
        chosen = train or files
        if len(chosen) != 1:
            raise DataError(
                "E-DATA-092",
                f"{path} holds {len(chosen) or 'no'} files that could be the graph",
                details=[p.name for p in chosen[:SHOWN]],
                fix=f"name one: {path / (chosen[0].name if chosen else 'graph.tsv')}",
            )
        return chosen[0]
    if not path.is_file():
        beside = path.parent if path.parent.is_dir() else Path()
        near = did_you_mean(path.name, [p.name for p in beside.iterdir()])
        raise DataError("E-DATA-001", f"No such file: {path}.{near}", fix="give a file of triples")
    return path


def _rows(path: Path, encoding: str, faults: list[tuple[int, str]]) -> Iterator[Triple]:
    kind = path.suffix.lower()
    if kind in N_TRIPLES:
        return _n_triples(path, encoding, faults)
    if kind in LINES_OF_JSON:
        return _json_lines(path, encoding, faults)
    return _delimited(path, encoding, faults)


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of every line that is not empty."""
    with path.open(encoding=encoding, newline="\n") as file:
        for number, line in enumerate(file, 1):
            stripped = line.strip("\ufeff\r\n")
            if stripped.strip():
                yield number, stripped


def _triple(values: Sequence[object], path: Path, line: int, *, literal: bool = False) -> Triple:
    """Return the triple of three cells, or raise _Faulty."""
    cells = []
    for name, value in zip(COLUMNS, values, strict=True):
        if isinstance(value, bool | dict | list):
            raise _Faulty(f"the {name} is {kind_of(value)}, not text")
        text = "" if value is None else " ".join(str(value).split())
        if not text:
            raise _Faulty(f"the {name} is empty")
        if _CONTROL.search(text):
            raise _Faulty(f"the {name} holds control characters")
        if re.search(r"[\ud800-\udfff]", text):
            raise _Faulty(f"the {name} holds half of a surrogate pair")
        cells.append(text)
    head, relation, tail = cells
    return Triple(
        head=head, relation=relation, tail=tail, file=path.name, line=line, literal=literal
    )


def _json_lines(path: Path, encoding: str, faults: list[tuple[int, str]]) -> Iterator[Triple]:
    for line, text in _lines(path, encoding):
        try:
            row = json.loads(text)
            if not isinstance(row, dict):
                raise _Faulty(f"not an object but {kind_of(row)}")
            found = _columns(list(row))
            if found is None:
                raise _Faulty(f"no head, relation and tail among {', '.join(row) or 'no keys'}")
            keys = list(row)
            yield _triple([row[keys[place]] for place in found], path, line)
        except _Faulty as fault:
            faults.append((line, str(fault)))
        except (ValueError, RecursionError) as error:
            faults.append((line, f"not JSON ({str(error).split(':')[0]})"))


def _columns(header: Sequence[str]) -> tuple[int, int, int] | None:
    """Return the places of head, relation and tail in a header, or None where it is no header."""
    named = [name.strip("\ufeff \t\"'?:").lower() for name in header]
    found = []
    for aliases in COLUMNS.values():
        place = next((named.index(alias) for alias in aliases if alias in named), None)
        if place is None:
            return None
        found.append(place)
    return found[0], found[1], found[2]


def _delimiter(path: Path, top: str) -> str:
    if path.suffix.lower() != ".csv":
        return "\t"
    return max(",;\t|", key=lambda sign: (top.count(sign) == 2, top.count(sign)))


def _cells(path: Path, encoding: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield (line, cells or what is wrong) of a table; in TSV a quote is a plain character."""
    first = next(_lines(path, encoding), (0, ""))[1]
    sign = _delimiter(path, first)
    if path.suffix.lower() != ".csv":
        for line, text in _lines(path, encoding):
            yield line, text.split(sign)
        return
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=sign, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"its quotes cannot be read ({error})"
                continue
            if any(cell.strip("\ufeff \t") for cell in cells):
                yield line, [cell.strip("\ufeff") for cell in cells]


def _delimited(path: Path, encoding: str, faults: list[tuple[int, str]]) -> Iterator[Triple]:
    places: tuple[int, int, int] | None = None
    width = 3
    for number, (line, cells) in enumerate(_cells(path, encoding)):
        if isinstance(cells, str):
            faults.append((line, cells))
            continue
        if number == 0 and (places := _columns(cells)):
            width = len(cells)
            continue
        try:
            if len(cells) != width:
                raise _Faulty(f"{len(cells)} fields instead of {width}")
            chosen = cells if places is None else [cells[place] for place in places]
            yield _triple(chosen, path, line)
        except _Faulty as fault:
            faults.append((line, str(fault)))


def _n_triples(path: Path, encoding: str, faults: list[tuple[int, str]]) -> Iterator[Triple]:
    for line, text in _lines(path, encoding):
        if text.lstrip().startswith("#"):
            continue
        found = parse(text)
        try:
            if isinstance(found, str):
                raise _Faulty(found)
            terms = (found.head, found.relation, found.tail)
            yield _triple(terms, path, line, literal=found.literal)
        except _Faulty as fault:
            faults.append((line, str(fault)))


def _named(triples: list[Triple]) -> tuple[dict[str, tuple[str, ...]], list[Triple]]:
    """Return (names, the triples that are facts): labels are taken out of RDF."""
    labels: dict[str, list[tuple[int, int, str]]] = {}
    facts = []
    for number, triple in enumerate(triples):
        rank = label_rank(triple.relation) if triple.literal else None
        if rank is None:
            facts.append(triple)
        else:
            labels.setdefault(triple.head, []).append((rank, number, triple.tail))
    names = {
        head: tuple(dict.fromkeys(name for _, _, name in sorted(found)))
        for head, found in labels.items()
    }
    return names, facts


def _entities(path: Path) -> tuple[dict[str, tuple[str, ...]], list[Triple]]:
    """Return (names, glosses as triples) of a file {"id", "names", "gloss"}, one entity a line."""
    names: dict[str, tuple[str, ...]] = {}
    glosses: list[Triple] = []
    faults: list[tuple[int, str]] = []
    total = 0
    for line, text in _lines(path, inspect(path).encoding or "utf-8"):
        total += 1
        try:
            row = json.loads(text)
            identifier = str(row.get("id") or row.get("entity") or "") if row else ""
        except (ValueError, AttributeError, RecursionError):
            faults.append((line, "not a JSON object"))
            continue
        if not identifier:
            faults.append((line, 'no "id"'))
            continue
        names[identifier] = tuple(dict.fromkeys(_texts(row.get(key) for key in NAMES)))
        glosses += [
            Triple(
                head=identifier, relation="means", tail=" ".join(gloss.split()),
                file=path.name, line=line, literal=True,
            )
            for gloss in _texts(row.get(key) for key in GLOSSES)
        ]  # fmt: skip
    _must_be_clean(path, faults, total, expected='{"id": ..., "names": [...], "gloss": ...}')
    return {name: found for name, found in names.items() if found}, glosses


def _texts(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item.strip():
                yield " ".join(item.replace("_", " ").split())


def _must_be_clean(
    path: Path,
    faults: list[tuple[int, str]],
    total: int,
    *,
    expected: str = "head<TAB>relation<TAB>tail",
) -> None:
    if not faults:
        return
    shown = [f"line {line}: {what}" for line, what in sorted(faults)[:SHOWN]]
    if len(faults) > SHOWN:
        shown.append(f"and {len(faults) - SHOWN:,} more lines")
    if path.suffix.lower() in N_TRIPLES:
        expected = '<subject> <predicate> <object or "text"@en> .'
    elif path.suffix.lower() in LINES_OF_JSON and path.name != ENTITIES:
        expected = '{"head": ..., "relation": ..., "tail": ...}'
    raise DataError(
        "E-DATA-095",
        f"{path.name}: {len(faults):,} of {total:,} lines cannot be read",
        details=shown,
        fix=f"correct or remove these lines; one a line: {expected}",
    )
