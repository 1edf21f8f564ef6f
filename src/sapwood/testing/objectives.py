"""What every objective must keep to, checked on small documents: see `check_objective`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sapwood.interfaces import Document, Integers
from sapwood.objectives import (
    NO_TARGET,
    OBJECTIVES,
    Arrays,
    Documents,
    Draws,
    Objective,
    Piece,
    Vocabulary,
    objective,
)
from sapwood.objectives.mixtures import Mix, Sum

_NETS = ("decoder", "encoder", "encoder-decoder", "permuted", "prefix")
_LAYOUTS = ("packed", "single", "pairs")
_FIRST_WORD = 24  # ids below are special in `sample_vocabulary`


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What `check_objective` found besides that all is well.

    `examples` in the first epoch; `tokens` in the mean of an example's input; `targets`: share of
    the text's tokens that are targets; `lost`: tokens that no example holds.
    """

    examples: int
    tokens: float
    targets: float
    lost: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Documents in memory, as `Draws` reads them."""

    documents: tuple[Document, ...]

    def __len__(self) -> int:
        return len(self.documents)

    def document(self, number: int) -> Document:
        """Return one."""
        return self.documents[number]


def sample_vocabulary(size: int = 500) -> Vocabulary:
    """Return a vocabulary that has every kind of special token; ids from 24 on are ordinary."""
    return Vocabulary(
        size=size, pad=0, unk=1, bos=2, eos=3, cls=4, sep=5, mask=6, prefix=7, suffix=8, middle=9,
        modes=(10, 11, 12), sentinels=tuple(range(size - 1, size - 101, -1)),
    )  # fmt: skip


def documents_of(*texts: Sequence[Sequence[int]]) -> Sample:
    """Return documents, each given by its sentences; every token is a word, of 3 bytes."""
    made = []
    for sentences in texts:
        ids = np.array([token for sentence in sentences for token in sentence], dtype=np.int64)
        made.append(
            Document(
                ids=ids,
                starts=np.ones(len(ids), dtype=np.bool_),
                sentences=np.cumsum([0, *map(len, sentences)]),
                bytes=3 * len(ids),
            )
        )
    return Sample(documents=tuple(made))


def piece_of(ids: Sequence[int], starts: Sequence[int] = ()) -> Piece:
    """Return a whole document as a piece; every token is a word, or those with a 1 in `starts`."""
    begins = np.array(starts or [1] * len(ids), dtype=np.bool_)
    return Piece(ids=np.array(ids, dtype=np.int64), starts=begins, bytes=3 * len(ids))


def sample_documents(
    count: int = 60, *, longest: int = 200, seed: int = 0, size: int = 500
) -> Sample:
    """Return random documents of 1 to `longest` tokens, 8 a sentence and 1.4 a word in the mean."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        tokens = int(rng.integers(1, longest, endpoint=True))
        inner = np.flatnonzero(rng.random(tokens) < 1 / 8)
        starts = rng.random(tokens) < 1 / 1.4
        starts[0] = True
        made.append(
            Document(
                ids=rng.integers(_FIRST_WORD, size - 100, size=tokens).astype(np.uint16),
                starts=starts,
                sentences=np.unique(np.concatenate([[0], inner, [tokens]])),
                bytes=int(tokens * rng.integers(2, 6)),
            )
        )
    return Sample(documents=tuple(made))


def check_objective(
    task: Objective,
    *,
    documents: Documents | None = None,
    vocabulary: Vocabulary | None = None,
    length: int = 64,
) -> Examined:
    """Check an objective, ours or yours, on `documents`, by default `sample_documents()`.

    Checked, on all examples of two epochs of at most `length` tokens: types, shapes and ranges of
    the arrays for its kind of net; draws that depend on (seed, epoch, index) alone, in any order,
    leaving numpy's own generator and the documents as they are; epochs that differ; targets that
    are no special tokens where tokens are hidden; `original` giving back the text, so that all
    examples of an epoch together hold every token of the documents once (pairs: no other tokens),
    and bytes that add up; the line of its name read again. Raises AssertionError that says what
    does not hold; what `Draws` raises passes through.

    >>> from sapwood.objectives import objective
    >>> check_objective(objective("mlm(rate=0.15)")).lost
    0
    """
    documents = sample_documents() if documents is None else documents
    vocabulary = sample_vocabulary() if vocabulary is None else vocabulary
    assert task.trains in _NETS, f"trains '{task.trains}', not one of {', '.join(_NETS)}"
    assert task.placed in _LAYOUTS, f"is placed '{task.placed}', not one of {', '.join(_LAYOUTS)}"
    assert task.evaluated().trains == task.trains, "evaluated() trains another kind of net"
    if task.name in OBJECTIVES or isinstance(task, Sum | Mix):
        assert objective(str(task)) == task, f"'{task}' names another objective"
    draws = Draws(task, documents, vocabulary, length, seed=1)
    before = _prints(documents)
    state = repr(np.random.get_state())
    epochs = [[draws.draw(e, i) for i in range(draws.plan(e))] for e in (0, 1)]
    after = repr(np.random.get_state())
    assert state == after, "changes the state of numpy's generator"
    assert _prints(documents) == before, "changes the documents"
    for examples in epochs:
        for example in examples:
            _check_arrays(task, example, vocabulary, length)
    _check_draws(Draws(task, documents, vocabulary, length, seed=1), epochs)
    for epoch, examples in enumerate(epochs):
        lost = sum(draws.lost(epoch).values())
        _check_text(task, documents, examples, vocabulary, lost)
    first = epochs[0]
    targets = sum(int((e["labels"] != NO_TARGET).sum()) for e in first if "labels" in e)
    words = sum(int((~vocabulary.special[task.original(e, vocabulary)]).sum()) for e in first)
    return Examined(
        examples=len(first),
        tokens=float(np.mean([len(e["input_ids"]) for e in first])),
        targets=targets / words,
        lost=sum(draws.lost(0).values()),
    )


