"""Counts of n-grams, order by order: sorted blocks of tokens, merged on disk.

An n-gram is a place in the table of the order below, its first words, and one word more. So each
order is one sorted array of integers, whatever its length, and no pass holds more than a block of
tokens besides what the machine keeps of the files on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import DataError
from sapwood.interfaces import Event, Integers

Keys = NDArray[np.uint64]
Sequences = Iterable[tuple[Integers, Integers]]  # (ids of many texts in a row, length of each)

# Tokens that are sorted at once: keys, their order and what is made of them take 50 bytes a token.
BLOCK = 1 << 22
MOST = 1 << 31  # n-grams of one order: their places are kept in 32 bits


@dataclass(frozen=True, kw_only=True)
class Symbols:
    """Token ids 0 to `size` - 1, and those of <s>, </s> and <unk> among them."""

    size: int
    bos: int
    eos: int
    unk: int

    @classmethod
    def of(cls, tokenizer: Any) -> Symbols:
        """Return the symbols of a transformers tokenizer; marks that it lacks get new ids.

        One mark may be all that a tokenizer has for both ends of a text: <s> then gets a new id.
        """
        size = len(tokenizer)
        found: dict[str, int] = {}
        for name, own in (
            ("eos", tokenizer.eos_token_id),
            ("bos", tokenizer.bos_token_id),
            ("unk", tokenizer.unk_token_id),
        ):
            if own is None or own in found.values():
                own, size = size, size + 1
            found[name] = int(own)
        return cls(size=size, **found)


@dataclass(frozen=True, kw_only=True)
class Level:
    """The different n-grams of one order from two up, sorted by their keys.

    `keys`: (n,) place of the first words in the order below (of a bigram: the word) x number of
    words + last word; `counts`: (n,) how often each occurs; `suffixes`: (n,) place of the last
    words in the order below.
    """

    keys: Keys
    counts: Integers
    suffixes: Integers


class Text:
    """All texts on disk, each between <s> and </s>, in the smallest integers that hold a word."""

    def __init__(self, folder: Path, symbols: Symbols) -> None:
        self.symbols, self.path = symbols, folder / "text.bin"
        self.dtype = np.dtype(np.uint16 if symbols.size <= 1 << 16 else np.uint32)
        self.tokens = self.texts = 0

    def fill(self, sequences: Sequences) -> None:
        """Write all texts. Raises DataError (E-DATA-170) for ids outside the vocabulary."""
        with self.path.open("wb") as file:
            for ids, lengths in sequences:
                marked = self._marked(np.asarray(ids), np.asarray(lengths, dtype=np.int64))
                marked.tofile(file)
                self.tokens += len(marked)
                self.texts += len(lengths)
        if not self.texts:
            raise DataError(
                "E-DATA-171", "There is no text to count n-grams of.",
                fix="name a corpus or file that holds some",
            )  # fmt: skip

    def read(self) -> NDArray[Any]:
        """Return the tokens, (tokens,), as they lie on disk."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.tokens,))

    def _marked(self, ids: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """Return ids with marks around each text; marks inside a text are left out."""
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.symbols.size):
            raise DataError(
                "E-DATA-170",
                f"Token ids from {ids.min()} to {ids.max()} do not fit a vocabulary of "
                f"{self.symbols.size:,}.",
                fix="tokens and tokenizer of one corpus belong together",
            )
        inner = (ids != self.symbols.bos) & (ids != self.symbols.eos)
        if not inner.all():
            owners = np.repeat(np.arange(len(lengths)), lengths)[inner]
            lengths, ids = np.bincount(owners, minlength=len(lengths)), ids[inner]
        made = np.empty(len(ids) + 2 * len(lengths), self.dtype)
        ends = np.cumsum(lengths + 2) - 1
        plain = np.ones(len(made), bool)
        plain[ends] = plain[ends - lengths - 1] = False
        made[plain], made[ends], made[ends - lengths - 1] = ids, self.symbols.eos, self.symbols.bos
        return made


def count(
    text: Text, order: int, folder: Path, block: int = BLOCK
) -> Iterator[tuple[Event, Integers | Level]]:
    """Yield (an event, what it is about): counts a word (words,), then the Level of each order.

    Arrays lie in `folder`, which must stay until they were read. Raises DataError (E-DATA-172)
    where an order has more n-grams than can be kept.
    """
    words = text.read()
    single = np.zeros(text.symbols.size, np.int64)
    for start in range(0, len(words), block):
        single += np.bincount(words[start : start + block], minlength=len(single))
    yield _event(1, order, int((single > 0).sum())), single
    places: NDArray[Any] = words  # of the n-gram of the order below that ends at each token
    for size in range(2, order + 1):
        level, places = _counted(_Pass(
            text=text, words=words, below=places, folder=folder / str(size), block=block,
            last=size == order,
        ))  # fmt: skip
        if len(level.keys) >= MOST:
            raise DataError(
                "E-DATA-172",
                f"There are {len(level.keys):,} different {size}-grams, more than {MOST:,}.",
                fix=f"a smaller order, such as ngram-{size - 1}",
            )
        yield _event(size, order, len(level.keys)), level


