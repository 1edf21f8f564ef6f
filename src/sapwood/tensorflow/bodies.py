"""BERT, GPT-2 and the Llama family as functions of their weights, in TensorFlow.

What they compute is what transformers' nets compute in float32; a method's entries beside a layer
(`lora_A`, `adapter_down`, ...) act where they are found. Rows are padded at their ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sapwood.tensorflow.arrays import Weights
from sapwood.tensorflow.arrival import tensorflow

FAR = -1e9  # added to the score of what is not seen
# LoRA's trained branch, and the frozen one that takes off where PiSSA started.
BRANCHES = (("lora_A.weight", "lora_B.weight"), ("origin_A", "origin_B"))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of tokens: `ids` (rows, length) int32, `mask` (rows, length) of 1 and 0.

    `types` (rows, length): segments, for BERT; `past` (2 x layers, heads, tokens, size): keys and
    values that all rows follow, None without any.
    """

    ids: Any
    mask: Any
    types: Any = None
    past: Any = None


def states(weights: Weights, rows: Rows) -> Any:
    """Return the last hidden states, (rows, length, hidden)."""
    return BODIES[weights.kind](weights, rows)


def linear(w: Weights, name: str, x: Any, *, turned: bool = False, seen: Any = None) -> Any:
    """Return a linear layer of (..., inputs), and what methods add to it, (..., outputs).

    `turned`: its weight is (inputs, outputs); `seen`: what its block reads, for adapters beside it.
    """
    tf = tensorflow()
    flat = tf.reshape(x, [-1, x.shape[-1]])
    out = tf.matmul(flat, w[f"{name}.weight"], transpose_b=not turned)
    if f"{name}.bias" in w:
        out += w[f"{name}.bias"]
    for a, b in BRANCHES:
        if f"{name}.{a}" in w:
            inner = tf.matmul(flat, w[f"{name}.{a}"], transpose_b=True)
            out += w.scales[name] * tf.matmul(inner, w[f"{name}.{b}"], transpose_b=True)
    if f"{name}.adapter_down.weight" in w:
        read = out
        if name in w.beside:
            read = tf.reshape(seen, [-1, seen.shape[-1]])
        inner = activation(w.acts[name], linear(w, f"{name}.adapter_down", read))
        out += w.scales[name] * linear(w, f"{name}.adapter_up", inner)
    return tf.reshape(out, tf.concat([tf.shape(x)[:-1], [out.shape[-1]]], 0))


def activation(name: str, x: Any) -> Any:
    """Return the activation that transformers calls `name`."""
    tf = tensorflow()
    if name == "gelu":
        return tf.nn.gelu(x, approximate=False)
    if name in ("gelu_new", "gelu_pytorch_tanh"):
        return tf.nn.gelu(x, approximate=True)
    return {"relu": tf.nn.relu, "silu": tf.nn.silu, "tanh": tf.tanh}[name](x)


def layer_norm(w: Weights, name: str, x: Any, epsilon: float) -> Any:
    """Return x with mean 0 and variance 1 over its last axis, scaled and shifted."""
    tf = tensorflow()
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + epsilon) * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(w: Weights, name: str, x: Any, epsilon: float) -> Any:
    """Return x divided by its root mean square over its last axis, scaled."""
    tf = tensorflow()
    square = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
    return x * tf.math.rsqrt(square + epsilon) * w[f"{name}.weight"]


