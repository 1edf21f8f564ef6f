"""Keys and values of all layers as one tensor, (tokens, 2 x layers, key heads, head size).

Keys of layer 0, values of layer 0, keys of layer 1, ...: the order of PEFT's PREFIX_TUNING layout,
whose one tensor is this one with the last three sizes flattened.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sapwood.errors import ModelError

KeysValues = tuple[Tensor, Tensor]  # each (1, key heads, tokens, head size)
PEFT_NAME = "prompt_embeddings"
CACHES = ("cache", "past_key_values")  # transformers' name for its argument since 5.24, and before


def cache_name(net: Any) -> str:
    """Return what `net` calls the argument that takes transformers' cache."""
    return next(name for name in CACHES if name in inspect.signature(net.forward).parameters)


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


def turned(tensor: Tensor, net: Any, by: int) -> Tensor:
    """Return the tensor with every key moved `by` positions, which may be below 0.

    A rotary key moves by turning, and turns add up; gradients flow. Nets without rotary embedding
    (GPT-2, BERT) have their positions inside the keys, where they stay.
    """
    body = getattr(net, net.base_model_prefix, net)
    rotary = getattr(body, "rotary_emb", None)
    if rotary is None or not by or not len(tensor):
        return tensor
    typed = "layer_type" in inspect.signature(rotary.forward).parameters
    where = torch.tensor([[by]], device=tensor.device)
    angles: dict[str, tuple[Tensor, Tensor]] = {}
    moved = []
    for layer in range(tensor.shape[1] // 2):
        kind = net.config.layer_types[layer] if typed else ""
        key, value = tensor[:, 2 * layer], tensor[:, 2 * layer + 1]  # each (tokens, heads, size)
        if kind not in angles:
            sample = torch.empty(0, dtype=torch.float32, device=tensor.device)
            cos, sin = rotary(sample, where, *((kind,) if typed else ()))  # each (1, 1, size)
            length = (cos**2 + sin**2).sqrt()  # some rotary embeddings scale what they turn
            angles[kind] = (cos / length, sin / length)
        cos, sin = angles[kind]
        left, right = key.float().chunk(2, dim=-1)
        across = torch.cat((-right, left), dim=-1)
        moved += [(key.float() * cos + across * sin).to(key.dtype), value]
    return torch.stack(moved, dim=1)


def peft_config(tensor: Tensor, *, task: str) -> dict[str, Any]:
    """Return what PEFT's adapter_config.json says of a prefix; `task`: PEFT's name of its use."""
    tokens, parts, heads, size = tensor.shape
    return {
        "peft_type": "PREFIX_TUNING",
        "task_type": task,
        "inference_mode": True,
        "num_virtual_tokens": tokens,
        "token_dim": heads * size,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": parts // 2,
        "encoder_hidden_size": heads * size,
        "prefix_projection": False,
    }


def check_peft_config(config: Mapping[str, Any], where: str) -> None:
    """Raise ModelError (E-MODEL-022) for a configuration that cannot be loaded exactly."""
    problems = []
    if config.get("peft_type") != "PREFIX_TUNING":
        problems.append(f"peft_type is {config.get('peft_type')!r}, not PREFIX_TUNING")
    problems += [
        f"{name} is {config.get(name)!r}, not a size"
        for name in _SIZES
        if not isinstance(config.get(name), int) or config[name] < 1
    ]
    if config.get("num_transformer_submodules", 1) not in (1, None):
        problems.append("it is for an encoder and a decoder; Sapwood reads decoders")
    if problems:
        raise ModelError("E-MODEL-022", f"{where} cannot be loaded exactly.", details=problems)


def from_peft_tensors(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> Tensor:
    """Return the prefix of a PEFT folder; `where`: what holds its tensors, for the message.

    Raises ModelError: E-MODEL-022 a setting that Sapwood does not reproduce, E-MODEL-028 the
    tensors are not those that the configuration describes.
    """
    check_peft_config(config, where)
    tokens, layers, heads, width = (int(config[name]) for name in _SIZES)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {PEFT_NAME: (tokens, 2 * layers * width)} or width % heads:
        raise ModelError(
            "E-MODEL-028",
            f"{where} is not the prefix that its configuration describes.",
            details=[
                f"expected {PEFT_NAME} of shape {(tokens, 2 * layers * width)}, {heads} heads",
                *(f"found {name} of shape {shape}" for name, shape in list(found.items())[:4]),
            ],
            fix="copy the whole folder again",
        )
    return tensors[PEFT_NAME].view(tokens, 2 * layers, heads, width // heads)


_SIZES = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
