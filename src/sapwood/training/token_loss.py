"""Cross-entropy over a vocabulary whose logits never exist all at once.

The head's product, the softmax and both of its gradients are computed for some positions at a time
while the forward pass runs, as fused linear cross-entropy does (Hsu et al. 2024, arXiv 2410.10989):
three matrix products, as without it, and no memory that grows with positions times vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.launch.products import fits, product

# Logits held at once, in bytes of float32. On a CPU the product of 256 to 512 positions with a
# vocabulary of 8,192 ran at 230 GFLOP/s, that of 1,024 at 140 (one core, torch 2.13); GPUs want
# wide blocks.
CPU_BYTES = 8 << 20
GPU_BYTES = 256 << 20


def token_loss(
    states: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor, *, bytes_: int = 0
) -> Tensor:
    """Return the cross-entropy of `wanted` (positions,) after `states`, summed, float32.

    `states`: (positions, hidden); `weight`: (vocabulary, hidden); `bias`: (vocabulary,) or None;
    `bytes_`: most bytes of logits, by default what suits the device.
    """
    bytes_ = bytes_ or (CPU_BYTES if states.device.type == "cpu" else GPU_BYTES)
    size = max(64, bytes_ // (4 * weight.shape[0]))
    loss: Tensor = _Fused.apply(states, weight, bias, wanted, size)  # type: ignore[no-untyped-call]
    return loss


class _Fused(torch.autograd.Function):
    """The summed loss; its gradients are computed with it unless nobody asks for them."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor, size: int
    ) -> Tensor:
        kind = states.dtype
        if torch.is_autocast_enabled(states.device.type):
            kind = torch.get_autocast_dtype(states.device.type)
        rows, matrix = states.to(kind), weight.to(kind)
        total = torch.zeros((), device=states.device)
        wants = any(ctx.needs_input_grad[:3])
        times = product if fits(rows) else functional.linear
        back = torch.empty_like(rows) if wants else None
        back_weight = torch.zeros_like(matrix, dtype=torch.float32) if wants else None
        back_bias = torch.zeros(len(weight), device=weight.device) if wants else None
        for start in range(0, len(rows), size):
            part, gold = rows[start : start + size], wanted[start : start + size, None]
            logits = times(part, matrix).float()
            share = torch.log_softmax(logits if bias is None else logits.add_(bias), 1)
            total -= share.gather(1, gold).sum()
            if back is None or back_weight is None or back_bias is None:
                continue
            share.exp_()
            share.scatter_add_(1, gold, share.new_full(gold.shape, -1.0))
            if bias is not None:
                back_bias += share.sum(0)
            slope = share.to(kind)
            back[start : start + size] = times(slope, matrix.T)
            back_weight += times(slope.T, part.T)
        if back is not None:
            ctx.save_for_backward(back, back_weight, back_bias)
        ctx.kinds = states.dtype, weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *given: Any) -> Any:
        back, back_weight, back_bias = ctx.saved_tensors
        states, weight, bias = ctx.kinds
        out = [
            (back * given[0]).to(states),
            (back_weight * given[0]).to(weight),
            None if bias is None else (back_bias * given[0]).to(bias),
        ]
        return (*out, None, None)
