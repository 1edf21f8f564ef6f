"""A linear layer with a trained low-rank branch beside it, saving its input once for autograd.

`out = (x W^T + scale * dropout(x) A^T B^T) * gain + b`, gain only where a method has one. Layers
that share one input (q, k, v; gate, up) save the same tensor; the dropout mask is drawn again from
its seed in the backward pass. Beside the input only its `rank` inner products a token are kept,
and the output where there is a gain, which the next operation usually keeps anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from sapwood.launch.products import faster
from sapwood.methods.gate import Gate
from sapwood.methods.parts import Part


class _Branch(torch.autograd.Function):
    """Base and branch as one node of the graph; weights are kept outside the saved tensors.

    The factors may be made of trained tensors by other nodes: their gradients go on from here.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, a, b, gain, layer, seed = given
        out: Tensor
        out, inner = layer.compute(x, (a, b, gain), seed)
        ctx.save_for_backward(x, inner, None if gain is None else out)
        ctx.layer, ctx.seed, ctx.factors = layer, seed, (a, b, gain)
        ctx.versions = tuple(t._version for t in (a, b))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x, down, out), layer, (a, b, gain) = ctx.saved_tensors, ctx.layer, ctx.factors
        if ctx.versions != (a._version, b._version):
            raise RuntimeError("LoRA weights changed between the forward and the backward pass.")
        grad, flat = grads[0].flatten(0, -2), x.flatten(0, -2)
        grad_gain = None
        if gain is not None:
            plain = out.flatten(0, -2) if layer.bias is None else out.flatten(0, -2) - layer.bias
            grad_gain = (grad.float() * plain).sum(0) / gain  # the output holds the gain already
            grad = grad * gain.to(grad.dtype)
        mask = layer.dropped(flat, ctx.seed)
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        inner = (grad @ low_b) * layer.scale  # (tokens, rank)
        dropped = flat if mask is None else flat * mask
        grad_a = inner.t() @ dropped
        grad_b = (grad.t() @ down) * layer.scale
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = layer.back(grad)
            if mask is None:
                grad_x.addmm_(inner, low_a)
            else:
                grad_x.add_((inner @ low_a) * mask)
            grad_x = grad_x.view_as(x)
        return grad_x, grad_a.to(a.dtype), grad_b.to(b.dtype), grad_gain, None, None


class LowRank(Part):
    """Wrap a frozen `nn.Linear` (or GPT-2's `Conv1D`) and add `scale * x A^T B^T`.

    A kind of branch says what A (rank, inputs) and B (outputs, rank) are made of in `factors`, and
    may scale each output in `gain`. Trained tensors are float32 whatever the base's dtype.
    """

    def __init__(
        self, layer: nn.Linear | Conv1D, *, rank: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__(layer)
        self.transposed = isinstance(layer, Conv1D)
        rows, columns = layer.weight.shape
        self.out_features, self.in_features = (
            (columns, rows) if self.transposed else (rows, columns)
        )
        self.rank, self.scale, self.dropout = rank, scale, dropout
        self.branch_gate: Gate | None = None

    def extra_repr(self) -> str:
        """Return what changes the output besides the trained tensors."""
        return f"rank={self.rank}, scale={self.scale!r}"

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A (rank, inputs) and B (outputs, rank), float32, made of what is trained."""
        raise NotImplementedError

    def gain(self) -> Tensor | None:
        """Return the factor of each output, (outputs,), or None for 1."""
        return None

    def out_by_in(self) -> Tensor:
        """Return the base weight as (outputs, inputs), a view."""
        return self.weight.t() if self.transposed else self.weight

    def back(self, grad: Tensor) -> Tensor:
        """Return grad W, (tokens, inputs): the gradient that passes through the base weight."""
        return faster(grad, self.out_by_in().t(), None)

    def dropped(self, x: Tensor, seed: int) -> Tensor | None:
        """Return the dropout mask of `seed`, scaled, (tokens, inputs), or None without dropout."""
        if not (self.training and self.dropout):
            return None
        generator = torch.Generator(x.device).manual_seed(seed)
        keep = torch.rand(x.shape, generator=generator, device=x.device) >= self.dropout
        return keep.to(x.dtype).div_(1 - self.dropout)

    def compute(
        self, x: Tensor, factors: tuple[Tensor, Tensor, Tensor | None], seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return (output, x A^T (tokens, rank)), without recording a graph of its own."""
        a, b, gain = factors
        flat = x.flatten(0, -2)
        out = faster(flat, self.out_by_in(), self.bias if gain is None else None)
        mask = self.dropped(flat, seed)
        inner = (flat if mask is None else flat * mask) @ a.to(x.dtype).t()
        out.addmm_(inner, b.to(x.dtype).t(), alpha=self.scale)
        if gain is not None:
            out.mul_(gain.to(out.dtype))
            if self.bias is not None:
                out.add_(self.bias)
        return out.view(*x.shape[:-1], self.out_features), inner

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        if not self.active:
            return self.base_layer(x)  # type: ignore[no-any-return]
        seed = int(torch.randint(1 << 62, ())) if self.training and self.dropout else 0
        if self.branch_gate is not None:
            return self._gated(x, seed)
        a, b = self.factors()
        gain = self.gain()
        if torch.is_grad_enabled():
            return _Branch.apply(x, a, b, gain, self, seed)  # type: ignore[no-any-return,no-untyped-call]
        return self.compute(x, (a, b, gain), seed)[0]

    def _gated(self, x: Tensor, seed: int) -> Tensor:
        """Return the same with the gate on the branch; the input and rank numbers a token stay."""
        assert self.branch_gate is not None
        mask = self.dropped(x, seed)
        a, b = (factor.to(x.dtype) for factor in self.factors())
        inner = functional.linear(x if mask is None else x * mask, a)  # (..., rank)
        inner = inner * self.branch_gate(x) * self.scale
        out: Tensor = self.base_layer(x)
        return out + functional.linear(inner, b)

    @torch.no_grad()
    def fold(self) -> dict[str, Tensor]:
        """Return the base weight with the branch added, float32, in the base's layout."""
        if self.branch_gate is not None:  # what a gate lets through differs from token to token
            return super().fold()
        a, b = self.factors()
        whole = self.out_by_in().float() + (b @ a) * self.scale
        gain = self.gain()
        whole = whole if gain is None else whole * gain[:, None]
        return {"weight": whole.t() if self.transposed else whole}
