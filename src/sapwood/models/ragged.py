"""Attention of a pack on CUDA: rows of any lengths in one call of torch's flash kernel.

The rows of a pack lie one after the other, so the kernel (FlashAttention-2, Dao 2023, arXiv
2307.08691) takes them as they are and nothing is padded. What they follow is a second call, in
which all their tokens are the queries of one sequence; both are merged by log-sum-exp. As on the
CPU (models/attention.py), the backward pass hands each part the merged output and log-sum-exp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sapwood.models.layout import Layout

_HALF = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 256  # the kernel's own limits, with multiples of 8

_forward = torch.ops.aten._flash_attention_forward
_backward = torch.ops.aten._flash_attention_backward


def fits(query: Tensor, masked: bool) -> bool:
    """Tell whether the kernel computes this: half precision on CUDA, and no mask but causal rows.

    `query`: (1, heads, tokens, size); `masked`: whether any row is a tree or any window cuts.
    """
    size = query.shape[-1]
    half = query.is_cuda and query.dtype in _HALF
    return half and not masked and size <= _LARGEST_HEAD and size % 8 == 0


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    settings: tuple[Layout, int, float],
) -> Tensor:
    """Return what each token reads, (1, tokens, heads, size), in the graph.

    `query`, `key`, `value`: (1, heads, tokens, size); `prefix`: keys and values that all rows see,
    (1, key heads, length, size); `settings`: the layout, how many tokens at the pack's beginning do
    not see the prefix, and the scale of scores.
    """
    prefix_key, prefix_value = prefix or (None, None)
    out: Tensor = _Ragged.apply(  # type: ignore[no-untyped-call]
        query, key, value, prefix_key, prefix_value, settings
    )
    return out[None]


class _Ragged(torch.autograd.Function):
    """Two partial attentions; saves queries, keys, values, output and log-sum-exp only."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *states, (layout, apart, scale) = given
        by_token: list[Any] = [None if x is None else x[0].transpose(0, 1) for x in states]
        query, key, value, prefix_key, prefix_value = by_token  # each (tokens, heads, size)
        rows = (layout.borders, layout.borders, layout.longest, layout.longest)
        out, total = _kernel((query, key, value), rows, True, scale)
        if prefix_key is not None:
            later = query[apart:]
            seats = _one_sequence(later, prefix_key)
            part, logsum = _kernel((later, prefix_key, prefix_value), seats, False, scale)
            own = total[:, apart:]
            merged = torch.logaddexp(own, logsum)
            shares = [(x - merged).exp().t()[..., None].to(out.dtype) for x in (own, logsum)]
            out[apart:] = out[apart:] * shares[0] + part * shares[1]
            total[:, apart:] = merged
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, total)
        ctx.settings = (rows, apart, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, prefix_key, prefix_value, out, total = ctx.saved_tensors
        rows, apart, scale = ctx.settings
        grad = grads[0].contiguous()
        back = _gradients((grad, query, key, value, out, total), rows, True, scale)
        if prefix_key is None:
            return (*(x.transpose(0, 1)[None] for x in back), None, None, None)
        later = [x[apart:] for x in (grad, query, out)]
        given = (*later[:2], prefix_key, prefix_value, later[2], total[:, apart:].contiguous())
        far = _gradients(given, _one_sequence(later[1], prefix_key), False, scale)
        back[0][apart:] += far[0]
        return (*(x.transpose(0, 1)[None] for x in (*back, *far[1:])), None)


Seats = tuple[Tensor, Tensor, int, int]  # borders of queries and of keys, the longest of each


def _kernel(
    states: tuple[Tensor, Tensor, Tensor], seats: Seats, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return output (tokens, heads, size) and log-sum-exp (heads, tokens), float32."""
    out, total, *_ = _forward(*states, *seats, 0.0, causal, False, scale=scale)
    assert total.shape == (states[0].shape[1], len(states[0])), "another layout of log-sum-exp"
    return out, total


def _gradients(given: tuple[Tensor, ...], seats: Seats, causal: bool, scale: float) -> list[Tensor]:
    """Return gradients of query, key and value; given: grad, these three, output, log-sum-exp."""
    device = given[0].device
    # random state and debug mask of dropout, which there is none of
    empty = torch.zeros(2, dtype=torch.uint64, device=device), torch.empty(0, device=device)
    return list(_backward(*given, *seats, 0.0, causal, *empty, scale=scale))


def _one_sequence(queries: Tensor, keys: Tensor) -> Seats:
    """Return the seats of one sequence: made on the device, so that nothing is copied there."""
    sizes = len(queries), len(keys)
    borders = [torch.arange(0, n + 1, n, dtype=torch.int32, device=keys.device) for n in sizes]
    return borders[0], borders[1], *sizes
