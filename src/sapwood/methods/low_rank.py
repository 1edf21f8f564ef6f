"""A linear layer with a trained low-rank branch beside it, saving its input once for autograd.

`out = x W^T + b + scale * dropout(x) A^T B^T`. The layers that share one input (q, k, v; gate, up)
save the same tensor; the dropout mask is drawn again from its seed in the backward pass; beside the
input only its `rank` inner products a token are kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from sapwood.launch import onednn_is_faster


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b by the library that is faster here; both are exact to float32 rounding."""
    if x.dtype == torch.float32 and x.device.type == "cpu" and onednn_is_faster():
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return functional.linear(x, weight, bias)


class _Branch(torch.autograd.Function):
    """Base and branch as one node of the graph; weights are kept outside the saved tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, layer: LowRank, seed: int) -> Tensor:
        out, inner = layer.compute(x, seed)
        ctx.save_for_backward(x, inner)
        ctx.layer, ctx.seed = layer, seed
        ctx.versions = (a._version, b._version)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x, down), layer = ctx.saved_tensors, ctx.layer
        a, b = layer.lora_A, layer.lora_B
        if ctx.versions != (a._version, b._version):
            raise RuntimeError("LoRA weights changed between the forward and the backward pass.")
        grad = grads[0].flatten(0, -2)
        flat = x.flatten(0, -2)
        mask = layer.dropped(flat, ctx.seed)
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        inner = (grad @ low_b) * layer.scale  # (tokens, rank)
        dropped = flat if mask is None else flat * mask
        grad_a = inner.t() @ dropped
        grad_b = (grad.t() @ down) * layer.scale
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad, layer.out_by_in().t(), None)
            if mask is None:
                grad_x.addmm_(inner, low_a)
            else:
                grad_x.add_((inner @ low_a) * mask)
            grad_x = grad_x.view_as(x)
        return grad_x, grad_a.to(a.dtype), grad_b.to(b.dtype), None, None


class LowRank(nn.Module):
    """Wrap a frozen `nn.Linear` (or GPT-2's `Conv1D`) and add `scale * x A^T B^T`.

    `lora_A`: (rank, inputs), `lora_B`: (outputs, rank), float32 whatever the base's dtype. B starts
    at zero, so the output does not change at first.
    """

    def __init__(
        self, layer: nn.Linear | Conv1D, *, rank: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.base_layer = layer
        self.transposed = isinstance(layer, Conv1D)
        rows, columns = layer.weight.shape
        self.out_features, self.in_features = (
            (columns, rows) if self.transposed else (rows, columns)
        )
        self.rank, self.scale, self.dropout = rank, scale, dropout
        self.enabled = True
        self.merged_from: Tensor | None = None
        device = layer.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, self.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """The base's weight; some nets read its dtype."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, or None."""
        return self.base_layer.bias

    def out_by_in(self) -> Tensor:
        """Return the base weight as (outputs, inputs), a view."""
        return self.weight.t() if self.transposed else self.weight

    def dropped(self, x: Tensor, seed: int) -> Tensor | None:
        """Return the dropout mask of `seed`, scaled, (tokens, inputs), or None without dropout."""
        if not (self.training and self.dropout):
            return None
        generator = torch.Generator(x.device).manual_seed(seed)
        keep = torch.rand(x.shape, generator=generator, device=x.device) >= self.dropout
        return keep.to(x.dtype).div_(1 - self.dropout)

    def compute(self, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return (output, x A^T (tokens, rank)), without recording a graph of its own."""
        flat = x.flatten(0, -2)
        out = _product(flat, self.out_by_in(), self.bias)
        mask = self.dropped(flat, seed)
        inner = (flat if mask is None else flat * mask) @ self.lora_A.to(x.dtype).t()
        out.addmm_(inner, self.lora_B.to(x.dtype).t(), alpha=self.scale)
        return out.view(*x.shape[:-1], self.out_features), inner

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        if not self.enabled or self.merged_from is not None:
            return self.base_layer(x)  # type: ignore[no-any-return]
        seed = int(torch.randint(1 << 62, ())) if self.training and self.dropout else 0
        if torch.is_grad_enabled():
            return _Branch.apply(x, self.lora_A, self.lora_B, self, seed)  # type: ignore[no-any-return,no-untyped-call]
        return self.compute(x, seed)[0]

    @torch.no_grad()
    def delta(self) -> Tensor:
        """Return scale * B A as float32, in the layout of the base's weight."""
        product = (self.lora_B @ self.lora_A) * self.scale
        return product.t() if self.transposed else product

    @torch.no_grad()
    def merge(self) -> None:
        """Add the branch into the base weight, keeping the original for `unmerge`."""
        if self.merged_from is None:
            weight = self.base_layer.weight
            self.merged_from = weight.data
            weight.data = (weight.data.float() + self.delta()).to(weight.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the original weight back, bit for bit."""
        if self.merged_from is not None:
            self.base_layer.weight.data = self.merged_from
            self.merged_from = None
