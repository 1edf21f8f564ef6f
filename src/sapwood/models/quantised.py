"""A base whose matrices are kept in 8 or 4 bits and multiplied in its own number format.

"int8": whole numbers times one scale an output (the largest absolute value over 127), in plain
torch. "int4": NF4, blocks of 64 weights with a scale each, scales in 8 bits again, as QLoRA has it
(Dettmers et al. 2023, arXiv 2305.14314), by bitsandbytes. Neither rounds activations.

A packed layer makes its matrix when it is multiplied and forgets it: autograd saves nothing of it,
and the backward pass makes it again. Whoever reads `layer.weight` gets it too, so methods attach
to packed layers as to plain ones. Embeddings, norms, biases and the head stay as they are.
"""

from __future__ import annotations

import hashlib
import logging
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from sapwood.errors import ConfigError

FORMATS = {
    "int8": "absmax of each output",
    "int4": "nf4, blocks of 64, double",
}
_BLOCK = 64


class PackedMatrix(Protocol):
    """A matrix (outputs, inputs) in few bits; `bytes` is the memory it takes."""

    bytes: int

    def unpack(self) -> Tensor:
        """Return the matrix in the number format it had."""
        ...


class Int8Matrix:
    """Rows of whole numbers in [-127, 127], each times its scale.

    Scales are rounded to the matrix's own format before the numbers are, so they add no error.
    """

    def __init__(self, matrix: Tensor) -> None:
        tiny = torch.finfo(matrix.dtype).tiny
        largest = matrix.abs().amax(dim=1, keepdim=True).float()
        self.scale = (largest / 127).to(matrix.dtype).clamp_min(tiny)  # (outputs, 1)
        rounded = (matrix.float() / self.scale.float()).round_().clamp_(-127, 127)
        self.numbers = rounded.to(torch.int8)
        self.bytes = _bytes(self.numbers) + _bytes(self.scale)

    def unpack(self) -> Tensor:
        """See `PackedMatrix`."""
        return self.numbers.to(self.scale.dtype).mul_(self.scale)


class Int4Matrix:
    """NF4 codes, two a byte; bitsandbytes packs and unpacks them on CPUs and GPUs alike."""

    def __init__(self, matrix: Tensor) -> None:
        self._library = library()
        self.codes, self.state = self._library.quantize_4bit(
            matrix.contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
        )
        nested = self.state.state2
        self.bytes = _bytes(self.codes) + _bytes(self.state.absmax) + _bytes(nested.absmax)

    def unpack(self) -> Tensor:
        """See `PackedMatrix`."""
        found: Tensor = self._library.dequantize_4bit(self.codes, self.state)
        return found


_KINDS: dict[str, type[Int8Matrix | Int4Matrix]] = {"int8": Int8Matrix, "int4": Int4Matrix}


class _Product(torch.autograd.Function):
    """x W^T for a packed W, which both passes unpack; nothing is saved."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, layer = given
        ctx.layer = layer
        return functional.linear(x, layer.packed.unpack())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] @ ctx.layer.packed.unpack(), None


class PackedLayer(nn.Module):
    """What packed layers share: `format`, a key of FORMATS, `packed`, and the bias of before.

    `packed_values`: how many weights it holds; `mergeable`: whether reading the weight as a
    parameter, which merging does, is allowed (it may be read as `weight` at any time).
    """

    bias: Any
    packed: PackedMatrix

    def __init__(self, layer: nn.Linear | Conv1D, form: str) -> None:
        nn.Module.__init__(self)
        self.format, self.mergeable = form, False
        self.in_features, self.out_features = (
            layer.weight.shape if isinstance(layer, Conv1D) else layer.weight.shape[::-1]
        )
        self.register_parameter("bias", layer.bias)
        self.training = layer.training
        self.packed_values = layer.weight.numel()
        self.hold(layer.weight.data)

    def hold(self, weight: Tensor) -> None:
        """Pack another weight, shaped as `weight` is."""
        self.packed = _KINDS[self.format](weight.t() if isinstance(self, Conv1D) else weight)

    @property
    def weight(self) -> Tensor:
        """The weight, unpacked anew at every call, shaped as in the layer of before."""
        matrix = self.packed.unpack()
        return matrix.t() if isinstance(self, Conv1D) else matrix

    def get_parameter(self, target: str) -> nn.Parameter:
        """Return a parameter; of the weight a copy, or ConfigError (E-CONFIG-037)."""
        if target == "weight" and self.mergeable:
            return nn.Parameter(self.weight, requires_grad=False)
        if target == "weight":
            raise ConfigError(
                "E-CONFIG-037",
                f"The base's weights are kept as {self.format}: merging would round what was "
                "trained.",
                fix="merge into the base in full (--weights full), or keep the adaptation beside "
                "it; sapwood.methods.requantised.merge_rounded merges all the same and measures it",
            )
        return super().get_parameter(target)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return functional.linear(x, self.packed.unpack(), self.bias)
        out: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """Return sizes and format."""
        return f"{self.in_features}, {self.out_features}, {self.format}"


class PackedLinear(PackedLayer, nn.Linear):  # type: ignore[override]
    """A packed `nn.Linear`."""


class PackedConv1D(PackedLayer, Conv1D):  # type: ignore[misc]
    """A packed `Conv1D` of GPT-2: its `weight` is (inputs, outputs)."""

    @property
    def nf(self) -> int:
        """The number of outputs, by the name it has in Conv1D."""
        return int(self.out_features)


@torch.no_grad()
def quantise(net: Any, form: str) -> int:
    """Pack every linear layer of `net` but the head, in place; return how many.

    `form`: a key of FORMATS. The net is to be on its device already. Raises ConfigError:
    E-CONFIG-036 an unknown format or a missing library.
    """
    if form not in FORMATS:
        raise ConfigError(
            "E-CONFIG-036",
            f"Unknown format of weights '{form}'.",
            fix=f"use full, {', '.join(FORMATS)}",
        )
    head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
    made = {nn.Linear: PackedLinear, Conv1D: PackedConv1D}
    found = [(path, m) for path, m in net.named_modules() if type(m) in made and m is not head]
    for path, module in found:
        net.set_submodule(path, made[type(module)](module, form))
    return len(found)


def weight_bytes(net: Any) -> int:
    """Return the memory of all weights of `net`, packed ones included; tied ones count once."""
    packed = sum(m.packed.bytes for m in net.modules() if isinstance(m, PackedLayer))
    return packed + sum(_bytes(p) for p in net.parameters())


def format_hash(sha256: str, form: str) -> str:
    """Return what identifies weights `sha256` once they are rounded to `form`."""
    return hashlib.sha256(f"{sha256} {form}: {FORMATS[form]}".encode()).hexdigest()


def library() -> Any:
    """Return bitsandbytes' functions. Raises ConfigError (E-CONFIG-036) with the way to install."""
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)  # it advises other kernels, which come as code from a hub
    try:
        return import_module("bitsandbytes.functional")
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            "E-CONFIG-036",
            f"Weights in 4 bits need bitsandbytes, which does not load: {error}",
            fix="pip install 'sapwood[quantised]', or --weights int8, which needs nothing more",
        ) from error
    finally:
        log.setLevel(level)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
