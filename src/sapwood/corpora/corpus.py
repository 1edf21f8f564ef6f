"""A corpus on disk, read: memory-mapped, so that its size costs nothing until it is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.corpora.packing import ARRAYS, PARTS
from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Document
from sapwood.packages import sha256_of
from sapwood.registry import did_you_mean

MAIN, SCHEMA = "corpus.json", 1
OPEN = 64  # shards whose files are held open


@dataclass(frozen=True, kw_only=True)
class Part:
    """The train or held-out documents of a corpus, in order; `corpus` is the corpus's hash."""

    folder: Path
    corpus: str
    shards: tuple[str, ...]
    bounds: tuple[int, ...]
    tokens: int
    bytes: int

    def __len__(self) -> int:
        """Return the number of documents."""
        return self.bounds[-1]

    def document(self, index: int) -> Document:
        """Return document `index`, 0 to len - 1; its arrays are views of the files."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        shard = int(np.searchsorted(self.bounds, index, side="right")) - 1
        arrays = _mapped(self.folder, self.shards[shard], self.corpus)
        place = index - self.bounds[shard]
        first, last = (int(at) for at in arrays["documents"][place : place + 2])
        sentences = np.asarray(arrays["sentences"][first : last + 1])
        start, end = int(sentences[0]), int(sentences[-1])
        return Document(
            ids=arrays["ids"][start:end],
            starts=arrays["starts"][start:end],
            sentences=sentences - start,
            bytes=int(arrays["bytes"][place]),
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each document, (documents,), without reading them."""
        rows = self._of_shards(lambda a: np.diff(a["sentences"][a["documents"]]))
        return np.concatenate([*rows, np.zeros(0, np.int64)])

    @property
    def sentence_counts(self) -> NDArray[np.int64]:
        """Return the sentences of each document, (documents,)."""
        rows = self._of_shards(lambda a: np.diff(a["documents"]))
        return np.concatenate([*rows, np.zeros(0, np.int64)])

    @property
    def sentence_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each sentence of all documents, (sentences,)."""
        rows = self._of_shards(lambda a: np.diff(a["sentences"]))
        return np.concatenate([*rows, np.zeros(0, np.int64)])

    def _of_shards(
        self, read: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
    ) -> list[NDArray[Any]]:
        return [read(_mapped(self.folder, name, self.corpus)) for name in self.shards]


@lru_cache(maxsize=OPEN)
def _mapped(folder: Path, name: str, corpus: str) -> Mapping[str, NDArray[Any]]:
    """Return the arrays of a shard; `corpus` is the hash of the corpus that they are of."""
    del corpus  # a part of the key: the folder may hold another one later
    return {
        array: np.load(folder / f"{name}.{array}.npy", mmap_mode="r", allow_pickle=False)
        for array in ARRAYS
    }


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus folder whose files are there in full; `sha256` names its content."""

    folder: Path
    card: Mapping[str, Any]
    sha256: str

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Open a corpus; the sizes of its files are checked, their hashes are not.

        Raises DataError: E-DATA-192 no corpus, E-DATA-193 of another schema, E-DATA-194 files that
        are missing or cut off, all of them.
        """
        folder = Path(folder)
        main = folder / MAIN
        if not main.is_file():
            begun = (folder / ".build").is_dir()
            raise DataError(
                "E-DATA-192",
                f"{folder} holds a corpus that is not finished" if begun else
                f"{folder} holds no corpus: {MAIN} is not there",
                fix="run the same `sapwood corpus build` again: it goes on" if begun
                else "sapwood corpus build SOURCE... --out DIR",
            )  # fmt: skip
        try:
            card = json.loads(main.read_text(encoding="utf-8"))
            schema, shards = card["schema"], card["shards"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                "E-DATA-193", f"{main} cannot be read: {error}", fix="build the corpus again"
            ) from None
        if schema != SCHEMA:
            raise DataError(
                "E-DATA-193",
                f"{main} has schema {schema}; this version of Sapwood reads {SCHEMA}",
                fix="build the corpus again, or use the version that made it",
            )
        _must_be_whole(folder, shards)
        return cls(folder=folder, card=card, sha256=sha256_of(main))

    @property
    def tokenizer(self) -> Path:
        """Return the folder of the tokenizer."""
        return self.folder / "tokenizer"

    @property
    def vocabulary(self) -> int:
        """Return the size of the vocabulary, added tokens counted."""
        return int(self.card["tokenizer"]["vocabulary"])

    def part(self, name: str) -> Part:
        """Return "train" or "held". Raises ConfigError E-CONFIG-233 for another name."""
        if name not in PARTS:
            raise ConfigError(
                "E-CONFIG-233", f"A corpus has no part '{name}'.{did_you_mean(name, PARTS)}",
                fix=f"use one of: {', '.join(PARTS)}",
            )  # fmt: skip
        mine = [shard for shard in self.card["shards"] if shard["part"] == name]
        return Part(
            folder=self.folder / "tokens",
            corpus=self.sha256,
            shards=tuple(shard["name"] for shard in mine),
            bounds=(0, *np.cumsum([shard["documents"] for shard in mine]).astype(int).tolist()),
            tokens=sum(shard["tokens"] for shard in mine),
            bytes=sum(shard["bytes"] for shard in mine),
        )


def _must_be_whole(folder: Path, shards: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError E-DATA-194 with every array whose file is missing or of another length."""
    wrong = []
    for shard in shards:
        lengths = {
            "ids": shard["tokens"], "starts": shard["tokens"], "bytes": shard["documents"],
            "sentences": shard["sentences"] + 1, "documents": shard["documents"] + 1,
        }  # fmt: skip
        for array in ARRAYS:
            path = folder / "tokens" / f"{shard['name']}.{array}.npy"
            try:
                found = np.load(path, mmap_mode="r", allow_pickle=False).shape
            except (OSError, ValueError, EOFError) as error:
                wrong.append(f"{path.name}: {getattr(error, 'strerror', None) or error}")
                continue
            if found != (lengths[array],):
                wrong.append(f"{path.name}: {found} values, {lengths[array]:,} expected")
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        wrong.append("tokenizer/tokenizer.json: not there")
    if wrong:
        raise DataError(
            "E-DATA-194", f"{folder} is not whole", details=wrong[:20],
            fix="build it again with --fresh, or copy it again",
        )  # fmt: skip
