"""A torch net with the methods that were attached to it, as arrays of TensorFlow.

Methods are attached once, by torch's classes, so both engines start from the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import activations

from sapwood.errors import ConfigError
from sapwood.methods import parts
from sapwood.methods.adapter import Bottleneck, Tap
from sapwood.methods.lora import LoraLayer
from sapwood.methods.prefix_tuning import Direct
from sapwood.tensorflow.arrays import ACTIVATIONS, PREFIX, Weights, weights

KNOWN = (LoraLayer, Bottleneck, Tap, Direct)
METHODS = ("lora", "adapter", "prefix")


def weights_of(net: Any, head: nn.Module | None = None) -> tuple[Weights, dict[str, Tensor]]:
    """Return (`net` as TensorFlow's arrays, what trains by the names it has there).

    `head`: more trained tensors, as "head.weight" and "head.bias". Without a method all that
    requires a gradient trains. Raises ConfigError (E-CONFIG-261) for a method that this engine does
    not compute, and what `arrays.weights` raises.
    """
    _check(net)
    trained: dict[str, Tensor] = {
        PREFIX if name.endswith(PREFIX) else name: tensor
        for name, tensor in parts.weights(net).items()
    }
    own = {id(tensor) for tensor in trained.values()}
    arrays: dict[str, Any] = {}
    for name, tensor in net.named_parameters():
        if id(tensor) not in own:
            arrays[parts.logical(name)] = tensor
            if tensor.requires_grad:
                trained[parts.logical(name)] = tensor
    if head is not None:
        trained |= {f"head.{name}": tensor for name, tensor in head.named_parameters()}
    scales, acts, beside = {}, {}, set()
    for path, part in parts.parts(net):
        if isinstance(part, LoraLayer | Bottleneck):
            scales[path] = float(part.scale)
        if isinstance(part, LoraLayer) and part.origin_A is not None:
            arrays |= {f"{path}.origin_A": part.origin_A, f"{path}.origin_B": part.origin_B}
        if isinstance(part, Bottleneck):
            acts[path] = _name(part.act)
            if part.beside:
                beside.add(path)
    made = weights(
        net.config, {name: _array(t) for name, t in (arrays | trained).items()},
        scales=scales, acts=acts, beside=frozenset(beside),
    )  # fmt: skip
    return made, trained


def _check(net: Any) -> None:
    problems = []
    for path, part in parts.parts(net):
        where = path or type(net).__name__
        if type(part) not in KNOWN:
            problems.append(f"{where}: {type(part).__name__}")
        elif isinstance(part, LoraLayer) and part.dropout:
            problems.append(f"{where}: dropout on LoRA's input")
        elif isinstance(part, LoraLayer | Bottleneck) and isinstance(part.base_layer, parts.Part):
            problems.append(f"{where}: two methods on one layer")
        elif isinstance(part, LoraLayer | Bottleneck) and _gate(part) is not None:
            problems.append(f"{where}: a gate")
    if problems:
        raise ConfigError(
            "E-CONFIG-261",
            f"The engine 'tensorflow' trains {', '.join(METHODS)}, each in its plain form.",
            details=problems[:5],
            fix="--engine torch, or one of these methods with plain settings",
        )


def _gate(part: LoraLayer | Bottleneck) -> Any:
    return part.branch_gate if isinstance(part, LoraLayer) else part.adapter_gate


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    return found


def _name(act: Any) -> str:
    found = next(
        (name for name in ACTIVATIONS if type(activations.ACT2FN[name]) is type(act)), None
    )
    if found is None:
        raise ConfigError(
            "E-CONFIG-261",
            f"The engine 'tensorflow' does not know the activation {type(act).__name__}.",
            fix=f"one of {', '.join(ACTIVATIONS)}, or --engine torch",
        )
    return found
