"""A net as a SavedModel, which TensorFlow runs without Sapwood, checked against the original."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.errors import ModelError
from sapwood.files import new_folder
from sapwood.tensorflow import heads
from sapwood.tensorflow.arrays import Weights
from sapwood.tensorflow.arrival import tensorflow
from sapwood.tensorflow.bodies import Rows, states
from sapwood.tensorflow.supervision import padded

MOST = 1e-4  # between the original's answers and those of what was written


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a SavedModel says of rows: `name` of the output, and how it comes from the states.

    `name`: "probabilities" (rows, labels) of a trained head, after `pooling`, its scores divided by
    `temperature` > 0; "next_token_scores" (rows, vocabulary) after each row's last token; "states"
    (rows, length, hidden).
    """

    name: str
    pooling: str = "mean"
    labels: tuple[str, ...] = ()
    temperature: float = 1.0

    def of(self, w: Weights, ids: Any, mask: Any) -> Any:
        """Return the output for rows."""
        tf = tensorflow()
        found = states(w, Rows(ids=ids, mask=mask))
        if self.name == "states":
            return found
        if self.name == "probabilities":
            pooled = heads.pooled(found, mask, self.pooling)
            return tf.nn.softmax(heads.head_scores(w, pooled) / self.temperature)
        last = tf.reduce_sum(mask, axis=1) - 1
        rows = tf.range(tf.shape(ids)[0])
        return heads.word_scores(w, heads.chosen(found, tf.stack([rows, last], axis=1)))


def write(w: Weights, answer: Answer, out: Path, probe: Sequence[Sequence[int]]) -> float:
    """Write a SavedModel and return the largest difference of its answers on the rows `probe`.

    Its inputs are `ids` and `mask`, each (rows, length) int32; a row is padded at its end. Raises
    ModelError (E-MODEL-092) when what was written does not answer like the original.
    """
    tf = tensorflow()
    module = tf.Module()
    module.tensors = dict(w.variables)
    row = tf.TensorSpec([None, None], tf.int32)

    def serve(ids: Any, mask: Any) -> Any:
        return {answer.name: answer.of(w, ids, mask)}

    with new_folder(out) as part:
        compiled = tf.function(serve, input_signature=[row, row], autograph=False)
        tf.saved_model.save(module, str(part), signatures=compiled)
        about = {"inputs": ["ids", "mask"], "output": answer.name, "labels": answer.labels}
        (part / "sapwood.json").write_text(json.dumps(about, ensure_ascii=False, indent=1))
        given = {name: tf.constant(array) for name, array in padded(probe).items()}
        read = tf.saved_model.load(str(part)).signatures["serving_default"]
        found = read(**given)[answer.name].numpy()
        drift = float(np.abs(found - answer.of(w, given["ids"], given["mask"]).numpy()).max())
        if not drift <= MOST:
            raise ModelError(
                "E-MODEL-092",
                f"The SavedModel answers otherwise than its net: by {drift:.2g}.",
            )
    return drift
