"""A knowledge graph as facts: the entities a text mentions, and what lies around them.

A fact that joins two mentioned entities comes first, then those on a path of two steps between
them, rare neighbours before common ones (Adamic & Adar 2003, Social Networks 25:211), then the
others by the words they share with the text, weighted by how rare these are (the inverse document
frequency of BM25; Robertson & Zaragoza 2009), then rare relations before common ones.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from math import log
from pathlib import Path
from typing import ClassVar, Self

from sapwood.context.facts import Embed, Fact, Record
from sapwood.context.linking import NameIndex, pieces, singular
from sapwood.context.triples import Triple, TripleSet, own_name, read_triples

LIMIT = 8
# What is looked at for one query, so that hubs (an entity with a million edges) cost no more than
# others: mentioned entities, senses of one name, edges of one entity.
MENTIONS, SENSES, EDGES = 16, 8, 512
BOTH, PATH = 4.0, 2.0  # a shared word counts 1 at most, a rare relation 0.1: the groups stay apart
# Relations whose names do not read well between two nouns.
RELATION_WORDS = {
    "isa": "is a", "is a": "is a", "type": "is a", "instance of": "is a", "instanceof": "is a",
    "hypernym": "is a kind of", "instance hypernym": "is an example of",
    "sub class of": "is a kind of", "subclass of": "is a kind of", "sub property of": "is part of",
}  # fmt: skip


class Graph:
    """Triples indexed by entity, and the names of the entities indexed by their words."""

    limit: ClassVar[int] = LIMIT

    def __init__(self, content: TripleSet) -> None:
        self.content = content
        self._edges: dict[str, list[int]] = defaultdict(list)
        self._between: dict[frozenset[str], list[int]] = defaultdict(list)
        self._relations: Counter[str] = Counter()
        for number, triple in enumerate(content.triples):
            self._relations[triple.relation] += 1
            self._edges[triple.head].append(number)
            if not triple.literal and triple.tail != triple.head:
                self._edges[triple.tail].append(number)
                self._between[frozenset((triple.head, triple.tail))].append(number)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a graph from a file or folder; see `read_triples`."""
        return cls(read_triples(path))

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> Self:
        """Rebuild exactly what `records` gave."""
        names = {r["id"]: tuple(r["names"]) for r in records if "id" in r}
        triples = tuple(Triple(**record) for record in records if "id" not in record)
        return cls(TripleSet(triples=triples, names=names))

    def records(self) -> Iterator[Record]:
        """Yield the names, then the triples with their file and line."""
        for identifier, names in self.content.names.items():
            yield {"id": identifier, "names": list(names)}
        for t in self.content.triples:
            yield {
                "head": t.head, "relation": t.relation, "tail": t.tail,
                "file": t.file, "line": t.line, "literal": t.literal,
            }  # fmt: skip

    def without(self, keys: Iterable[tuple[str, str, str]]) -> Graph:
        """Return the graph without the triples (head, relation, tail) of `keys`."""
        gone = set(keys)
        kept = tuple(t for t in self.content.triples if t.key not in gone)
        return Graph(TripleSet(triples=kept, names=self.content.names))

    def name(self, identifier: str) -> str:
        """Return the name under which an entity or a relation is shown."""
        given = self.content.names.get(identifier)
        return given[0] if given else own_name(identifier)

    def verbalise(self, triple: Triple) -> str:
        """Return a triple as a line: "alga is a plant"."""
        tail = triple.tail if triple.literal else self.name(triple.tail)
        given = self.content.names.get(triple.relation)
        words = given[0] if given else relation_words(triple.relation)
        return f"{self.name(triple.head)} {words} {tail}"

    def linked(self, text: str) -> list[str]:
        """Return the entities that a text mentions, in its order, well-connected senses first."""
        found: dict[str, None] = {}
        for mention in self._index.mentions(text):
            senses = sorted(mention.entities, key=lambda e: -len(self._edges[e]))
            found.update(dict.fromkeys(senses[:SENSES]))
        return list(found)

    def search(
        self,
        texts: Sequence[str],
        *,
        hops: int = 1,
        limit: int = LIMIT,
        embed: Embed | None = None,
    ) -> list[tuple[Fact, ...]]:
        """Return at most `limit` facts of each text, best first; `embed` is not used.

        `hops` 1: facts about mentioned entities, and paths of two steps that join two of them.
        `hops` 2: facts about their neighbours as well.
        """
        return [self._around(text, hops, limit) for text in texts]

    def _around(self, text: str, hops: int, limit: int) -> tuple[Fact, ...]:
        mentioned = self.linked(text)[:MENTIONS]
        if not mentioned:
            return ()
        base: dict[int, float] = {}
        for number in self._near(mentioned):
            base[number] = 0.0
        for number, closeness in self._paths(mentioned).items():
            base[number] = PATH + closeness
        for place, entity in enumerate(mentioned):
            for other in mentioned[place + 1 :]:
                for number in self._between.get(frozenset((entity, other)), ()):
                    base[number] = BOTH
        if hops > 1:
            around = {e for n in base for e in self._ends(n)} - set(mentioned)
            for number in self._near(sorted(around)[:EDGES]):
                base.setdefault(number, -1.0)
        known = {word for entity in mentioned for word in _words(self.name(entity))}
        shared = self._lines.shared(text, base, known)
        best: dict[str, tuple[float, int]] = {}
        for number, start in base.items():
            line = self._lines.texts[number]
            score = start + shared[number]
            score += 0.1 / (1.0 + log(self._relations[self.content.triples[number].relation]))
            if line not in best or best[line][0] < score:
                best[line] = (score, number)
        ranked = sorted(best.items(), key=lambda item: (-item[1][0], item[1][1]))[:limit]
        return tuple(
            Fact(text=line, source=self.content.triples[number].place, score=score)
            for line, (score, number) in ranked
        )

    def _near(self, entities: Sequence[str]) -> Iterator[int]:
        for entity in entities:
            yield from self._edges.get(entity, ())[:EDGES]

    def _ends(self, number: int) -> tuple[str, ...]:
        triple = self.content.triples[number]
        return (triple.head,) if triple.literal else (triple.head, triple.tail)

    def _neighbours(self, entity: str) -> set[str]:
        return {end for n in self._edges.get(entity, ())[:EDGES] for end in self._ends(n)}

    def _paths(self, mentioned: Sequence[str]) -> dict[int, float]:
        """Return triple -> closeness in (0, 1] for triples on two-step paths between mentions."""
        found: dict[int, float] = {}
        near = {entity: self._neighbours(entity) for entity in mentioned}
        for place, entity in enumerate(mentioned):
            for other in mentioned[place + 1 :]:
                for middle in near[entity] & near[other] - set(mentioned):
                    closeness = 1.0 / (1.0 + log(max(len(self._edges[middle]), 1)))
                    for end in (entity, other):
                        for number in self._between[frozenset((end, middle))]:
                            found[number] = max(found.get(number, 0.0), closeness)
        return found

    @cached_property
    def _lines(self) -> _Lines:
        return _Lines([self.verbalise(triple) for triple in self.content.triples])

    @cached_property
    def _index(self) -> NameIndex:
        return NameIndex(
            {
                entity: (own_name(entity), *self.content.names.get(entity, ()))
                for entity in self._edges
            }
        )


