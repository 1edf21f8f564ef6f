"""Evaluation texts kept out: passages that share a long n-gram with one are cut, as for GPT-3.

Brown et al. (2020), "Language Models are Few-Shot Learners", appendix C: 13-grams of words, 200
characters on both sides cut with them, documents in more than 10 pieces or with less than 200
characters left dropped. Chinese counts 20 characters, which are about 13 words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.corpora.draft import Draft, Drop, Step, counted
from sapwood.corpora.streams import Damaged, decoded, lines_of
from sapwood.corpora.words import is_han, units
from sapwood.errors import DataError

WORDS, CHARACTERS = 13, 20  # of an n-gram
# Shorter evaluation texts are looked for whole, down to these; below, they are common phrases.
FEWEST_WORDS, FEWEST_CHARACTERS = 8, 10
AROUND, PIECES, LEFT = 200, 10, 200  # characters, passages, characters: the paper's
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that powers keep all 64 bits
Hashes = NDArray[np.uint64]


def kept_out(paths: Sequence[Path]) -> dict[str, Hashes]:
    """Return the n-grams of evaluation texts: length -> sorted hashes.

    Every text in a row counts: all columns of JSONL, CSV and Parquet, every line of plain text.
    Raises DataError E-DATA-191 with all files that cannot be read.
    """
    found: dict[int, list[Hashes]] = {}
    problems = []
    for path in paths:
        try:
            for text in _texts(path):
                parts = [unit for unit, _, _ in units(text)]
                n, fewest = (WORDS, FEWEST_WORDS)
                if is_han(text):
                    n, fewest = (CHARACTERS, FEWEST_CHARACTERS)
                if len(parts) >= fewest:
                    size = min(n, len(parts))
                    found.setdefault(size, []).append(ngrams(parts, size))
        except (OSError, Damaged) as error:
            problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")
    if problems:
        raise DataError(
            "E-DATA-191", "Texts to keep out cannot be read", details=problems,
            fix="give files of JSONL, CSV, Parquet or plain text with --keep-out",
        )  # fmt: skip
    return {str(size): np.unique(np.concatenate(parts)) for size, parts in found.items()}


def _texts(path: Path) -> Iterator[str]:
    """Yield every text of a file."""
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    if parquet:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield from _strings(row)
        return
    for line in lines_of(path):
        text = decoded(line) if line is not None else None
        if text is None:
            continue
        if text.lstrip().startswith("{"):
            try:
                yield from _strings(json.loads(text))
                continue
            except ValueError:
                pass
        yield text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


@lru_cache(maxsize=1 << 18)
def _hash(unit: str) -> int:
    return int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8).digest(), "little")


def ngrams(parts: Sequence[str], n: int) -> Hashes:
    """Return a hash of every run of `n` units, (len(parts) - n + 1,), none for fewer units."""
    count = len(parts) - n + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.fromiter(map(_hash, parts), dtype=np.uint64, count=len(parts))
    total = np.zeros(count, dtype=np.uint64)
    for at in range(n):  # a polynomial in the multiplier, modulo 2^64
        total = total * MULTIPLIER + hashes[at : at + count]
    return total


def overlap_step(index: Mapping[str, Hashes]) -> Step:
    """Return the step that cuts passages whose n-grams are in `index`."""

    def step(draft: Draft) -> Draft | Drop:
        places = list(units(draft.text))
        parts = [unit for unit, _, _ in places]
        cuts: list[tuple[int, int]] = []
        for size, wanted in index.items():
            n = int(size)
            hashes = ngrams(parts, n)
            at = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
            for i in np.flatnonzero(wanted[at] == hashes).tolist():
                cuts.append((places[i][1] - AROUND, places[i + n - 1][2] + AROUND))
        if not cuts:
            return draft
        pieces, removed = _without(draft.text, sorted(cuts))
        left = "\n\n".join(pieces)
        if len(pieces) > PIECES or len(left) < LEFT:
            return Drop(reason="overlaps an evaluation text", detail=f"{removed} passages")
        return counted(draft, left, {"passages of evaluation texts": removed})

    return step


def _without(text: str, cuts: Sequence[tuple[int, int]]) -> tuple[list[str], int]:
    """Return (what is left between the cuts, number of passages cut); cuts that touch are one."""
    joined: list[tuple[int, int]] = []
    for start, end in cuts:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    ends = [0, *(end for _, end in joined)]
    starts = [*(max(0, start) for start, _ in joined), len(text)]
    pieces = [text[end:start].strip() for end, start in zip(ends, starts, strict=True)]
    return [piece for piece in pieces if piece], len(joined)
