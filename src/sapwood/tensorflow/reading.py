"""How TensorFlow reads the examples of pretraining: masked tokens, pairs, next tokens.

It stands where torch's readings do (`training.readings`): the same examples, the same parts of the
loss, the same counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sapwood.errors import ConfigError
from sapwood.models.layout import split_by_budget
from sapwood.tensorflow import heads
from sapwood.tensorflow.arrays import Weights
from sapwood.tensorflow.attached import weights_of
from sapwood.tensorflow.bodies import Rows, states
from sapwood.tensorflow.graph import Graph
from sapwood.tensorflow.supervision import padded
from sapwood.training.pieces import NOT_LEARNT, Example, Piece, pieces
from sapwood.training.readings import reading_for

PARTS = ("mlm", "nsp", "sop", "clm")
DROPOUTS = ("hidden_dropout_prob", "resid_pdrop", "embd_pdrop", "attention_dropout")


class TensorFlowReading:
    """The loss of BERT, GPT-2 or Llama kinds on examples of `objectives`, such as ("mlm", "nsp").

    Raises ConfigError (E-CONFIG-263) for objectives or settings that this engine does not compute,
    and what `weights_of` raises.
    """

    def __init__(self, net: Any, objectives: Sequence[str], *, xla: bool = False) -> None:
        _check(net, objectives)
        self.net, self._like = net, reading_for(net, objectives)
        self.causal = objectives[0] == "clm"
        self.pair = next((name for name in objectives if name in ("nsp", "sop")), "")
        self.weights_there, trained = weights_of(net)
        some = Piece(ids=np.array([1, 2]), labels=np.array([1, 2]), pair=0)
        self.graph = Graph(
            self.weights_there, self._losses, trained, like=self._given([some]), xla=xla
        )

    @property
    def weights(self) -> Mapping[str, float]:
        """See `Reading`."""
        return self._like.weights

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """See `Reading`."""
        return dict(self._like.counts(examples))

    def sums(
        self, examples: Sequence[Example], budget: int
    ) -> Iterator[tuple[dict[str, Tensor], int]]:
        """See `Reading`."""
        rows = [piece for example in examples for piece in pieces(example)]
        rows = [piece for piece in rows if len(piece.ids) > self.causal]
        for part in split_by_budget([len(piece.ids) for piece in rows], budget):
            given = self._given([rows[n] for n in part])
            names = [self._token_part, *([self.pair] if self.pair else [])]
            found = dict(zip(names, self.graph(given), strict=True))
            if not len(given["gold"]):
                found.pop(self._token_part)
            yield found, int(given["mask"].sum())

    @property
    def _token_part(self) -> str:
        return "clm" if self.causal else "mlm"

    def _given(self, rows: Sequence[Piece]) -> dict[str, np.ndarray[Any, Any]]:
        given = padded([piece.ids.tolist() for piece in rows])
        given["types"] = np.zeros_like(given["ids"])
        places, gold = [], []
        shift = int(self.causal)
        for number, piece in enumerate(rows):
            if piece.types is not None:
                given["types"][number, : len(piece.types)] = piece.types
            at = np.flatnonzero(piece.labels[shift:] != NOT_LEARNT)
            places.append(np.stack([np.full(len(at), number), at], axis=1))
            gold.append(piece.labels[shift:][at])
        given["places"] = np.concatenate(places).astype(np.int32)
        given["gold"] = np.concatenate(gold).astype(np.int32)
        known = [n for n, piece in enumerate(rows) if piece.pair is not None]
        given["pairs"] = np.array(known, np.int32)
        given["pair_gold"] = np.array([int(rows[n].pair or 0) for n in known], np.int32)
        return given

    def _losses(self, w: Weights, given: Mapping[str, Any]) -> tuple[Any, ...]:
        found = states(w, Rows(ids=given["ids"], mask=given["mask"], types=given["types"]))
        scores = heads.word_scores(w, heads.chosen(found, given["places"]))
        parts = [heads.cross_entropy(scores, given["gold"])]
        if self.pair:
            first = heads.chosen(found[:, 0], given["pairs"][:, None])
            parts.append(heads.cross_entropy(heads.pair_scores(w, first), given["pair_gold"]))
        return tuple(parts)


def _check(net: Any, objectives: Sequence[str]) -> None:
    unknown = [name for name in objectives if name not in PARTS]
    problems = [f"the objective {name}" for name in unknown]
    problems += [f"{name} of {value:g}" for name in DROPOUTS
                 if (value := getattr(net.config, name, 0.0) or 0.0) > 0]  # fmt: skip
    if problems:
        raise ConfigError(
            "E-CONFIG-263",
            "The engine 'tensorflow' does not pretrain with " + " or ".join(problems) + ".",
            details=[f"it knows {', '.join(PARTS)}, without dropout"],
            fix="--engine torch",
        )
