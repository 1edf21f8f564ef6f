"""What an objective is given, a window of documents, and what it must say of itself."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sapwood.errors import ConfigError
from sapwood.interfaces import Integers
from sapwood.objectives.vocabulary import Vocabulary

Arrays = dict[str, NDArray[Any]]
NO_TARGET = -100  # the index that torch's cross entropy leaves out, and transformers with it


class Piece(NamedTuple):
    """Tokens in a row of one document.

    `ids`: (n,); `starts`: (n,) bool, True where a token begins a word; `first`, `last`: whether the
    document begins and ends here; `before`: the token before it, None where it is the first;
    `bytes`: UTF-8 bytes that it stands for (of all pieces of a document they add up to its own).
    """

    ids: Integers
    starts: NDArray[np.bool_]
    first: bool = True
    last: bool = True
    before: int | None = None
    bytes: int = 0


class Window(NamedTuple):
    """What one example is made of: pieces; with a `label` (0 or 1) they are two, a pair."""

    pieces: tuple[Piece, ...]
    label: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How much text fits into an example.

    `capacity`: tokens in all; `overhead`: what every piece adds to its own; `tail`: tokens that end
    a document (0 or 1), which count as its own.
    """

    capacity: int
    overhead: int
    tail: int = 0

    @property
    def room(self) -> int:
        """Return the longest piece, at least 1 when anything fits."""
        return self.capacity - self.overhead


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A way to make examples out of text; a member's fields are its whole configuration.

    `net`: the kind of net it trains: "decoder" (labels in place: labels[i] is the token at i, which
    the net predicts from what stands before it), "encoder" (labels in place, predicted at i),
    "encoder-decoder" (labels are the decoder's), "permuted" (XLNet), or "prefix" (a decoder that
    sees the first `prefix` tokens both ways). `layout`: "packed" (short documents share an
    example), "single" (one piece of one document an example) or "pairs" (two pieces).
    `joins`: whether it can be added to a pair objective; `needs`: tokens a vocabulary must have.
    As a string it is the line that `objective` reads, "mlm(rate=0.15)".
    """

    name: ClassVar[str]
    net: ClassVar[str]
    layout: ClassVar[str] = "packed"
    joins: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def trains(self) -> str:
        """Return `net`, or the other kind where a setting changes it."""
        return self.net

    @property
    def placed(self) -> str:
        """Return `layout`, or that of the members."""
        return self.layout

    def __str__(self) -> str:
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if self._differs(f)]
        settings = ", ".join(f"{name}={value}" for name, value in given)
        return f"{self.name}({settings})" if settings else self.name

    def _differs(self, field: Field[Any]) -> bool:
        return bool(getattr(self, field.name) != field.default)

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise ConfigError (E-CONFIG-201) when the vocabulary lacks a token."""
        vocabulary.require(str(self), self.needs)

    def frame(self, vocabulary: Vocabulary) -> Frame:
        """Return the special tokens around its pieces, of one that can be added to pairs."""
        raise NotImplementedError

    def measure(self, length: int, vocabulary: Vocabulary) -> Measure:
        """Return how much text fits into an example of `length` tokens."""
        raise NotImplementedError

    def example(self, window: Window, rng: np.random.Generator, vocabulary: Vocabulary) -> Arrays:
        """Return one example made of `window`; all chance comes from `rng`."""
        raise NotImplementedError

    def original(self, example: Arrays, vocabulary: Vocabulary) -> Integers:
        """Return the text of an example, (tokens,), as it was before anything was hidden or moved.

        Special tokens that frame it may be left in or out; a token that a piece has from before it,
        as context only, is left out.
        """
        labels, ids = example["labels"], example["input_ids"]
        shown: Integers = np.where(labels == NO_TARGET, ids, labels)
        return shown

    def evaluated(self) -> Self:
        """Return the objective that held-out text is measured with, for runs to be compared."""
        return self

    def shares(self, **values: float) -> list[str]:
        """Return what is wrong with settings that are shares, in words; each must be in [0, 1]."""
        return [
            f"{name} must be from 0 to 1, not {value}"
            for name, value in values.items()
            if not 0 <= value <= 1
        ]

    def refuse(self, problems: list[str]) -> None:
        """Raise ConfigError (E-CONFIG-202) that lists `problems`, if there are any."""
        if problems:
            usual = [f"{f.name}={f.default}" for f in fields(self) if f.default is not MISSING]
            raise ConfigError(
                "E-CONFIG-202",
                f"The settings of '{self.name}' are wrong.",
                details=problems,
                fix=f"start from {self.name}({', '.join(usual)})" if usual else "",
            )


class Passage(NamedTuple):
    """A window with its special tokens, as a net reads it; all arrays (n,).

    `documents`: the number of the piece inside the example; `types`: the segment of a pair (0, 1;
    2 for XLNet's last token), None where there is no pair.
    """

    ids: Integers
    starts: NDArray[np.bool_]
    documents: Integers
    types: Integers | None

    def arrays(self, **more: NDArray[Any]) -> Arrays:
        """Return the arrays of an example; `more` replaces and adds."""
        given: Arrays = {"input_ids": self.ids, "documents": self.documents}
        if self.types is not None:
            given["token_type_ids"] = self.types
        return given | more


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The special tokens around pieces; `between` takes the place of closing and opening in a pair.

    `outside`: the last token of a pair is segment 2, as in XLNet.
    """

    opening: tuple[int, ...]
    between: tuple[int, ...]
    closing: tuple[int, ...]
    outside: bool = False

    def overhead(self, *, pair: bool) -> int:
        """Return how many tokens it adds, to a piece or to a pair."""
        around = len(self.opening) + len(self.closing)
        return around + len(self.between) if pair else around

    def around(self, window: Window) -> Passage:
        """Return the window with its special tokens; every one of them begins a word."""
        pair = window.label is not None
        parts: list[Piece | tuple[int, ...]] = []
        for number, piece in enumerate(window.pieces):
            inner = pair and number > 0
            closing = self.between if pair and number == 0 else self.closing
            parts += [() if inner else self.opening, piece, closing]
        sizes = [len(part.ids if isinstance(part, Piece) else part) for part in parts]
        ids = np.empty(sum(sizes), dtype=np.int64)
        starts = np.ones(len(ids), dtype=np.bool_)
        at = 0
        for part, size in zip(parts, sizes, strict=True):
            if isinstance(part, Piece):
                ids[at : at + size] = part.ids
                starts[at + 1 : at + size] = part.starts[1:]
            elif size:
                ids[at : at + size] = part
            at += size
        owned = [sum(sizes[k : k + 3]) for k in range(0, len(sizes), 3)]
        numbers = np.repeat(np.arange(len(owned)), owned)
        if not pair:
            return Passage(ids, starts, numbers, None)
        if self.outside:
            numbers[-1] = 2
        return Passage(ids, starts, np.zeros_like(numbers), numbers)


def encoder_frame(vocabulary: Vocabulary) -> Frame:
    """Return BERT's frame: [CLS] piece [SEP], and [CLS] A [SEP] B [SEP] for a pair."""
    first = () if vocabulary.first is None else (vocabulary.first,)
    last = () if vocabulary.separator is None else (vocabulary.separator,)
    return Frame(opening=first, between=last, closing=last)


def rounded(share: float, rng: np.random.Generator) -> int:
    """Return a whole number whose mean is `share`: up with the probability of its fraction."""
    return int(share + rng.random())
