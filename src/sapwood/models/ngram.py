"""N-gram language models: tables of modified Kneser-Ney, looked up for a million tokens at once.

Smoothing is in smoothing.py. The probability of a word is that of the longest n-gram that the table
has, times gamma of every longer context that it has (Katz 1987, in the form of ARPA files).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ModelError
from sapwood.files import new_folder, write_json
from sapwood.interfaces import Event, Floats, Integers
from sapwood.models.counting import BLOCK, Keys, Level, Sequences, Symbols, Text, count, ordered
from sapwood.models.smoothing import Discounts, Order, smoothed

__all__ = ["KIND", "NGram", "Symbols", "count_and_smooth", "is_ngram", "load", "sequences_in",
           "sequences_of", "tokenizer_in"]  # fmt: skip

KIND = "sapwood_ngram"
SCHEMA = 1
WEIGHTS = "model.safetensors"
MOST_ORDER = 10  # longer ones add nothing: Chen and Goodman (1999) see none beyond 5
SORTED = 1 << 12  # so many look-ups are faster sorted first: neighbours in the table share a page
TOKENS = 1 << 20  # scored at once


@dataclass(frozen=True, kw_only=True)
class NGram:
    """An n-gram model of token ids.

    `orders`: from single words up; `known`: (words,) False where a word counts as <unk>; `about`:
    what config.json says besides, JSON-ready.
    """

    symbols: Symbols
    orders: tuple[Order, ...]
    known: NDArray[np.bool_]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> int:
        """Return how many words the longest n-gram has."""
        return len(self.orders)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return how many n-grams each order has; <s> and <unk> are single words in any case."""
        return (len(self.listed()), *(len(order.keys) for order in self.orders[1:]))

    def listed(self) -> NDArray[np.int64]:
        """Return the ids of all words it has, <s> and <unk> among them."""
        listed = self.known.copy()
        listed[[self.symbols.bos, self.symbols.unk]] = True
        return np.flatnonzero(listed)

    def scored(self, texts: Sequence[Sequence[int]]) -> list[Floats]:
        """Return minus log p of each token of each text and of its end, nats, (tokens + 1,) each.

        A text begins with <s>; ids that are not `known` are <unk>.
        """
        found: list[Floats] = []
        batch: list[Sequence[int]] = []
        room = 0
        for text in texts:
            batch.append(text)
            room += len(text) + 2
            if room >= TOKENS:
                found += self._scored(batch)
                batch, room = [], 0
        return found + (self._scored(batch) if batch else [])

    def _scored(self, texts: Sequence[Sequence[int]]) -> list[Floats]:
        bos, eos = self.symbols.bos, self.symbols.eos
        flat = np.array([t for text in texts for t in (bos, *text, eos)], dtype=np.int64)
        ends = np.cumsum([len(text) + 2 for text in texts])
        starts = np.concatenate([[0], ends[:-1]])
        begins = np.zeros(len(flat), bool)
        begins[starts] = True
        flat[~begins] = self.heard(flat[~begins])
        logs = self._logs(flat, begins)
        return [-logs[a + 1 : b] for a, b in zip(starts, ends, strict=True)]

    def heard(self, ids: Integers) -> NDArray[np.int64]:
        """Return ids as the model takes them inside a text: those it does not know are <unk>."""
        ids = np.asarray(ids, dtype=np.int64)
        inside = self.known[ids] & (ids != self.symbols.bos)
        return np.where(inside, ids, self.symbols.unk)

    def _logs(self, words: NDArray[np.int64], begins: NDArray[np.bool_]) -> Floats:
        """Return log p of each word, (words,); at `begins` a text starts, whose <s> is given."""
        places = words  # of the n-gram of `size` words that ends at each word, -1 for none
        logs = self.orders[0].logs[words].astype(np.float64)
        for number, order in enumerate(self.orders[1:], 1):
            before = np.full(len(words), -1, np.int64)
            before[1:] = places[:-1]
            before[begins] = -1
            seen = np.flatnonzero(before >= 0)
            # Whatever was found for fewer words is left for this context, by its gamma.
            logs[seen] += self.orders[number - 1].backoffs[before[seen]]
            places = np.full(len(words), -1, np.int64)
            places[seen] = self.lookup(number, before[seen], words[seen])
            hit = np.flatnonzero(places >= 0)
            logs[hit] = order.logs[places[hit]]
        return logs

    def lookup(self, number: int, before: Integers, words: Integers) -> NDArray[np.int64]:
        """Return the places in order `number` (0: single words) of these n-grams, -1 for none.

        `before`: (n,) the places of their first words in the order below; `words`: (n,) the last.
        """
        table = self.orders[number].keys
        keys = before.astype(np.uint64) * np.uint64(self.symbols.size) + words.astype(np.uint64)
        if not len(table):
            return np.full(len(keys), -1, np.int64)
        if len(keys) >= SORTED:
            inorder, order = ordered(keys)
            found = np.empty(len(keys), np.int64)
            found[order] = np.searchsorted(table, inorder)
        else:
            found = np.searchsorted(table, keys)
        there = table[np.minimum(found, len(table) - 1)] == keys
        return np.where(there, found, -1)

    def context(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the places of the contexts that these words end with, one word, two words, ...

        Only those that the model has, `order` - 1 at most. `ids` may begin with <s>.
        """
        kept = list(ids[-(self.order - 1) :]) if self.order > 1 else []
        heard = [t if t == self.symbols.bos else int(self.heard(np.array([t]))[0]) for t in kept]
        found: list[int] = []
        for length in range(1, len(heard) + 1):
            words, place = heard[-length:], -1
            for number, word in enumerate(words):
                if not number:
                    place = word
                    continue
                place = int(self.lookup(number, np.array([place]), np.array([word]))[0])
                if place < 0:
                    return tuple(found)
            found.append(place)
        return tuple(found)

    def next_logs(self, ids: Sequence[int]) -> Floats:
        """Return log p of every word after these, (words,); minus infinity for <s>."""
        logs = self.orders[0].logs.astype(np.float64)
        size = np.uint64(self.symbols.size)
        for number, place in enumerate(self.context(ids), 1):
            logs += self.orders[number - 1].backoffs[place]
            keys = self.orders[number].keys
            first = np.uint64(place) * size
            start, end = np.searchsorted(keys, np.array([first, first + size], np.uint64))
            logs[(keys[start:end] - first).astype(np.int64)] = self.orders[number].logs[start:end]
        logs[self.symbols.bos] = -np.inf
        return logs

    def write(self, folder: Path) -> None:
        """Write config.json and the tables into a folder that is there."""
        from safetensors.numpy import save_file

        save_file(_tensors(self), folder / WEIGHTS, metadata={"format": "np"})
        symbols = self.symbols
        write_json(folder / "config.json", {
            "model_type": KIND, "architectures": ["NGram"], "schema": SCHEMA, "order": self.order,
            "vocab_size": symbols.size, "bos_token_id": symbols.bos, "eos_token_id": symbols.eos,
            "unk_token_id": symbols.unk, "ngrams": list(self.sizes), **self.about,
        })  # fmt: skip

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write a folder with the tokenizer, whole or not at all."""
        with new_folder(folder) as part:
            self.write(part)
            tokenizer.save_pretrained(part)


def _tensors(model: NGram) -> dict[str, Any]:
    """Return the arrays that are kept, by name."""
    tensors: dict[str, Any] = {"known": model.known}
    for number, order in enumerate(model.orders, 1):
        tensors[f"orders.{number}.logs"] = order.logs
        if number > 1:
            tensors[f"orders.{number}.keys"] = order.keys
        if number < model.order:
            tensors[f"orders.{number}.backoffs"] = order.backoffs
    return tensors


def count_and_smooth(
    sequences: Sequences,
    *,
    order: int,
    symbols: Symbols,
    closed: bool = True,
    scratch: Path | None = None,
    block: int = BLOCK,
) -> Generator[Event, None, NGram]:
    """Yield events and return the model of texts, each between <s> and </s>.

    `sequences` yields (ids of many texts in a row, length of each); it is read once. `closed`:
    every id of the vocabulary is a word, as for a tokenizer of subwords; else words that do not
    occur are <unk>. `scratch`: a folder for files while counting, as large as some 12 bytes a token
    and 20 an n-gram.  [default: the system's]

    Raises ModelError (E-MODEL-170) for an order that makes no sense, and what counting raises.
    """
    if not 1 <= order <= MOST_ORDER:
        raise ModelError(
            "E-MODEL-170", f"An n-gram model has 1 to {MOST_ORDER} words, not {order}.",
            fix="--model ngram-5",
        )  # fmt: skip
    made, taken = list[Order](), list[Discounts]()
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder:
        text = Text(Path(folder), symbols)
        yield Event(kind="start", candidate="count", total=order)
        text.fill(sequences)
        levels, single = list[Level](), np.zeros(0, np.int64)
        for event, found in count(text, order, Path(folder), block):
            if isinstance(found, Level):
                levels.append(found)
            else:
                single = np.asarray(found)
            yield event
        for number, (own, lost) in enumerate(smoothed(single, levels, symbols, closed=closed), 1):
            made.append(own)
            taken.append(lost)
            yield Event(kind="progress", candidate="smooth", done=number, total=order)
        known = np.ones(symbols.size, bool) if closed else single > 0
        del levels
    about = {
        "smoothing": "interpolated modified Kneser-Ney",
        "closed_vocabulary": closed,
        "discounts": [list(one.amounts) for one in taken],
        "fallback_discounts": [one.fallback for one in taken],
        "tokens_counted": text.tokens - text.texts,
        "texts_counted": text.texts,
    }
    return NGram(symbols=symbols, orders=tuple(made), known=known, about=about)


def sequences_of(documents: Any, *, unit: str = "document", size: int = BLOCK) -> Sequences:
    """Yield the tokens of a corpus part as `count_and_smooth` takes them.

    `documents`: has len() and document(i) with `ids` and `sentences`; `unit`: "document" or
    "sentence", what stands between <s> and </s>.
    """
    ids: list[Integers] = []
    lengths: list[Integers] = []
    held = 0
    for number in range(len(documents)):
        one = documents.document(number)
        ids.append(np.asarray(one.ids))
        lengths.append(np.diff(one.sentences) if unit == "sentence" else np.array([len(one.ids)]))
        held += len(one.ids)
        if held >= size:
            yield np.concatenate(ids), np.concatenate(lengths)
            ids, lengths, held = [], [], 0
    if lengths:
        yield np.concatenate(ids), np.concatenate(lengths)


def sequences_in(texts: Iterator[Sequence[int]], size: int = BLOCK) -> Sequences:
    """Yield lists of token ids, one a text, as `count_and_smooth` takes them."""
    flat: list[int] = []
    lengths: list[int] = []
    for text in texts:
        flat += text
        lengths.append(len(text))
        if len(flat) >= size:
            yield np.array(flat, np.int64), np.array(lengths)
            flat, lengths = [], []
    if lengths:
        yield np.array(flat, np.int64), np.array(lengths)


def is_ngram(folder: Path) -> bool:
    """Tell whether a folder holds an n-gram model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == KIND


def tokenizer_in(folder: Path) -> Any:
    """Return the tokenizer of a folder. Raises ModelError (E-MODEL-171) where there is none."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(folder, f"its tokenizer cannot be read ({error})") from error


def load(folder: Path) -> NGram:
    """Load a folder that `write` made.

    Raises ModelError (E-MODEL-171) where something is missing, damaged or of a newer schema.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        if config["schema"] > SCHEMA:
            raise _damaged(folder, f"its schema is {config['schema']}, this version reads {SCHEMA}")
        symbols = Symbols(
            size=int(config["vocab_size"]), bos=int(config["bos_token_id"]),
            eos=int(config["eos_token_id"]), unk=int(config["unk_token_id"]),
        )  # fmt: skip
        none: Keys = np.zeros(0, np.uint64)
        orders = tuple(
            Order(
                keys=tensors.get(f"orders.{number}.keys", none),
                logs=tensors[f"orders.{number}.logs"],
                backoffs=tensors.get(f"orders.{number}.backoffs", np.zeros(0, np.float32)),
            )
            for number in range(1, int(config["order"]) + 1)
        )
        known = tensors["known"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    _check(folder, symbols, orders, known)
    own = {"model_type", "architectures", "schema", "order", "vocab_size", "bos_token_id",
           "eos_token_id", "unk_token_id", "ngrams"}  # fmt: skip
    about = {name: value for name, value in config.items() if name not in own}
    return NGram(symbols=symbols, orders=orders, known=known, about=about)


def _check(
    folder: Path, symbols: Symbols, orders: Sequence[Order], known: NDArray[np.bool_]
) -> None:
    """Raise ModelError (E-MODEL-171) where tables do not fit each other."""
    below = symbols.size
    for number, order in enumerate(orders, 1):
        size = len(order.keys) if number > 1 else symbols.size
        left = len(order.backoffs) if number < len(orders) else size
        if len(order.logs) != size or left != size:
            raise _damaged(folder, f"order {number} has {size} keys and {len(order.logs)} values")
        if number > 1 and size and int(order.keys[-1]) >= below * symbols.size:
            raise _damaged(folder, f"order {number} points outside order {number - 1}")
        below = size
    if len(known) != symbols.size:
        raise _damaged(folder, "its vocabulary has another size than its tables")


def _damaged(folder: Path, why: str) -> ModelError:
    return ModelError(
        "E-MODEL-171", f"{folder} is no n-gram model that can be read: {why}.",
        fix="count it again: sapwood pretrain CORPUS --model ngram-5 --out FOLDER",
    )  # fmt: skip
