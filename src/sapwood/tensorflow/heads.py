"""Losses and scores on the states of a net, in TensorFlow."""

from __future__ import annotations

from typing import Any

from sapwood.tensorflow.arrays import Weights
from sapwood.tensorflow.arrival import tensorflow
from sapwood.tensorflow.bodies import activation, layer_norm, linear


def chosen(states: Any, places: Any) -> Any:
    """Return the states at `places` (n, 2) of (row, token), as (n, hidden)."""
    tf = tensorflow()
    return tf.reshape(tf.gather_nd(states, places), [-1, states.shape[-1]])


def word_scores(w: Weights, at: Any) -> Any:
    """Return the scores of the next token, or of the masked one, (n, vocabulary).

    `at`: (n, hidden). BERT's head transforms the states first; its output is the embeddings'.
    """
    tf = tensorflow()
    if w.kind == "bert":
        head = "cls.predictions."
        at = activation(w.config.hidden_act, linear(w, f"{head}transform.dense", at))
        at = layer_norm(w, f"{head}transform.LayerNorm", at, w.config.layer_norm_eps)
        return tf.matmul(at, _output(w, f"{head}decoder"), transpose_b=True) + w[f"{head}bias"]
    return tf.matmul(at, _output(w, "lm_head"), transpose_b=True)


def label_scores(w: Weights, at: Any, tokens: Any) -> Any:
    """Return the scores of some tokens (n, tokens) after states (n, hidden)."""
    tf = tensorflow()
    return tf.matmul(at, tf.gather(_output(w, "lm_head"), tokens), transpose_b=True)


def pair_scores(w: Weights, first: Any) -> Any:
    """Return the two scores of pairs, 0 for "is next", from their first tokens' states."""
    pooled = tensorflow().tanh(linear(w, f"{w.body}pooler.dense", first))
    return linear(w, "cls.seq_relationship", pooled)


def head_scores(w: Weights, pooled: Any) -> Any:
    """Return the scores of a classification head, (rows, labels)."""
    return linear(w, "head", pooled)


def pooled(states: Any, mask: Any, pooling: str) -> Any:
    """Return one vector a row, (rows, hidden): the "mean" over its tokens, or the "first"."""
    if pooling == "first":
        return states[:, 0]
    tf = tensorflow()
    real = tf.cast(mask, tf.float32)[..., None]
    return tf.reduce_sum(states * real, axis=1) / tf.reduce_sum(real, axis=1)


def cross_entropy(scores: Any, gold: Any) -> Any:
    """Return the summed cross-entropy of `gold` (n,) under scores (n, classes)."""
    tf = tensorflow()
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(gold, scores))


def _output(w: Weights, name: str) -> Any:
    """Return the rows of the output layer, which are the embeddings' where they are tied."""
    own = f"{name}.weight"
    if own in w:
        return w[own]
    return w.embeddings
