r"""N-gram models as text, in the format of ARPA that every n-gram toolkit reads and writes.

    \data\
    ngram 1=4
    \1-grams:
    -0.9<tab>the<tab>-0.3          log10 p, words, log10 of the backoff (none in the highest order)
    \end\

<s>, </s> and <unk> are the marks of SRILM and KenLM. <s> is never predicted: its log10 is -99.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ModelError
from sapwood.files import told
from sapwood.models.counting import Symbols
from sapwood.models.ngram import NGram
from sapwood.models.smoothing import Order

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
NEVER = -99.0  # log10 of a probability that is none (SRILM)
MISSING_UNK = -100.0  # log10 p(<unk>) where a file has none (KenLM)
LN10 = math.log(10.0)
LINES = 1 << 16  # written at once
_SPACES = " \t\n\r\v\f\0"  # what parts words for the programs that read ARPA files


def write_arpa(model: NGram, words: Sequence[str], path: Path) -> None:
    """Write a model as ARPA, gzipped where the name ends in .gz; whole or not at all.

    `words`: the word of each id; the three marks are written as ARPA names them. Raises ModelError
    (E-MODEL-172) for words that such a file cannot hold.
    """
    names = _names(model.symbols, words, model.known)
    part = path.with_name(f".{path.name}.part")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _opened(part, "wt", zipped=path.suffix == ".gz") as file:
                file.write("\\data\\\n")
                for number, size in enumerate(model.sizes, 1):
                    file.write(f"ngram {number}={size}\n")
                for number in range(1, model.order + 1):
                    file.write(f"\n\\{number}-grams:\n")
                    file.writelines(_lines(model, number, names))
                file.write("\n\\end\\\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _opened(path: Path, mode: str, *, zipped: bool) -> IO[str]:
    if zipped:
        return gzip.open(path, mode, encoding="utf-8")  # type: ignore[return-value]
    return path.open(mode, encoding="utf-8")


def _names(symbols: Symbols, words: Sequence[str], known: NDArray[np.bool_]) -> list[str]:
    """Return the written form of each id."""
    names = list(words)
    for place, name in ((symbols.bos, BOS), (symbols.eos, EOS), (symbols.unk, UNK)):
        names[place] = name
    used = [names[n] for n in np.flatnonzero(known)]
    wrong = [repr(name) for name in used if not name or any(c in name for c in _SPACES)]
    twice = sorted({name for name in (BOS, EOS, UNK) if used.count(name) > 1})
    if wrong or twice:
        raise ModelError(
            "E-MODEL-172",
            "These words cannot stand in an ARPA file: "
            + ("they are empty or hold spaces." if wrong else "two of them have one name."),
            details=[*wrong[:5], *twice],
            fix="keep the folder, which has no such limit",
        )
    return names


def _lines(model: NGram, number: int, names: Sequence[str]) -> Iterator[str]:
    order, last = model.orders[number - 1], number == model.order
    places = model.listed() if number == 1 else np.arange(len(order.keys))
    for start in range(0, len(places), LINES):
        rows = places[start : start + LINES]
        texts = [" ".join(row) for row in zip(*_words(model, number, rows, names), strict=True)]
        logs = np.maximum(order.logs[rows] / LN10, NEVER).tolist()
        if last:
            yield from (f"{p:.7g}\t{t}\n" for p, t in zip(logs, texts, strict=True))
            continue
        backoffs = (order.backoffs[rows] / LN10).tolist()
        yield from (
            f"{p:.7g}\t{t}\t{b:.7g}\n" if b else f"{p:.7g}\t{t}\t0\n"
            for p, t, b in zip(logs, texts, backoffs, strict=True)
        )


def _words(
    model: NGram, number: int, rows: NDArray[np.int64], names: Sequence[str]
) -> list[list[str]]:
    """Return the words of n-grams, a list for each position."""
    size, columns = np.uint64(model.symbols.size), list[list[str]]()
    for at in range(number - 1, 0, -1):
        keys = model.orders[at].keys[rows]
        columns.append([names[word] for word in (keys % size).tolist()])
        rows = (keys // size).astype(np.int64)
    columns.append([names[word] for word in rows.tolist()])
    return columns[::-1]


def read_arpa(path: Path, vocabulary: Sequence[str] | None = None) -> tuple[NGram, list[str]]:
    """Read an ARPA file, gzipped or not; return the model and the word of each id.

    `vocabulary`: the words of a tokenizer in the order of their ids, so that ids agree with it;
    words of the file that are not in it get further ids. Contexts that a pruned file leaves out
    are filled in, so that every text scores as in the file. Raises ModelError (E-MODEL-173) that
    names the line where something is wrong.
    """
    if not path.is_file():
        raise ModelError("E-MODEL-173", f"There is no ARPA file {path}.", fix="name an .arpa file")
    with _opened(path, "rt", zipped=_is_gzip(path)) as file:
        reader = _Reader(path, file, vocabulary or ())
        try:
            return reader.model(), reader.words
        except UnicodeDecodeError as error:
            raise reader.wrong("it is not UTF-8 text") from error
        except (EOFError, gzip.BadGzipFile) as error:
            raise reader.wrong(f"the file is damaged ({error})") from error


def words_of(tokenizer: Any, symbols: Symbols) -> list[str]:
    """Return the word of each id as ARPA files name it: a tokenizer's tokens, and the marks."""
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    names += [""] * (symbols.size - len(names))
    for place, name in ((symbols.bos, BOS), (symbols.eos, EOS), (symbols.unk, UNK)):
        names[place] = name
    return names