def _bert(w: Weights, rows: Rows) -> Any:
    tf, c, body = tensorflow(), w.config, w.body
    length = tf.shape(rows.ids)[1]
    places = tf.range(length) + w.before()
    types = tf.zeros_like(rows.ids) if rows.types is None else rows.types
    tables = f"{body}embeddings."
    x = tf.gather(w[f"{tables}word_embeddings.weight"], rows.ids)
    x += tf.gather(w[f"{tables}token_type_embeddings.weight"], types)
    x += tf.gather(w[f"{tables}position_embeddings.weight"], places)[None]
    x = layer_norm(w, f"{tables}LayerNorm", x, c.layer_norm_eps)
    unseen = _unseen(rows, w.before(), causal=False)
    for layer in range(c.num_hidden_layers):
        at = f"{body}encoder.layer.{layer}."
        q, k, v = (
            _split(linear(w, f"{at}attention.self.{part}", x), c.num_attention_heads)
            for part in ("query", "key", "value")
        )
        found = _attend(q, k, v, unseen, _before(w, rows, layer))
        out = linear(w, f"{at}attention.output.dense", found)
        x = layer_norm(w, f"{at}attention.output.LayerNorm", x + out, c.layer_norm_eps)
        inner = activation(c.hidden_act, linear(w, f"{at}intermediate.dense", x))
        out = linear(w, f"{at}output.dense", inner, seen=x)
        x = layer_norm(w, f"{at}output.LayerNorm", x + out, c.layer_norm_eps)
    return x


def _gpt2(w: Weights, rows: Rows) -> Any:
    tf, c, body = tensorflow(), w.config, w.body
    before = _length_before(w, rows)
    places = tf.range(tf.shape(rows.ids)[1]) + before
    x = tf.gather(w[f"{body}wte.weight"], rows.ids)
    x += tf.gather(w[f"{body}wpe.weight"], places)[None]
    unseen = _unseen(rows, before, causal=True)
    for layer in range(c.n_layer):
        at = f"{body}h.{layer}."
        normed = layer_norm(w, f"{at}ln_1", x, c.layer_norm_epsilon)
        all_three = linear(w, f"{at}attn.c_attn", normed, turned=True)
        q, k, v = (_split(part, c.n_head) for part in tf.split(all_three, 3, axis=-1))
        found = _attend(q, k, v, unseen, _before(w, rows, layer), scaled=c.scale_attn_weights)
        x += linear(w, f"{at}attn.c_proj", found, turned=True)
        normed = layer_norm(w, f"{at}ln_2", x, c.layer_norm_epsilon)
        inner = linear(w, f"{at}mlp.c_fc", normed, turned=True)
        inner = activation(c.activation_function, inner)
        x += linear(w, f"{at}mlp.c_proj", inner, turned=True, seen=normed)
    return layer_norm(w, f"{body}ln_f", x, c.layer_norm_epsilon)


def _llama(w: Weights, rows: Rows) -> Any:
    tf, c, body = tensorflow(), w.config, w.body
    heads, shared = c.num_attention_heads, c.num_key_value_heads
    before = _length_before(w, rows)
    places = tf.range(tf.shape(rows.ids)[1]) + before
    x = tf.gather(w[f"{body}embed_tokens.weight"], rows.ids)
    unseen = _unseen(rows, before, causal=True)
    size = getattr(c, "head_dim", None) or c.hidden_size // heads
    turns = _turns(places, size, _theta(w))
    for layer in range(c.num_hidden_layers):
        at = f"{body}layers.{layer}."
        normed = rms_norm(w, f"{at}input_layernorm", x, c.rms_norm_eps)
        q = _split(linear(w, f"{at}self_attn.q_proj", normed), heads)
        k = _split(linear(w, f"{at}self_attn.k_proj", normed), shared)
        v = _split(linear(w, f"{at}self_attn.v_proj", normed), shared)
        if f"{at}self_attn.q_norm.weight" in w:
            q = rms_norm(w, f"{at}self_attn.q_norm", q, c.rms_norm_eps)
            k = rms_norm(w, f"{at}self_attn.k_norm", k, c.rms_norm_eps)
        q, k = _turned(q, turns), _turned(k, turns)
        found = _attend(q, k, v, unseen, _before(w, rows, layer))
        x += linear(w, f"{at}self_attn.o_proj", found)
        normed = rms_norm(w, f"{at}post_attention_layernorm", x, c.rms_norm_eps)
        gate = activation(c.hidden_act, linear(w, f"{at}mlp.gate_proj", normed))
        inner = gate * linear(w, f"{at}mlp.up_proj", normed)
        x += linear(w, f"{at}mlp.down_proj", inner, seen=normed)
    return rms_norm(w, f"{body}norm", x, c.rms_norm_eps)