def _prints(documents: Documents) -> list[bytes]:
    return [documents.document(n).ids.tobytes() for n in range(len(documents))]


def _check_arrays(task: Objective, example: Arrays, vocabulary: Vocabulary, length: int) -> None:
    """Check the arrays of one example by the kind of net."""
    for name, array in example.items():
        assert isinstance(array, np.ndarray), f"{name} is no array"
        assert array.dtype.kind in "iub", f"{name} has the type {array.dtype}"
    ids = example["input_ids"]
    size = len(ids)
    assert 0 < size <= length, f"an example has {size} tokens of {length}"
    assert ids.min() >= 0, "input_ids has a number below 0"
    assert ids.max() < vocabulary.size, "input_ids has a number outside the vocabulary"
    assert example["documents"].shape == (size,), "documents and input_ids differ in shape"
    if task.placed == "pairs":
        assert example["next_sentence_label"] in (0, 1), "the label of a pair is not 0 or 1"
        assert example["token_type_ids"].shape == (size,), "token_type_ids has another shape"
    elif "labels" not in example:
        raise AssertionError("an example has no labels")
    if "labels" in example:
        _check_labels(task, example, vocabulary)


def _check_labels(task: Objective, example: Arrays, vocabulary: Vocabulary) -> None:
    labels, size = example["labels"], len(example["input_ids"])
    real = labels[labels != NO_TARGET]
    assert len(real), "an example has no target"
    assert ((real >= 0) & (real < vocabulary.size)).all(), "labels are outside the vocabulary"
    if task.trains in ("encoder", "permuted"):
        assert not vocabulary.special[real].any(), "a special token is a target"
    if task.trains in ("encoder", "decoder", "prefix"):
        assert labels.shape == (size,), "labels and input_ids differ in shape"
    if task.trains == "prefix":
        prefix = int(example["prefix"])
        assert 0 <= prefix < size, f"prefix is {prefix} of {size} tokens"
        assert (labels[:prefix] == NO_TARGET).all(), "a token of the prefix is a target"
    if task.trains == "encoder-decoder":
        assert len(real) == len(labels), "a decoder's labels have a gap"
        assert labels[-1] == vocabulary.eos, "a decoder's labels do not end in eos"
    if task.trains == "permuted":
        mapping, blocked = example["target_mapping"], example["perm_mask"]
        assert blocked.shape == (size, size), "perm_mask is not (n, n)"
        assert mapping.shape == (len(labels), size), "target_mapping is not (k, n)"
        assert (mapping.sum(axis=1) == 1).all(), "a target has not one place"
        places = mapping.argmax(axis=1)
        assert blocked[places, places].all(), "a target sees itself"


def _check_draws(other: Draws, epochs: list[list[Arrays]]) -> None:
    """Check that another object, asked in another order, draws the same."""
    rng = np.random.default_rng(2)
    for epoch in (1, 0):
        examples = epochs[epoch]
        for index in rng.permutation(len(examples)).tolist():
            again = other.draw(epoch, index)
            assert again.keys() == examples[index].keys(), "draws differ in their arrays"
            for name, array in again.items():
                same = np.array_equal(array, examples[index][name])
                assert same, f"draw ({epoch}, {index}) depends on more than its number: {name}"
    told = [sorted(_print(example) for example in examples) for examples in epochs]
    assert told[0] != told[1], "two epochs have the same examples"


def _print(example: Arrays) -> bytes:
    return b"".join(example[name].tobytes() for name in sorted(example))


def _check_text(
    task: Objective,
    documents: Documents,
    examples: list[Arrays],
    vocabulary: Vocabulary,
    lost: int,
) -> None:
    """Check that examples hold the documents' tokens, each once, and their bytes."""
    every = [documents.document(n) for n in range(len(documents))]
    wanted = _counts([np.asarray(d.ids, np.int64) for d in every], vocabulary)
    found = _counts([task.original(e, vocabulary) for e in examples], vocabulary)
    if task.placed == "pairs":
        assert (wanted[found > 0] > 0).all(), "an example has tokens that no document has"
        return
    missing = int((wanted - found).sum())
    assert missing == lost, f"{missing} tokens are in no example, {lost} are said to be lost"
    if not lost:
        assert (wanted == found).all(), "examples do not give back the documents' tokens"
    if all("bytes" in e for e in examples):
        held: Any = sum(int(e["bytes"]) for e in examples)
        whole = sum(d.bytes for d in every)
        assert held == whole, f"examples stand for {held} bytes, the documents have {whole}"


def _counts(texts: list[Integers], vocabulary: Vocabulary) -> Integers:
    """Return how often each ordinary id stands in texts, (size,)."""
    ids = np.concatenate(texts)
    return np.bincount(ids[~vocabulary.special[ids]], minlength=vocabulary.size)
