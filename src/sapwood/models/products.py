"""Linear layers that train through oneDNN where that is faster than torch's default.

torch multiplies float32 matrices with MKL on x86, which runs at half of oneDNN's speed on AMD
processors, forward and backward. Weights, names and gradients stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from sapwood.launch.products import fits, product


class _Linear(torch.autograd.Function):
    """A linear layer whose three products are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *given: Any) -> Any:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        slope = given[0].reshape(-1, weight.shape[0])
        back = product(slope, weight.T).view(x.shape) if needs_x else None
        own = product(slope.T, x.reshape(-1, weight.shape[1]).T) if needs_weight else None
        return back, own, slope.sum(0) if ctx.biased and needs_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x weight^T + bias, differentiable."""
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class FastLinear(nn.Linear):
    """A linear layer that takes `linear` where that fits."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Return (..., outer) for (..., inner)."""
        if not fits(input):
            return super().forward(input)
        return linear(input, self.weight, self.bias)


class FastConv1D(Conv1D):
    """GPT-2's linear layer, whose weight is (inner, outer)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outer) for (..., inner)."""
        if not fits(x):
            return super().forward(x)  # type: ignore[no-any-return,no-untyped-call]
        return linear(x, self.weight.T, self.bias)


def quickened(net: Any) -> Any:
    """Return `net` with its linear layers replaced by fast ones that hold the same weights.

    GPT-2's GELU, six operations in transformers, becomes torch's own of the same formula.
    """
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            made: nn.Module
            if type(child) is nn.Linear:
                made = FastLinear(child.in_features, child.out_features, bias=False, device="meta")
            elif type(child) is Conv1D:
                with torch.device("meta"):
                    made = FastConv1D(child.nf, child.nx)  # type: ignore[no-untyped-call]
            elif type(child) is NewGELUActivation:
                setattr(parent, name, nn.GELU(approximate="tanh"))
                continue
            else:
                continue
            made.weight, made.bias = child.weight, child.bias
            made.train(child.training)
            setattr(parent, name, made)
    return net
