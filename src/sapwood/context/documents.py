"""Documents as facts: passages found by their words and, with an encoder, by their meaning.

BM25 (Robertson & Zaragoza 2009) in Lucene's form, from the bm25s library; with embeddings the
ranking by cosine is merged by reciprocal rank fusion (Cormack, Clarke & Büttcher, SIGIR 2009).
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.context.facts import Embed, Fact, Record
from sapwood.context.similarity import UNSPACED, same_text, tokens, unit
from sapwood.errors import DataError
from sapwood.interfaces import Floats
from sapwood.tasks.encodings import inspect
from sapwood.tasks.readers import read_examples

LIMIT = 3
TEXTS = (".txt", ".md", ".markdown", ".text")
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
# Words, or Chinese characters, a passage: about what a paragraph of three sentences has, so that
# three passages fit before a query without crowding out the demonstrations.
PASSAGE = 80
RANKED = 50  # places of each ranking that are merged; below them fusion gives next to nothing
FUSION = 60  # Cormack et al.'s constant: how little the first places outweigh the next
_UNIT = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.*\w)[^\w\n]*$", re.MULTILINE)
_CLOSING = "\"'”’」』）)\\]"
# A sentence ends at Chinese marks at once, at Western ones before a space and what may begin one.
_END = re.compile(
    rf"[。！？；…]+[{_CLOSING}]*|(?<!\b[A-Z])(?<!\b(?:Mr|Dr|St|vs|No))(?<!\b(?:Mrs|etc))"
    rf"[.!?]+[{_CLOSING}]*(?=\s+[^\sa-z])"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A few whole sentences; `line` is the 1-based line (or row) it begins at, `number` its place
    in its file, from 1.
    """

    text: str
    file: str
    line: int
    number: int

    @property
    def source(self) -> str:
        """Return "file:line passage number"."""
        return f"{self.file}:{self.line} passage {self.number}"


class Documents:
    """Passages with an index of their words."""

    limit: ClassVar[int] = LIMIT

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = tuple(passages)
        self._vectors: tuple[Embed, NDArray[np.float64]] | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read documents from a file or folder; see `read_passages`."""
        return cls(read_passages(path))

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> Self:
        """Rebuild exactly what `records` gave."""
        return cls([Passage(**record) for record in records])

    def records(self) -> Iterator[Record]:
        """Yield the passages with their file, line and number."""
        for p in self.passages:
            yield {"text": p.text, "file": p.file, "line": p.line, "number": p.number}

    def search(
        self,
        texts: Sequence[str],
        *,
        hops: int = 1,
        limit: int = LIMIT,
        embed: Embed | None = None,
    ) -> list[tuple[Fact, ...]]:
        """Return at most `limit` passages of each text, best first; `hops` is not used.

        Without `embed` only passages that share a word with the text are found, and the score is
        BM25's; with it the score is that of the fusion, in (0, 2 / 61]. A passage that is the text
        itself is never found.
        """
        similar: NDArray[np.float64] | None = None
        if embed is not None and texts and self.passages:
            if self._vectors is None or self._vectors[0] != embed:
                self._vectors = (embed, unit(embed([p.text for p in self.passages])))
            similar = unit(embed(list(texts)))
        found = []
        for number, text in enumerate(texts):
            scores = self._lexical(text)
            rankings = [scores]
            if similar is not None and self._vectors is not None:
                rankings.append(_above_lowest(self._vectors[1] @ similar[number]))
                scores = fused(rankings)
            found.append(self._best(text, scores, limit))
        return found

    def _best(self, text: str, scores: Floats, limit: int) -> tuple[Fact, ...]:
        asked = same_text(text)
        chosen: list[Fact] = []
        for place in _ranked(scores, limit + 5):
            passage = self.passages[place]
            if same_text(passage.text) == asked or any(f.text == passage.text for f in chosen):
                continue
            chosen.append(
                Fact(text=passage.text, source=passage.source, score=float(scores[place]))
            )
        return tuple(chosen[:limit])

    def _lexical(self, text: str) -> NDArray[np.float64]:
        """Return the BM25 score of every passage, 0 where no word is shared."""
        shared = [token for token in tokens(text) if token in self._known]
        if not shared:
            return np.zeros(len(self.passages))
        return np.asarray(self._index.get_scores(shared), np.float64)

    @cached_property
    def _tokens(self) -> list[list[str]]:
        return [tokens(passage.text) for passage in self.passages]

    @cached_property
    def _known(self) -> set[str]:
        return {token for found in self._tokens for token in found}

    @cached_property
    def _index(self) -> Any:
        import bm25s

        index = bm25s.BM25(method="lucene")
        index.index(self._tokens, show_progress=False)
        return index


def read_passages(path: Path) -> list[Passage]:
    """Cut the documents of a file, or of all text files under a folder, into passages.

    A table (.jsonl, .csv, ...) needs a text column; each row is a document and its row number the
    line. Raises DataError: E-DATA-093 no documents, or those of `inspect` and `read_examples`.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in TEXTS)
        if not files:
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in TABLES)
        parts = [(str(file.relative_to(path)), file) for file in files]
    else:
        parts = [(path.name, path)]
    found = [passage for name, file in parts for passage in _of_file(file, name)]
    if not found:
        raise DataError(
            "E-DATA-093",
            f"{path} holds no documents",
            fix="give .txt or .md files, or a .jsonl or .csv file with a text column",
        )
    return found