def word_tokenizer(model: NGram, words: Sequence[str]) -> Any:
    """Return a tokenizer of words between spaces with the ids of a model."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers: Any = import_module("transformers")
    symbols = model.symbols
    backend = Tokenizer(models.WordLevel(
        {word: number for number, word in enumerate(words)}, unk_token=words[symbols.unk]
    ))  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=words[symbols.bos], eos_token=words[symbols.eos], unk_token=words[symbols.unk],
    )  # fmt: skip


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


class _Reader:
    """One ARPA file while it is read."""

    def __init__(self, path: Path, file: IO[str], vocabulary: Sequence[str]) -> None:
        self.path, self.line = path, 0
        self.lines: Iterator[str] = iter(file)
        self.words = list(vocabulary)
        self.ids = {word: number for number, word in enumerate(self.words)}

    def wrong(self, why: str) -> ModelError:
        return ModelError(
            "E-MODEL-173", f"{self.path}:{self.line}: {why}.",
            fix="write the ARPA file again with the program that made it",
        )  # fmt: skip

    def model(self) -> NGram:
        sizes = self._header()
        tables = [self._section(number, size, sizes) for number, size in enumerate(sizes, 1)]
        if self._next() != "\\end\\":
            raise self.wrong("\\end\\ is missing, so the file may be cut short")
        for name in (BOS, EOS, UNK):
            self._id(name)
        symbols = Symbols(
            size=len(self.words), bos=self.ids[BOS], eos=self.ids[EOS], unk=self.ids[UNK]
        )
        return _assembled(symbols, tables)

    def _next(self) -> str:
        """Return the next line that is not blank, "" at the end."""
        for line in self.lines:
            self.line += 1
            if line.strip():
                return line.rstrip("\r\n").strip(" ")
        return ""

    def _header(self) -> list[int]:
        if self._next() != "\\data\\":
            raise self.wrong("an ARPA file begins with \\data\\")
        sizes: list[int] = []
        at = self._next()
        while at.startswith("ngram "):
            name, _, size = at[6:].partition("=")
            if name.strip() != str(len(sizes) + 1) or not size.strip().isdigit():
                raise self.wrong(f"'ngram {len(sizes) + 1}=NUMBER' should stand here")
            sizes.append(int(size))
            at = self._next()
        if not sizes or at != "\\1-grams:":
            raise self.wrong("sizes ('ngram 1=...') and then \\1-grams: should stand here")
        return sizes

    def _section(self, number: int, size: int, sizes: list[int]) -> _Table:
        if number > 1 and self._next() != f"\\{number}-grams:":
            raise self.wrong(f"\\{number}-grams: should stand here, after {sizes[number - 2]:,} "
                             f"lines of {number - 1}-grams")  # fmt: skip
        words = np.zeros((size, number), np.int64)
        values = np.zeros((size, 2))
        row = 0
        while row < size:
            batch = list(islice(self.lines, min(LINES, size - row)))
            end = row + max(len(batch), 1)
            found = self._quick(number, batch)
            if found is not None:
                words[row:end], values[row:end] = found
                self.line += len(batch)
            else:  # line by line: it is laid out in another way, or something is wrong
                self.lines = chain(batch, self.lines)
                for at in range(row, end):
                    words[at], values[at] = self._slow(number)
            row = end
        return _Table(words, values * LN10)

    def _quick(
        self, number: int, batch: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Return words and numbers of lines, None unless all are as most programs write them."""
        lines = [line if line.count("\t") == 2 else line.rstrip("\r\n") + "\t0\n" for line in batch]
        cells = "".join(lines).rstrip("\n").replace("\n", "\t").split("\t")
        grams = " ".join(cells[1::3]).split(" ")
        if not lines or len(cells) != 3 * len(lines) or len(grams) != number * len(lines):
            return None
        try:
            values = np.array([cells[0::3], cells[2::3]], dtype=np.float64).T
            find = self._id if number == 1 else self.ids.__getitem__
            words = np.fromiter(map(find, grams), np.int64, len(grams)).reshape(-1, number)
        except (ValueError, KeyError):
            return None
        return (words, values) if (values[:, 0] <= 0).all() and np.isfinite(values).all() else None

    def _slow(self, number: int) -> tuple[list[int], tuple[float, float]]:
        at = self._next()
        parts = at.split()
        grams, rest = parts[1 : number + 1], parts[number + 1 :]
        if len(grams) != number or len(rest) > 1 or at.startswith("\\"):
            raise self.wrong(
                f"a log10, {number} words and perhaps a backoff should stand here, got {at[:60]!r}"
            )
        try:
            values = float(parts[0]), float(rest[0]) if rest else 0.0
        except ValueError:
            raise self.wrong(f"{at[:60]!r} has a number that is none") from None
        if values[0] > 0 or not np.isfinite(values).all():
            raise self.wrong(f"{parts[0]} is not the log10 of a probability")
        words = [self._id(gram) if number == 1 else self.ids.get(gram, -1) for gram in grams]
        if -1 in words:
            raise self.wrong(f"the word {grams[words.index(-1)]!r} is not among the 1-grams")
        return words, values

    def _id(self, word: str) -> int:
        if word not in self.ids:
            self.ids[word] = len(self.words)
            self.words.append(word)
        return self.ids[word]


