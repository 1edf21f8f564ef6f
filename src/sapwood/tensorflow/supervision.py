"""The losses of tuning in TensorFlow: a decoder under label words, an encoder under a head.

They stand where torch's `Supervision` and `HeadSupervision` do, take what those take, and give the
same numbers. Rows are padded where torch packs them, and what all rows share is computed for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sapwood.errors import ConfigError
from sapwood.methods import parts
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix
from sapwood.models.encoder import Encoder
from sapwood.models.layout import split_by_budget
from sapwood.models.prefixes import trained_prefix
from sapwood.models.trie import LabelTrie
from sapwood.readouts.head import Head
from sapwood.tensorflow import heads
from sapwood.tensorflow.arrays import Weights
from sapwood.tensorflow.arrival import tensorflow
from sapwood.tensorflow.attached import weights_of
from sapwood.tensorflow.bodies import FAR, Rows, states
from sapwood.tensorflow.graph import Graph
from sapwood.training.heads import TrainedHead
from sapwood.training.labels import Seat, Target, check_trainable

Array = np.ndarray[Any, Any]


def padded(rows: Sequence[Sequence[int]]) -> dict[str, Array]:
    """Return `ids` and `mask`, each (rows, length) int32, of rows padded at their ends."""
    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return {"ids": ids, "mask": mask}


class LabelsSupervision:
    """The loss of examples with one label each, whose words a decoder continues with.

    `shared`, `prefix`: what all rows follow, as tokens or encoded (see `training.labels.Seat`).
    What a trained prefix stands behind never sees it, so it is encoded once. Raises what
    `check_trainable` and `weights_of` raise, and ConfigError (E-CONFIG-262) where another method
    acts on it besides.
    """

    def __init__(
        self,
        decoder: Decoder,
        targets: Sequence[Target],
        trie: LabelTrie,
        *,
        shared: Sequence[int] = (),
        prefix: Prefix | Callable[[], Prefix] = NO_PREFIX,
        xla: bool = False,
    ) -> None:
        given = prefix
        seat = Seat(
            shared=tuple(shared), prefix=(lambda: given) if isinstance(given, Prefix) else given
        )
        check_trainable(decoder, [t.row for t in targets], seat)
        self.targets, self.shared = targets, seat.shared
        before = seat.prefix()
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
        self.known = sorted({token for path in trie.paths for _, token in path})
        self._place = {token: n for n, token in enumerate(self.known)}
        self.forbidden = np.full((len(trie.tokens), len(self.known)), FAR, np.float32)
        for node, tokens in enumerate(trie.children):
            self.forbidden[node, [self._place[token] for token in tokens]] = 0.0
        weights, trained = weights_of(decoder.net)
        self.graph = Graph(weights, self._losses, trained, like=self._given(targets[:1]), xla=xla)

    def __len__(self) -> int:
        return len(self.targets)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of examples: the loss is their mean."""
        return len(numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) in parts of about `budget` tokens."""
        chosen = [self.targets[n] for n in numbers]
        before = len(self.shared)
        for part in split_by_budget([before + len(t.row.ids) for t in chosen], budget):
            given = self._given([chosen[n] for n in part])
            (loss,) = self.graph(given)
            yield loss, int(given["mask"].sum())

    def _given(self, targets: Sequence[Target]) -> dict[str, Array]:
        """Return what the graph takes: rows, and where which tokens are asked for."""
        before = len(self.shared)
        given = padded([[*self.shared, *t.row.ids] for t in targets])
        given["places"] = np.array(
            [(n, before + at) for n, t in enumerate(targets) for at in t.row.wanted], np.int32
        )
        given["nodes"] = np.array([node for t in targets for node in t.nodes], np.int32)
        given["gold"] = np.array([self._place[a] for t in targets for a in t.answers], np.int32)
        if self.past is not None:
            given["past"] = self.past
        return given

    def _losses(self, w: Weights, given: Mapping[str, Any]) -> tuple[Any, ...]:
        tf = tensorflow()
        rows = Rows(ids=given["ids"], mask=given["mask"], past=given.get("past"))
        at = heads.chosen(states(w, rows), given["places"])
        scores = heads.label_scores(w, at, self.known)
        scores += tf.gather(tf.constant(self.forbidden), given["nodes"])
        return (heads.cross_entropy(scores, given["gold"]),)


def _past(prefix: Prefix) -> Array | None:
    """Return an encoded context's keys and values, (2 x layers, heads, tokens, size)."""
    if not prefix.layers:
        return None
    parts = [part[0].float().cpu().numpy() for pair in prefix.layers for part in pair]
    return np.stack(parts)


class HeadSupervision:
    """The loss of texts with one label each, under a head that trains.

    `rows`: token ids; `gold`: label numbers. Raises what `weights_of` raises, and ConfigError
    (E-CONFIG-262) for a pooling that this engine does not compute.
    """

    def __init__(
        self,
        encoder: Encoder,
        rows: Sequence[Sequence[int]],
        gold: Sequence[int],
        head: TrainedHead[Head],
        *,
        xla: bool = False,
    ) -> None:
        encoder.check_length(rows)
        self.pooling = head.start.pooling
        if self.pooling not in ("mean", "first"):
            raise ConfigError(
                "E-CONFIG-262",
                f"The engine 'tensorflow' does not pool by '{self.pooling}'.",
                fix="--engine torch",
            )
        self.rows, self.gold, self.head = rows, gold, head
        weights, trained = weights_of(encoder.net, head)
        self.width = int(weights.embeddings.shape[1])
        self.graph = Graph(weights, self._losses, trained, like=self._given([0]), xla=xla)

    def __len__(self) -> int:
        return len(self.rows)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of texts: the loss is their mean."""
        return len(numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) in parts of about `budget` tokens."""
        for part in split_by_budget([len(self.rows[n]) for n in numbers], budget):
            given = self._given([numbers[n] for n in part])
            (loss,) = self.graph(given)
            yield loss, int(given["mask"].sum())

    def _given(self, numbers: Sequence[int]) -> dict[str, Array]:
        given = padded([self.rows[n] for n in numbers])
        given["gold"] = np.array([int(self.gold[n]) for n in numbers], np.int32)
        # the mask of dropout is torch's, so that a resumed run draws the same
        whole = torch.ones(len(numbers), self.width)
        dropped = functional.dropout(whole, self.head.start.dropout, self.head.training)
        given["kept"] = dropped.numpy()
        return given

    def _losses(self, w: Weights, given: Mapping[str, Any]) -> tuple[Any, ...]:
        found = states(w, Rows(ids=given["ids"], mask=given["mask"]))
        vectors = heads.pooled(found, given["mask"], self.pooling) * given["kept"]
        return (heads.cross_entropy(heads.head_scores(w, vectors), given["gold"]),)