BODIES: Mapping[str, Any] = {
    "bert": _bert, "gpt2": _gpt2, "llama": _llama, "mistral": _llama, "qwen2": _llama,
    "qwen3": _llama,
}  # fmt: skip


def _split(x: Any, heads: int) -> Any:
    """Map (rows, length, heads x size) to (rows, heads, length, size)."""
    tf = tensorflow()
    shape = tf.shape(x)
    parts = tf.reshape(x, [shape[0], shape[1], heads, x.shape[-1] // heads])
    return tf.transpose(parts, [0, 2, 1, 3])


def _attend(
    q: Any, k: Any, v: Any, unseen: Any, before: tuple[Any, Any] | None, *, scaled: bool = True
) -> Any:
    """Return attention over what is before and the rows, (rows, length, heads x size).

    `q`: (rows, heads, length, size); `k`, `v` may have fewer heads, each for several of q's;
    `unseen`: (rows, 1, 1 or length, before + length), added to scores.
    """
    tf = tensorflow()
    rows = tf.shape(q)[0]
    if before is not None:
        k, v = (
            tf.concat([tf.repeat(part[None], rows, axis=0), own], axis=2)
            for part, own in zip(before, (k, v), strict=True)
        )
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = tf.repeat(k, groups, axis=1), tf.repeat(v, groups, axis=1)
    scores = tf.matmul(q, k, transpose_b=True)
    if scaled:
        scores *= q.shape[-1] ** -0.5
    found = tf.matmul(tf.nn.softmax(scores + unseen, axis=-1), v)
    found = tf.transpose(found, [0, 2, 1, 3])
    return tf.reshape(found, [rows, tf.shape(q)[2], q.shape[1] * q.shape[-1]])


def _unseen(rows: Rows, before: Any, *, causal: bool) -> Any:
    """Return what is added to scores: FAR for padding, and with `causal` for what comes later."""
    tf = tensorflow()
    padding = (1.0 - tf.cast(rows.mask, tf.float32))[:, None, None] * FAR
    length = tf.shape(rows.ids)[1]
    if causal:
        later = tf.linalg.band_part(tf.ones([length, length]), -1, 0)
        padding += (1.0 - later) * FAR
    front = tf.zeros([tf.shape(padding)[0], 1, tf.shape(padding)[2], before])
    return tf.concat([front, padding], axis=-1)


def _before(w: Weights, rows: Rows, layer: int) -> tuple[Any, Any] | None:
    """Return the keys and values that all rows follow in a layer, each (heads, tokens, size).

    A trained prefix stands behind an encoded context; its keys are kept as they are used without
    one, and rotary keys are turned on by the context's length.
    """
    tf, prefix = tensorflow(), w.prefix(layer)
    if rows.past is None:
        return prefix
    past = rows.past[2 * layer], rows.past[2 * layer + 1]
    if prefix is None:
        return past
    keys, values = prefix
    if BODIES[w.kind] is _llama:
        keys = _turned(keys, _turns(tf.shape(past[0])[1][None], keys.shape[-1], _theta(w)))
    return tf.concat([past[0], keys], axis=1), tf.concat([past[1], values], axis=1)


def _length_before(w: Weights, rows: Rows) -> Any:
    return w.before() + (0 if rows.past is None else tensorflow().shape(rows.past)[2])


def _theta(w: Weights) -> float:
    return float(w.config.rope_parameters["rope_theta"])


def _turns(places: Any, size: int, theta: float) -> tuple[Any, Any]:
    """Return cosine and sine of the rotary embedding, each (length, size) (Su et al. 2021)."""
    tf = tensorflow()
    speeds = theta ** (-tf.range(0, size, 2, dtype=tf.float32) / size)
    angles = tf.cast(places, tf.float32)[:, None] * speeds[None]
    angles = tf.concat([angles, angles], axis=-1)
    return tf.cos(angles), tf.sin(angles)


def _turned(x: Any, turns: tuple[Any, Any]) -> Any:
    """Turn (rows, heads, length, size) by its places."""
    tf = tensorflow()
    left, right = tf.split(x, 2, axis=-1)
    return x * turns[0] + tf.concat([-right, left], axis=-1) * turns[1]
