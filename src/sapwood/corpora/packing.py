"""Documents to arrays: token ids, where words begin, where sentences begin; one shard at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sapwood.corpora.sentences import sentence_starts
from sapwood.corpora.shelf import read_rows, write_array
from sapwood.corpora.tokenizing import opened
from sapwood.corpora.words import word_starts
from sapwood.interfaces import Document
from sapwood.packages import sha256_of

BATCH = 1 << 20  # characters of documents read at once
SEGMENT = 1 << 17  # characters encoded at once: some 30 MB of the library's objects
LINE = re.compile(r"\S\n")
SMALL = 1 << 16  # ids of a larger vocabulary take 4 bytes
T = TypeVar("T")
ARRAYS = ("ids", "starts", "sentences", "documents", "bytes")
PARTS = ("train", "held")


def encoded(tokenizer: Any, texts: Sequence[str], languages: Sequence[str]) -> Iterator[Document]:
    """Yield each text as token ids with its words and sentences."""
    parts = [(number, part) for number, text in enumerate(texts) for part in segments(text)]
    made: dict[int, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {}
    reached = 0
    for batch in _batches(iter(parts), lambda one: len(one[1]), SEGMENT):
        found = tokenizer.encode_batch([part for _, part in batch], add_special_tokens=False)
        for (number, part), one in zip(batch, found, strict=True):
            ids = np.asarray(one.ids, dtype=np.int64)
            made.setdefault(number, []).append((ids, _ends(one.offsets, part)))
        del found  # the library's objects take 200 bytes a token
        last = batch[-1][0]
        for number in range(reached, last):
            yield _document(texts[number], languages[number], made.pop(number, []))
        reached = last
    for number in range(reached, len(texts)):
        yield _document(texts[number], languages[number], made.pop(number, []))


def segments(text: str) -> Iterator[str]:
    """Yield a text in parts of about SEGMENT characters, cut before a line end where there is one.

    Every tokenizer here ends a word at a line end, so the parts have the tokens of the whole.
    """
    while len(text) > SEGMENT:
        cut = LINE.search(text, SEGMENT)
        if cut is None:
            break
        yield text[: cut.start() + 1]
        text = text[cut.start() + 1 :]
    yield text


def _document(
    text: str, language: str, parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> Document:
    """Return the document of a text from the ids and ends of its segments."""
    sizes = np.cumsum([0, *(len(part) for part in segments(text))])
    none = np.zeros(0, dtype=np.int64)
    ends = np.concatenate(
        [none, *(ends + size for (_, ends), size in zip(parts, sizes, strict=False))]
    )
    return Document(
        ids=np.concatenate([none, *(ids for ids, _ in parts)]),
        starts=_begins(ends, word_starts(text, language)),
        sentences=_sentences(ends, sentence_starts(text)),
        bytes=len(text.encode()),
    )


def _ends(offsets: Sequence[tuple[int, int]], text: str) -> NDArray[np.int64]:
    """Return where in the text each token ends, (tokens,).

    Byte fallback gives all bytes of a run of unknown characters the place of the whole run; here
    each gets that of its own character.
    """
    places = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    ends = places[:, 1].copy()
    same = (places[1:] == places[:-1]).all(axis=1) & (places[1:, 1] - places[1:, 0] > 1)
    first = 0
    for at in np.flatnonzero(same).tolist():
        if at < first:
            continue
        start, end = offsets[at]
        sizes = [len(char.encode()) for char in text[start:end]]
        first = at + sum(sizes)
        if first <= len(ends) and (places[at:first] == places[at]).all():
            ends[at:first] = np.repeat(np.arange(start + 1, end + 1), sizes)
    return ends


def _begins(ends: NDArray[np.int64], words: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which tokens begin a word: a word begins where the token before ended, or inside it.

    A character of several byte tokens begins its word in the first of them alone.
    """
    if not len(ends):
        return np.zeros(0, dtype=bool)
    reached = np.maximum.accumulate(ends)
    before = np.concatenate([[0], reached[:-1]])
    starts = np.searchsorted(words, reached) > np.searchsorted(words, before)
    starts[0] = True
    return np.asarray(starts, dtype=bool)


def _sentences(ends: NDArray[np.int64], begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return token offsets of sentences: the token that holds a sentence's first character."""
    if not len(ends):
        return np.zeros(1, dtype=np.int64)
    found = np.searchsorted(np.maximum.accumulate(ends), begins, side="right")
    inside = found[found < len(ends)]
    return np.unique(np.concatenate([[0], inside, [len(ends)]])).astype(np.int64)


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, changed: int) -> Any:
    """Return the tokenizer of a folder, read once for as long as it does not change."""
    del changed
    return opened(folder)


def pack(out: Path, number: int, width: int) -> dict[str, Any]:
    """Encode the documents of shard `number` and write its arrays; return what was written.

    `width` is the size of the vocabulary. The result names each part's documents, tokens, bytes and
    the SHA-256 of its files.
    """
    folder = out / "tokenizer"
    tokenizer = _tokenizer(folder, (folder / "tokenizer.json").stat().st_mtime_ns)
    parts: dict[str, list[Document]] = {part: [] for part in PARTS}
    kind = np.uint16 if width <= SMALL else np.uint32
    stored = read_rows(out / "documents" / f"{number:05d}.jsonl.gz")
    for rows in _batches(stored, lambda row: len(row["text"]), BATCH):
        texts, languages = [row["text"] for row in rows], [row["language"] for row in rows]
        for row, document in zip(rows, encoded(tokenizer, texts, languages), strict=True):
            if len(document.ids):
                small = Document(
                    ids=document.ids.astype(kind), starts=document.starts,
                    sentences=document.sentences, bytes=document.bytes,
                )  # fmt: skip
                parts[row["part"]].append(small)
    return {
        part: _written(out / "tokens", f"{part}-{number:05d}", documents, kind)
        for part, documents in parts.items()
        if documents
    }


def _batches(things: Iterator[T], size_of: Callable[[T], int], largest: int) -> Iterator[list[T]]:
    """Yield runs of things whose sizes sum to `largest` or a little more."""
    batch: list[T] = []
    size = 0
    for thing in things:
        batch.append(thing)
        size += size_of(thing)
        if size >= largest:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _written(folder: Path, name: str, documents: Sequence[Document], kind: Any) -> dict[str, Any]:
    arrays = joined(documents, kind)
    files: dict[str, str] = {}
    for array in ARRAYS:
        path = folder / f"{name}.{array}.npy"
        write_array(path, arrays[array])
        files[path.name] = sha256_of(path)
    return {
        "documents": len(documents), "tokens": len(arrays["ids"]),
        "bytes": int(arrays["bytes"].sum()), "sentences": len(arrays["sentences"]) - 1,
        "files": files,
    }  # fmt: skip


def joined(documents: Sequence[Document], kind: Any) -> Mapping[str, NDArray[Any]]:
    """Return a shard's arrays: ids and starts end to end, sentences and documents as offsets."""
    counts = [len(document.sentences) - 1 for document in documents]
    firsts = np.concatenate([[0], np.cumsum([len(document.ids) for document in documents])])
    sentences = [d.sentences[:-1] + first for d, first in zip(documents, firsts[:-1], strict=True)]
    return {
        "ids": np.concatenate([document.ids for document in documents]).astype(kind),
        "starts": np.concatenate([document.starts for document in documents]),
        "sentences": np.concatenate([*sentences, firsts[-1:]]).astype(np.int64),
        "documents": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "bytes": np.array([document.bytes for document in documents], dtype=np.int64),
    }