class _Table:
    """The n-grams of one section: words (n, order), and (log p, log backoff) of each, (n, 2)."""

    def __init__(self, words: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        self.words, self.values = words, values


def _assembled(symbols: Symbols, tables: Sequence[_Table]) -> NGram:
    """Return the model of all sections, from single words up."""
    known = np.zeros(symbols.size, bool)
    known[tables[0].words[:, 0]] = True
    logs, backoffs = np.full(symbols.size, -np.inf), np.zeros(symbols.size)
    logs[tables[0].words[:, 0]], backoffs[tables[0].words[:, 0]] = tables[0].values.T
    if not known[symbols.unk]:
        logs[symbols.unk] = MISSING_UNK * LN10
    logs[logs <= NEVER * LN10] = np.where(np.arange(symbols.size) == symbols.bos, -np.inf, logs)[
        logs <= NEVER * LN10
    ]
    first = _order(np.zeros(0, np.uint64), logs, backoffs, last=len(tables) == 1)
    model = NGram(symbols=symbols, orders=(first,), known=known, about={"source": "ARPA"})
    try:
        return _with_orders(model, tables[1:])
    except _MissingContext:
        return _with_orders(model, _completed(tables[1:]))


class _MissingContext(Exception):
    """An n-gram's first words are no n-gram of the order below."""


def _with_orders(model: NGram, tables: Sequence[_Table]) -> NGram:
    for table in tables:
        order = _next_order(model, table, last=table is tables[-1])
        model = replace(model, orders=(*model.orders, order))
    return model


def _order(keys: Any, logs: Any, backoffs: Any, *, last: bool) -> Order:
    return Order(
        keys=keys,
        logs=logs.astype(np.float32),
        backoffs=np.zeros(0, np.float32) if last else backoffs.astype(np.float32),
    )


def _completed(tables: Sequence[_Table]) -> list[_Table]:
    """Return sections with the contexts of longer n-grams that they lack; their log p is NaN."""
    found: list[_Table] = []
    for place, table in enumerate(tables):
        size = table.words.shape[1]
        needed = [one.words[:, :size] for one in tables[place + 1 :]]
        rows, firsts = np.unique(np.concatenate([table.words, *needed]), axis=0, return_index=True)
        values = np.full((len(rows), 2), (np.nan, 0.0))
        own = firsts < len(table.words)
        values[own] = table.values[firsts[own]]
        found.append(_Table(rows, values))
    return found


def _next_order(model: NGram, table: _Table, *, last: bool) -> Order:
    """Return one order more; a log p that is NaN becomes what the model below says."""
    before = table.words[:, 0]
    for number in range(1, table.words.shape[1] - 1):
        before = model.lookup(number, before, table.words[:, number])
        if (before < 0).any():
            raise _MissingContext
    size = np.uint64(model.symbols.size)
    keys = before.astype(np.uint64) * size + table.words[:, -1].astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    logs = table.values[:, 0].copy()
    for row in np.flatnonzero(np.isnan(logs)):
        shorter = model.next_logs(table.words[row, 1:-1].tolist())[table.words[row, -1]]
        logs[row] = model.orders[-1].backoffs[before[row]] + shorter
    return _order(keys[order], logs[order], table.values[order, 1], last=last)