def passages(text: str, *, size: int = PASSAGE) -> list[tuple[int, str]]:
    """Return (line, passage) pairs: whole sentences, at most `size` words or characters each.

    A blank line or a new heading ends a passage, a heading stays with what follows it; a sentence
    longer than `size` is cut between words. `line` is 1-based.

    >>> passages("One two. Three four! Five.", size=4)
    [(1, 'One two. Three four!'), (1, 'Five.')]
    """
    found = []
    for start, stop in _paragraphs(text):
        held, used = (start, start), 0
        spans = [*_pieces(text, _sentences(text, start, stop), size), None]
        for span in spans:
            width = 0 if span is None else len(_UNIT.findall(text, *span))
            if span is None or used + width > size:
                found.append(held)
                held, used = (held[1], held[1]), 0
            if span is not None:
                held, used = (held[0], span[1]), used + width
    breaks = [match.start() for match in re.finditer("\n", text)]
    shown = []
    for start, stop in found:
        part = text[start:stop]
        words = " ".join(_HEADING.sub(r"\1:", part).split())
        if _UNIT.search(words):
            begin = start + len(part) - len(part.lstrip())
            shown.append((bisect_left(breaks, begin) + 1, words))
    return shown


def fused(rankings: Sequence[Floats]) -> NDArray[np.float64]:
    """Return the sum of 1 / (60 + place) over the rankings in which a passage is placed.

    `rankings`: scores (passages,) each; 0 or less is no place, and only the first 50 have one.
    """
    total = np.zeros(len(rankings[0]))
    for scores in rankings:
        for place, number in enumerate(_ranked(scores, RANKED), 1):
            total[number] += 1.0 / (FUSION + place)
    return total


def _ranked(scores: Floats, count: int) -> list[int]:
    """Return the places of the `count` highest scores above 0, best first, ties in their order."""
    above = np.flatnonzero(np.asarray(scores) > 0)
    if len(above) > 4 * count:
        bound = np.partition(scores[above], len(above) - count)[len(above) - count]
        above = above[scores[above] >= bound]
    order = np.argsort(-np.asarray(scores)[above], kind="stable")[:count]
    return [int(place) for place in above[order]]


def _above_lowest(cosines: Floats) -> NDArray[np.float64]:
    """Return cosines moved above 0, so that every passage has a place."""
    return np.asarray(cosines, np.float64) + 2.0


def _of_file(file: Path, name: str) -> Iterator[Passage]:
    if file.suffix.lower() in TABLES:
        for example in read_examples(file, need_label=False).examples:
            for number, (_, text) in enumerate(passages(example.text), 1):
                yield Passage(text=text, file=name, line=example.row, number=number)
        return
    if file.suffix.lower() not in TEXTS:
        raise DataError(
            "E-DATA-002",
            f"{file.name}: documents are not read from this kind of file",
            fix="give .txt, .md, .jsonl or .csv",
        )
    content = inspect(file)
    if content.encoding is None:
        raise DataError("E-DATA-002", f"{file.name} is not a text file", fix="give .txt or .md")
    try:
        text = file.read_text(encoding=content.encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            "E-DATA-003", f"{file.name} is not valid {error.encoding}", fix="save it as UTF-8"
        ) from error
    for number, (line, passage) in enumerate(passages(text.replace("\x00", "")), 1):
        yield Passage(text=passage, file=name, line=line, number=number)


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, stop): parted by blank lines and before headings."""
    start, offset, only_headings = -1, 0, True
    for line in text.splitlines(keepends=True):
        blank, heading = not line.strip(), _HEADING.match(line) is not None
        if start >= 0 and not only_headings and (blank or heading):
            yield start, offset
            start = -1
        if not blank:
            if start < 0:
                start, only_headings = offset, True
            only_headings = only_headings and heading
        offset += len(line)
    if start >= 0:
        yield start, offset


def _sentences(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    for match in _END.finditer(text, start, stop):
        yield start, match.end()
        start = match.end()
    if start < stop:
        yield start, stop


def _pieces(
    text: str, sentences: Iterable[tuple[int, int]], size: int
) -> Iterator[tuple[int, int]]:
    """Yield the sentences, those of more than `size` words or characters cut between words."""
    for start, stop in sentences:
        units = [match.start() for match in _UNIT.finditer(text, start, stop)]
        cuts = [start, *units[size::size], stop]
        yield from itertools.pairwise(cuts)