class _Lines:
    """The facts as text, and how many of them hold each word."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self._words = [frozenset(_words(text)) for text in texts]
        self._holding = Counter(word for words in self._words for word in words)

    def shared(self, text: str, numbers: Iterable[int], known: set[str]) -> dict[int, float]:
        """Return fact -> the share, in [0, 1], of the text's words (but `known`) it holds too.

        Words count by their inverse document frequency.
        """
        total = len(self.texts)
        weight = {}
        for word in _words(text):
            count = self._holding[word]
            weight[word] = log(1.0 + (total - count + 0.5) / (count + 0.5))
        whole = sum(weight.values()) or 1.0
        asked = weight.keys() - known
        return {n: sum(weight[w] for w in asked & self._words[n]) / whole for n in numbers}


def relation_words(relation: str) -> str:
    """Return a relation's identifier as words that stand between two names.

    >>> [relation_words(r) for r in ("isa", "_has_part", "http://ex.org/birthPlace", "/a/b/c./d/e")]
    ['is a', 'has part', 'birth place', 'e']
    """
    local = own_name(relation)
    if local.startswith("/"):
        local = local.rstrip("/").rsplit("/", 1)[-1].replace("_", " ")
    local = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", local)
    words = " ".join(local.replace(".", " ").split())
    words = (
        words
        if words.isupper()
        else " ".join(
            word if word.isupper() and len(word) > 1 else word.lower() for word in words.split()
        )
    )
    return RELATION_WORDS.get(words.lower(), words) or relation


def _words(text: str) -> list[str]:
    return [singular(piece) for piece in pieces(text) if piece[0].isalnum()]
