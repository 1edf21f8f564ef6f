"""Prefixes: keys and values of every layer for positions before the first token of a prompt.

Prefix-Tuning (Li & Liang 2021, arXiv 2101.00190) without its reparameterisation. A trained prefix
and an encoded context are one thing, so either becomes the other; it is kept in PEFT's
PREFIX_TUNING layout: adapter_config.json and one tensor, `prompt_embeddings`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sapwood.errors import ModelError
from sapwood.methods.peft_folder import CONFIG, TENSORS, read_tensors

KeysValues = tuple[Tensor, Tensor]  # each (1, key heads, tokens, head size)
_NAME = "prompt_embeddings"


@dataclass(frozen=True, kw_only=True)
class StoredPrefix:
    """The prefix of an adaptation; it takes the place of the context's text.

    `tensor`: (tokens, 2 x layers, key heads, head size): keys of layer 0, values of layer 0, keys
    of layer 1, ...; keys carry the rotary positions 0 to tokens - 1, so that a query starts at
    position `tokens`. `origin`: what it started from, in words; `trained`: whether it was changed
    since.
    """

    tensor: Tensor
    origin: str
    trained: bool

    @property
    def tokens(self) -> int:
        """Return how many positions it takes."""
        return len(self.tensor)

    def describe(self) -> str:
        """Return it in words for the report."""
        state = ", trained" if self.trained else ""
        return f"{self.tokens} tokens, from {self.origin}{state}"

    def layers(self, dtype: torch.dtype, device: torch.device) -> tuple[KeysValues, ...]:
        """Return keys and values of each layer, on the base's device and in its number format."""
        return split_layers(self.tensor, dtype, device)


def split_layers(
    tensor: Tensor, dtype: torch.dtype, device: torch.device
) -> tuple[KeysValues, ...]:
    """Return a stored tensor as one pair of keys and values a layer; gradients flow back to it."""
    moved = tensor.to(device=device, dtype=dtype)
    parts = moved.permute(1, 2, 0, 3).contiguous()[:, None]  # (2 layers, 1, heads, tokens, size)
    return tuple((parts[n], parts[n + 1]) for n in range(0, len(parts), 2))


def stack_layers(layers: Sequence[KeysValues]) -> Tensor:
    """Return keys and values of all layers as one tensor; `split_layers` takes it apart again."""
    pairs = [part[0] for pair in layers for part in pair]  # each (heads, tokens, size)
    return torch.stack(pairs).permute(2, 0, 1, 3).contiguous()


def expected_shape(config: Any) -> tuple[int, int, int]:
    """Return (2 x layers, key heads, head size) of the prefixes that fit a net's configuration."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, size


def check_fits(tensor: Tensor, config: Any) -> None:
    """Raise ModelError (E-MODEL-027) when a prefix was made for a net of another shape."""
    found, wanted = tuple(tensor.shape[1:]), expected_shape(config)
    if found != wanted:
        raise ModelError(
            "E-MODEL-027",
            "The prefix does not fit this base.",
            details=[
                f"{name}: the prefix has {there}, the base has {here}"
                for name, there, here in zip(
                    ("keys and values of layers", "key heads", "head size"),
                    found, wanted, strict=True,
                )
                if there != here
            ],
            fix="load it with the base it was made for",
        )  # fmt: skip


def write_prefix(tensor: Tensor, folder: Path, *, base: str) -> None:
    """Write a prefix into `folder`, loadable by ``peft.PeftModel.from_pretrained``.

    `base`: the name PEFT should show. The number format of `tensor` is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens, parts, heads, size = tensor.shape
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "num_virtual_tokens": tokens,
        "token_dim": heads * size,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": parts // 2,
        "encoder_hidden_size": heads * size,
        "prefix_projection": False,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    stored = {_NAME: tensor.detach().cpu().reshape(tokens, -1).contiguous()}
    save_file(stored, folder / TENSORS, metadata={"format": "pt"})


def read_prefix(folder: Path) -> Tensor:
    """Return the prefix of a PEFT folder, (tokens, 2 x layers, key heads, head size).

    Raises ModelError: E-MODEL-020 no configuration, 021 not JSON, 022 it is not a prefix or lacks
    a size, 024 to 026 no tensors, corrupt or not finite, 028 the tensor has another shape than
    the configuration says.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError("E-MODEL-020", f"{path} is missing: this is no PEFT adapter.") from None
    except ValueError as error:
        raise ModelError("E-MODEL-021", f"{path} is not valid JSON: {error}.") from None
    problems = []
    if config.get("peft_type") != "PREFIX_TUNING":
        problems.append(f"peft_type is {config.get('peft_type')!r}, not PREFIX_TUNING")
    names = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
    problems += [
        f"{name} is {config.get(name)!r}, not a size"
        for name in names
        if not isinstance(config.get(name), int) or config[name] < 1
    ]
    if config.get("num_transformer_submodules", 1) not in (1, None):
        problems.append("it is for an encoder and a decoder; Sapwood reads decoders")
    if problems:
        raise ModelError("E-MODEL-022", f"{path} cannot be loaded exactly.", details=problems)
    tokens, layers, heads, width = (config[name] for name in names)
    tensors = read_tensors(folder / TENSORS)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {_NAME: (tokens, 2 * layers * width)} or width % heads:
        raise ModelError(
            "E-MODEL-028",
            f"{folder / TENSORS} is not the prefix that {CONFIG} describes.",
            details=[
                f"expected {_NAME} of shape {(tokens, 2 * layers * width)}, {heads} heads",
                *(f"found {name} of shape {shape}" for name, shape in list(found.items())[:4]),
            ],
            fix="copy the whole folder again",
        )
    return tensors[_NAME].view(tokens, 2 * layers, heads, width // heads)
