"""The losses of tuning in TensorFlow: a decoder under label words, an encoder under a head.

Each wraps torch's supervision of the same rows, which has checked them, and gives the same numbers.
Rows are padded where torch packs them, and what all rows share is computed for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sapwood.errors import ConfigError
from sapwood.methods import parts
from sapwood.models.decoder import Prefix
from sapwood.models.layout import split_by_budget
from sapwood.models.prefixes import trained_prefix
from sapwood.tensorflow import heads
from sapwood.tensorflow.arrays import Weights
from sapwood.tensorflow.arrival import tensorflow
from sapwood.tensorflow.attached import weights_of
from sapwood.tensorflow.bodies import FAR, Rows, states
from sapwood.tensorflow.graph import Graph
from sapwood.training import Supervision
from sapwood.training.heads import HeadSupervision

Array = np.ndarray[Any, Any]


def padded(rows: Sequence[Sequence[int]]) -> dict[str, Array]:
    """Return `ids` and `mask`, each (rows, length) int32, of rows padded at their ends."""
    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return {"ids": ids, "mask": mask}


class Asked(Protocol):
    """What is asked of rows: `net` and what trains, the arrays of examples, and their loss."""

    net: Weights
    trained: dict[str, Tensor]

    def length(self, number: int) -> int:
        """Return the tokens of an example."""
        ...

    def given(self, numbers: Sequence[int]) -> dict[str, Array]:
        """Return what the graph takes for examples."""
        ...

    def losses(self, w: Weights, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return their summed loss, as TensorFlow's scalar."""
        ...


class SecondSupervision:
    """The loss of `plain`, torch's supervision, as TensorFlow computes what `asked` says."""

    def __init__(
        self, plain: Supervision | HeadSupervision, asked: Asked, *, xla: bool = False
    ) -> None:
        self.plain, self.asked = plain, asked
        like = asked.given([0])
        self.graph = Graph(asked.net, asked.losses, asked.trained, like=like, xla=xla)

    def __len__(self) -> int:
        return len(self.plain)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return what the summed loss of the examples `numbers` is divided by."""
        return self.plain.supervised(numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) in parts of about `budget` tokens."""
        for part in split_by_budget([self.asked.length(n) for n in numbers], budget):
            given = self.asked.given([numbers[n] for n in part])
            (loss,) = self.graph(given)
            yield loss, int(given["mask"].sum())


def under_words(plain: Supervision, *, xla: bool = False) -> SecondSupervision:
    """Return the loss of examples with one label each, whose words a decoder continues with.

    Raises what `weights_of` raises, and ConfigError (E-CONFIG-262) for a trained prefix with
    another method behind a prompt.
    """
    return SecondSupervision(plain, _Words(plain), xla=xla)


def under_head(plain: HeadSupervision, *, xla: bool = False) -> SecondSupervision:
    """Return the loss of texts with one label each, under a head that trains.

    Raises what `weights_of` raises, and ConfigError (E-CONFIG-262) for a pooling that this engine
    does not compute.
    """
    return SecondSupervision(plain, _Head(plain), xla=xla)


class _Words:
    """Rows that end in a label's words.

    What a trained prefix stands behind never sees it, so it is encoded once.
    """

    def __init__(self, plain: Supervision) -> None:
        decoder, self.targets, self.shared = plain.decoder, plain.targets, plain.seat.shared
        before = plain.seat.prefix()
        if trained_prefix(decoder.net) is not None and self.shared:
            if len(list(parts.parts(decoder.net))) > 1:
                raise ConfigError(
                    "E-CONFIG-262",
                    "The engine 'tensorflow' trains a prefix behind a prompt by itself only.",
                    fix="--engine torch, or one of the methods",
                )
            with torch.no_grad():
                before, self.shared = decoder.encode(self.shared), ()
        self.past = _past(before)
        self.places = plain.head.places
        self.unseen = FAR * plain.head.forbidden.float().cpu().numpy()  # (nodes, known tokens)
        self.net, self.trained = weights_of(decoder.net)

    def length(self, number: int) -> int:
        """See `Asked`."""
        return len(self.shared) + len(self.targets[number].row.ids)

    def given(self, numbers: Sequence[int]) -> dict[str, Array]:
        """See `Asked`: rows, and where which tokens are asked for."""
        before, targets = len(self.shared), [self.targets[n] for n in numbers]
        given = padded([[*self.shared, *t.row.ids] for t in targets])
        given["places"] = np.array(
            [(n, before + at) for n, t in enumerate(targets) for at in t.row.wanted], np.int32
        )
        given["nodes"] = np.array([node for t in targets for node in t.nodes], np.int32)
        given["gold"] = np.array([self.places[a] for t in targets for a in t.answers], np.int32)
        if self.past is not None:
            given["past"] = self.past
        return given

    def losses(self, w: Weights, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """See `Asked`."""
        tf = tensorflow()
        rows = Rows(ids=given["ids"], mask=given["mask"], past=given.get("past"))
        at = heads.chosen(states(w, rows), given["places"])
        scores = heads.label_scores(w, at, list(self.places))
        scores += tf.gather(tf.constant(self.unseen), given["nodes"])
        return (heads.cross_entropy(scores, given["gold"]),)


def _past(prefix: Prefix) -> Array | None:
    """Return an encoded context's keys and values, (2 x layers, heads, tokens, size)."""
    if not prefix.layers:
        return None
    parts = [part[0].float().cpu().numpy() for pair in prefix.layers for part in pair]
    return np.stack(parts)


class _Head:
    """Rows whose pooled states a head reads."""

    def __init__(self, plain: HeadSupervision) -> None:
        self.plain, self.pooling = plain, plain.head.start.pooling
        if self.pooling not in ("mean", "first"):
            raise ConfigError(
                "E-CONFIG-262",
                f"The engine 'tensorflow' does not pool by '{self.pooling}'.",
                fix="--engine torch",
            )
        self.net, self.trained = weights_of(plain.encoder.net, plain.head)
        self.width = int(self.net.embeddings.shape[1])

    def length(self, number: int) -> int:
        """See `Asked`."""
        return len(self.plain.rows[number])

    def given(self, numbers: Sequence[int]) -> dict[str, Array]:
        """See `Asked`: rows, their labels, and what dropout leaves of their pooled states."""
        plain = self.plain
        given = padded([plain.rows[n] for n in numbers])
        given["gold"] = np.array([int(plain.gold[n]) for n in numbers], np.int32)
        # the mask of dropout is torch's, so that a resumed run draws the same
        whole = torch.ones(len(numbers), self.width)
        dropped = functional.dropout(whole, plain.head.start.dropout, plain.head.training)
        given["kept"] = dropped.numpy()
        return given

    def losses(self, w: Weights, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """See `Asked`."""
        found = states(w, Rows(ids=given["ids"], mask=given["mask"]))
        vectors = heads.pooled(found, given["mask"], self.pooling) * given["kept"]
        return (heads.cross_entropy(heads.head_scores(w, vectors), given["gold"]),)
