"""The variables of a net, under their Hugging Face names and in their Hugging Face layouts.

A linear layer of torch has its weight as (outputs, inputs), GPT-2's own as (inputs, outputs); both
stay so. What LoRA, an adapter or a prefix trains stands beside, under its name in PEFT's files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.errors import ModelError
from sapwood.tensorflow.arrival import tensorflow

# The key that tells where the body of a kind begins: what stands before it is the body's name.
EMBEDDINGS = {
    "bert": "embeddings.word_embeddings.weight",
    "gpt2": "wte.weight",
    "llama": "embed_tokens.weight",
    "mistral": "embed_tokens.weight",
    "qwen2": "embed_tokens.weight",
    "qwen3": "embed_tokens.weight",
}
PREFIX = "prompt_embeddings"
ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "tanh")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A net: its configuration, and a variable for each tensor by name.

    `body`: what names of the body begin with ("bert.", "model.", ... or nothing); `scales`: the
    factor of each layer's LoRA branch or adapter; `acts`: the activation of each adapter;
    `beside`: adapters that read what their block reads, not what it gives.
    """

    config: Any
    variables: Mapping[str, Any]
    body: str
    scales: Mapping[str, float] = field(default_factory=dict)
    acts: Mapping[str, str] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.variables

    def __getitem__(self, name: str) -> Any:
        return self.variables[name]

    @property
    def kind(self) -> str:
        """Return transformers' name of the kind."""
        return str(self.config.model_type)

    @property
    def embeddings(self) -> Any:
        """Return the word embeddings, (vocabulary, hidden)."""
        return self[self.body + EMBEDDINGS[self.kind]]

    def prefix(self, layer: int) -> tuple[Any, Any] | None:
        """Return a trained prefix's keys and values of a layer, each (heads, tokens, size)."""
        if PREFIX not in self:
            return None
        tf = tensorflow()
        both = self[PREFIX][:, 2 * layer : 2 * layer + 2]  # (tokens, 2, heads, size)
        keys, values = tf.unstack(tf.transpose(both, [1, 2, 0, 3]))
        return keys, values

    def before(self) -> int:
        """Return the tokens of a trained prefix, 0 without one."""
        return int(self[PREFIX].shape[0]) if PREFIX in self else 0


def weights(config: Any, arrays: Mapping[str, np.ndarray[Any, Any]], **more: Any) -> Weights:
    """Return a net of these arrays, float32, after checking that every setting is honoured.

    Raises ModelError (E-MODEL-090) listing what this engine does not compute.
    """
    check(config)
    tf, key = tensorflow(), EMBEDDINGS[config.model_type]
    body = next(name[: -len(key)] for name in arrays if name.endswith(key))
    made = {
        name: tf.Variable(np.asarray(array, np.float32), trainable=True, name=_plain(name))
        for name, array in arrays.items()
    }
    return Weights(config=config, variables=made, body=body, **more)


def load(folder: Path) -> Weights:
    """Return the net of a Hugging Face folder as it is, without torch.

    Raises ModelError: E-MODEL-090 something this engine does not compute, E-MODEL-091 no folder
    with config.json and safetensors.
    """
    from importlib import import_module

    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise ModelError(
            "E-MODEL-091", f"{folder} has no config.json with a *.safetensors file.",
            fix="name a checkpoint folder; `sapwood models pull` fetches one",
        )  # fmt: skip
    import_module("ml_dtypes")  # numpy learns bfloat16 by it
    read = import_module("safetensors.numpy").load_file
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for file in files:
        arrays |= read(file)
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    mapping = import_module("transformers").CONFIG_MAPPING
    kind = stated.get("model_type", "")
    if kind not in EMBEDDINGS:
        raise _unknown(kind)
    return weights(mapping[kind].from_dict(stated), {_usual(n): a for n, a in arrays.items()})


def check(config: Any) -> None:
    """Raise ModelError (E-MODEL-090) naming every setting that would be ignored."""
    if config.model_type not in EMBEDDINGS:
        raise _unknown(config.model_type)
    rope = getattr(config, "rope_parameters", None) or {}
    rope_type = rope.get("rope_type", "default")
    act = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    problems = []
    if rope_type != "default":
        problems.append(f"rope_type is '{rope_type}', and only 'default' is known")
    window = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    if window and window < config.max_position_embeddings:
        problems.append(f"attention slides over {window} tokens")
    if act not in ACTIVATIONS:
        problems.append(f"the activation is '{act}', and known are {', '.join(ACTIVATIONS)}")
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        problems.append(f"positions are '{config.position_embedding_type}', not absolute")
    if getattr(config, "is_decoder", False) and config.model_type == "bert":
        problems.append("it is a BERT used as a decoder")
    for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        if getattr(config, name, False):
            problems.append(f"{name} is set")
    if problems:
        raise ModelError(
            "E-MODEL-090", "TensorFlow would not compute this base as it is meant.",
            details=problems, fix="--engine torch",
        )  # fmt: skip


def _unknown(kind: str) -> ModelError:
    return ModelError(
        "E-MODEL-090",
        f"The engine 'tensorflow' does not know the kind '{kind}'.",
        fix=f"--engine torch, or a base of a kind it knows: {', '.join(EMBEDDINGS)}",
    )


def _usual(name: str) -> str:
    """Return today's name of a tensor: the first BERTs called weights of norms gamma and beta."""
    stem, _, last = name.rpartition(".")
    return f"{stem}.{ {'gamma': 'weight', 'beta': 'bias'}.get(last, last) }" if stem else name


def _plain(name: str) -> str:
    return name.replace(".", "_")