def _event(done: int, total: int, found: int) -> Event:
    return Event(
        kind="progress", candidate="count", done=done, total=total, note=f"{found:,} {done}-grams"
    )


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One pass over the text: `below` holds places in the order below, -1 where a text is short."""

    text: Text
    words: NDArray[Any]
    below: NDArray[Any]
    folder: Path
    block: int
    last: bool


def _counted(run: _Pass) -> tuple[Level, NDArray[Any]]:
    """Return one order and the place in it of the n-gram that ends at each token (-1: none)."""
    run.folder.mkdir()
    total, parts = len(run.words), list[Level]()
    places = np.zeros(0, np.int32)
    if not run.last:
        places = np.memmap(run.folder / "places.bin", np.int32, mode="w+", shape=(total,))
    for number, start in enumerate(range(0, total, run.block)):
        end = min(start + run.block, total)
        level, own = _sorted(run, start, end)
        parts.append(_kept(level, run.folder / f"block{number}") if total > run.block else level)
        if not run.last:
            places[start:end] = own
    level = parts[0] if len(parts) == 1 else _merged(parts, run.folder, run.block)
    if len(parts) > 1 and not run.last:
        for start, part in zip(range(0, total, run.block), parts, strict=True):
            moved = np.searchsorted(level.keys, part.keys).astype(np.int32)
            own = places[start : start + run.block]
            there = own >= 0
            own[there] = moved[own[there]]
    return level, places


def _sorted(run: _Pass, start: int, end: int) -> tuple[Level, NDArray[np.int32]]:
    """Return the n-grams that end in one block of tokens, and each token's place among them."""
    words = np.asarray(run.words[start:end])
    before = np.empty(end - start, np.int64)
    before[0] = run.below[start - 1] if start else -1
    before[1:] = run.below[start : end - 1]
    at = np.flatnonzero((before >= 0) & (words != run.text.symbols.bos))
    keys = before[at].astype(np.uint64) * np.uint64(run.text.symbols.size) + words[at]
    keys, order = ordered(keys)
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    firsts = np.flatnonzero(new)
    places = np.full(end - start, -1, np.int32)
    places[at[order]] = np.cumsum(new) - 1
    return Level(
        keys=keys[firsts],
        counts=np.diff(np.append(firsts, len(keys))),
        suffixes=np.asarray(run.below[start:end])[at[order[firsts]]].astype(np.int32),
    ), places


def ordered(keys: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Return keys in order and where each was, both (n,).

    Where keys and places fit 64 bits together they are sorted as one number, which numpy does five
    times as fast as sorting places by keys (4 M keys: 98 and 510 ms).
    """
    bits = max(len(keys) - 1, 1).bit_length()
    if len(keys) and int(keys.max()).bit_length() + bits <= 64:
        shift = np.uint64(bits)
        both = np.sort((keys << shift) | np.arange(len(keys), dtype=np.uint64))
        return both >> shift, (both & ((np.uint64(1) << shift) - np.uint64(1))).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    return keys[order], order


def _kept(level: Level, path: Path) -> Level:
    """Write a level to disk and return it as it lies there."""
    found = {}
    for name in ("keys", "counts", "suffixes"):
        file = path.with_name(f"{path.name}.{name}.npy")
        np.save(file, getattr(level, name))
        found[name] = np.load(file, mmap_mode="r")
    return Level(**found)


def _merged(parts: Sequence[Level], folder: Path, block: int) -> Level:
    """Merge sorted levels into one on disk; keys that several have get the sum of their counts."""
    dtypes = {"keys": np.uint64, "counts": np.int64, "suffixes": np.int32}
    files = {name: (folder / f"{name}.bin").open("wb") for name in dtypes}
    total = 0
    try:
        for level in _pieces(parts, max(block // len(parts), 1 << 10)):
            for name, file in files.items():
                getattr(level, name).astype(dtypes[name]).tofile(file)
            total += len(level.keys)
    finally:
        for file in files.values():
            file.close()
    if not total:  # texts without a word have nothing of this length
        return parts[0]
    found = {
        name: np.memmap(folder / f"{name}.bin", dtype, mode="r", shape=(total,))
        for name, dtype in dtypes.items()
    }
    return Level(**found)


def _pieces(parts: Sequence[Level], size: int) -> Iterator[Level]:
    """Yield merged stretches of all levels, from the smallest key to the largest."""
    at = [0] * len(parts)
    while any(a < len(part.keys) for a, part in zip(at, parts, strict=True)):
        # Whatever is at most this key lies among the next `size` keys of its level.
        bound = min(
            part.keys[min(a + size, len(part.keys)) - 1]
            for a, part in zip(at, parts, strict=True)
            if a < len(part.keys)
        )
        cuts = [
            a + int(np.searchsorted(part.keys[a : a + size], bound, side="right"))
            for a, part in zip(at, parts, strict=True)
        ]
        spans = list(zip(parts, at, cuts, strict=True))
        keys, order = ordered(np.concatenate([part.keys[a:b] for part, a, b in spans]))
        firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        counts = np.concatenate([part.counts[a:b] for part, a, b in spans])[order]
        suffixes = np.concatenate([part.suffixes[a:b] for part, a, b in spans])[order]
        yield Level(
            keys=keys[firsts],
            counts=np.add.reduceat(counts, firsts),
            suffixes=suffixes[firsts],
        )
        at = cuts
