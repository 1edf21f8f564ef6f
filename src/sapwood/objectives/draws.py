"""Examples of a corpus in any order: each is made from (seed, epoch, index) and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Document, Integers
from sapwood.objectives.layouts import Layout, packed, single
from sapwood.objectives.mixtures import pair_of
from sapwood.objectives.pairs import Sentences
from sapwood.objectives.vocabulary import Vocabulary
from sapwood.objectives.windows import Arrays, Measure, Objective, Piece, Window

# An epoch's layout is kept while it is drawn from; held-out text is measured between two draws.
_KEPT = 2
# Cut in two, a text needs a token on either side.
_LEAST = 2


class Documents(Protocol):
    """The documents that examples are made of, by number.

    A member may have arrays that save a walk over all documents: `lengths` and `sentence_counts`,
    (documents,), and `sentence_lengths`, (sentences,), all in tokens.
    """

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def document(self, number: int, /) -> Document:
        """Return one; 0 <= number < len."""
        ...


class Draws:
    """Examples of at most `length` tokens for an objective, epoch by epoch.

    `draw` depends on (seed, epoch, index) alone, so examples can be made in any order, by any
    worker, and again after a stop. In epoch 0 long documents are cut from their beginning; in later
    ones the first piece has a random length, so that the cuts move. No text is copied but that of
    the example.

    >>> import numpy as np
    >>> from sapwood.objectives import Vocabulary, objective
    >>> text = Document(ids=np.arange(2, 9), starts=np.ones(7, bool),
    ...                 sentences=np.array([0, 7]), bytes=21)
    >>> class One:
    ...     def __len__(self): return 1
    ...     def document(self, number): return text
    >>> draws = Draws(objective("clm"), One(), Vocabulary(size=9, eos=1), length=16, seed=0)
    >>> draws.plan(0), draws.draw(0, 0)["input_ids"].tolist()
    (1, [1, 2, 3, 4, 5, 6, 7, 8, 1])
    """

    def __init__(
        self,
        objective: Objective,
        documents: Documents,
        vocabulary: Vocabulary,
        length: int,
        seed: int = 0,
    ) -> None:
        """Check that all fits together.

        Raises ConfigError: E-CONFIG-201 the vocabulary lacks tokens, E-CONFIG-204 `length` or
        `seed` is out of range.
        """
        objective.check(vocabulary)
        self.objective, self.documents, self.vocabulary = objective, documents, vocabulary
        self.length, self.seed = length, seed
        self._measure = _fitting(objective, vocabulary, length, seed)
        self._layouts: dict[int, Layout] = {}
        self._lengths: Integers | None = None
        self._sentences: Sentences | None = None

    def plan(self, epoch: int) -> int:
        """Return how many examples an epoch (0, 1, ...) has.

        Raises DataError (E-DATA-180) when the documents make none.
        """
        return len(self._layout(epoch))

    def lost(self, epoch: int) -> Mapping[str, int]:
        """Return the tokens of documents that no example of an epoch holds, by reason."""
        return self._layout(epoch).lost

    def draw(self, epoch: int, index: int) -> Arrays:
        """Return example `index` of an epoch, unpadded; its arrays are those of the objective.

        Raises IndexError unless 0 <= index < plan(epoch).
        """
        layout = self._layout(epoch)
        if not 0 <= index < len(layout):
            raise IndexError(f"epoch {epoch} has examples 0 to {len(layout) - 1}, not {index}")
        low, high = layout.offsets[index : index + 2].tolist()
        rows = zip(
            layout.documents[low:high].tolist(),
            layout.starts[low:high].tolist(),
            layout.ends[low:high].tolist(),
            strict=True,
        )
        pieces = tuple(self._piece(*row) for row in rows)
        label = None if layout.labels is None else int(layout.labels[index])
        rng = np.random.default_rng([self.seed, epoch, index + 1])  # 0 is the layout's
        return self.objective.example(Window(pieces, label), rng, self.vocabulary)

    def _piece(self, number: int, start: int, end: int) -> Piece:
        document = self.documents.document(number)
        size = len(document.ids)
        stop, all_bytes = min(end, size), int(document.bytes)
        return Piece(
            ids=document.ids[start:stop],
            starts=document.starts[start:stop],
            first=start == 0,
            last=end == size + self._measure.tail,
            before=None if start == 0 else int(document.ids[start - 1]),
            bytes=all_bytes * stop // size - all_bytes * min(start, size) // size,
        )

    def _layout(self, epoch: int) -> Layout:
        if epoch not in self._layouts:
            made = self._made(epoch)
            if not len(made):
                details = [f"{tokens} tokens: {reason}" for reason, tokens in made.lost.items()]
                raise DataError(
                    "E-DATA-180",
                    f"The documents give no example for '{self.objective}'.",
                    details=details or [f"{len(self.documents)} documents, all without tokens"],
                    fix="take more or longer documents, or another objective",
                )
            while len(self._layouts) >= _KEPT:
                del self._layouts[next(iter(self._layouts))]
            self._layouts[epoch] = made
        return self._layouts[epoch]

    def _made(self, epoch: int) -> Layout:
        rng = np.random.default_rng([self.seed, epoch, 0])
        if self.objective.placed == "pairs":
            if self._sentences is None:
                self._sentences = sentences_of(self.documents)
            return pair_of(self.objective).pairs(self._sentences, self._measure.room, rng)
        if self._lengths is None:
            self._lengths = lengths_of(self.documents)
        if self.objective.placed == "packed":
            return packed(self._lengths, self._measure, rng, move=epoch > 0)
        return single(self._lengths, self._measure, rng, move=epoch > 0, least=_LEAST)


def _fitting(objective: Objective, vocabulary: Vocabulary, length: int, seed: int) -> Measure:
    problems = []
    if seed < 0:
        problems.append(f"the seed must be 0 or more, not {seed}")
    measure = objective.measure(length, vocabulary)
    if measure.room < _LEAST:
        problems.append(
            f"an example of {length} tokens has room for {max(measure.room, 0)} of text, too few"
        )
    if problems:
        raise ConfigError(
            "E-CONFIG-204",
            f"No examples can be drawn for '{objective}'.",
            details=problems,
            fix="take a greater length, such as 128",
        )
    return measure


def lengths_of(documents: Documents) -> Integers:
    """Return the tokens of each document, (documents,)."""
    known = getattr(documents, "lengths", None)
    if known is None:
        known = [len(documents.document(number).ids) for number in range(len(documents))]
    return np.asarray(known, dtype=np.int64)


def sentences_of(documents: Documents) -> Sentences:
    """Return the sentences of all documents."""
    counts = getattr(documents, "sentence_counts", None)
    lengths = getattr(documents, "sentence_lengths", None)
    if counts is None or lengths is None:
        sizes = [np.diff(documents.document(n).sentences) for n in range(len(documents))]
        counts = [len(each) for each in sizes]
        lengths = np.concatenate([*sizes, np.zeros(0, dtype=np.int64)])
    return Sentences.of(np.asarray(lengths, np.int64), np.asarray(counts, np.int64))
