"""Attention of many rows over one shared prefix, without quadratic waste between the rows.

Every token of a row sees the shared prefix and its own row: two partial softmaxes, merged by
log-sum-exp (the split of Hydragen, arXiv 2402.05099). The prefix part is one product for all rows;
the rows' own part is padded inside attention only, so every linear layer works on real tokens.

On the CPU the parts run in torch's flash kernel; the backward pass hands each part the *merged*
output and log-sum-exp, and then the partial gradients add up to the exact ones. On CUDA plain rows
go through its flash kernel there (models/ragged.py). Everything else, label trees on CUDA too, is
one softmax over the concatenated scores. It reaches transformers through its
public registries, and leaves calls without a layout to the usual implementation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sapwood.models import ragged
from sapwood.models.layout import Group, Layout

NAME = "sapwood"

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Up to so many keys the backward pass works on whole score matrices: the flash kernel's backward
# took 3 to 4 times as long on rows of 40 tokens in bfloat16 (2 cores, torch 2.13), and lost its
# lead only from about 500 keys on. In float32 it was 10 to 40 % faster at any length.
_SHORT = 256

# In half precision the flash kernel takes 4 to 6 times as long for one query a row as two products
# (70 to 1,000 keys, 8 rows, one CPU core); in single precision they take equal time.
_HALF = (torch.bfloat16, torch.float16)

# Scores that the path for other devices holds at once: 64 million are 256 MB in float32, and a
# prefix of 30,000 tokens would need gigabytes without a bound.
_SCORES = 1 << 26

Masks = list[tuple[Group, Tensor | None]]  # None: plain causal; else additive


def register() -> None:
    """Make ``attn_implementation="sapwood"`` known to transformers. Calling twice is harmless."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    pack: Layout | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within one pack: query (1, heads, tokens, size) -> (1, tokens, heads, size)."""
    if pack is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **others)
    # under autocast the norms of queries and keys (QK-norm) give single precision
    query, key = query.to(value.dtype), key.to(value.dtype)
    if pack.capture is not None:
        pack.capture.append((key, value))
    scale = others.get("scaling") or query.shape[-1] ** -0.5
    sliding_window: int | None = others.get("sliding_window")
    if pack.step is not None:
        states = (query, key, value)
        return pack.step.attend(module.layer_idx, states, sliding_window, scale), None
    if pack.past is not None:
        return _step(module.layer_idx, (query, key, value), pack, sliding_window, scale), None
    masks = [(group, _mask(pack, group, sliding_window, query.dtype)) for group in pack.groups]
    layer = getattr(module, "layer_idx", 0)  # ALBERT, which is never over a prefix, has none
    prefix, visible, shared = _prefix(layer, key, value, pack, sliding_window)
    masked = visible is not None or any(mask is not None for _, mask in masks)
    if ragged.fits(query, masked):
        return ragged.attend(query, key, value, prefix, (pack, shared, scale)), None
    attend = _merged_flash if query.device.type == "cpu" else _one_softmax
    return attend(query, key, value, prefix, (masks, visible, shared, scale)), None


def _prefix(
    layer: int, key: Tensor, value: Tensor, pack: Layout, window: int | None
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None, int]:
    """Return (prefix keys and values or None, who sees them, tokens that see none of them).

    The second is (tokens that see some, keys), None where all see all; the third counts from the
    beginning of the pack.
    """
    if not (pack.cached or pack.shared):
        return None, None, 0
    near = key[:, :, : pack.shared], value[:, :, : pack.shared]
    pair = pack.cached[layer] if pack.cached else near
    if pack.cached and pack.shared:  # a beginning of all rows behind what was encoded before
        visible = _beginning_on_prefix(pack, pair[0].shape[2], window)
        keys, values = (torch.cat(both, dim=2) for both in zip(pair, near, strict=True))
        return (keys, values), visible, 0
    first, seen = _window_on_prefix(pack, pair[0].shape[2], window)
    return (pair[0][:, :, first:], pair[1][:, :, first:]), seen, pack.shared


def _beginning_on_prefix(pack: Layout, length: int, window: int | None) -> Tensor:
    """Return visibility (tokens, cached + shared keys): the shared part sees what is cached."""
    at, shared = pack.positions, pack.shared
    visible = torch.ones(len(at), length + shared, dtype=torch.bool, device=at.device)
    visible[:shared, length:] = False  # it sees itself as a row of the pack
    if window is not None:
        before = pack.cached_at
        if before is None:
            before = torch.arange(length, device=at.device)
        visible &= at[:, None] - torch.cat((before, at[:shared]))[None, :] < window
    return visible


def _mask(pack: Layout, group: Group, window: int | None, dtype: torch.dtype) -> Tensor | None:
    """Return the additive mask (rows, 1, length, length) of a group, or None when plain causal."""
    visible, length = group.visible, group.index.shape[1]
    if window is not None and length > window:
        at = pack.positions[group.index]  # (rows, length)
        near = (at[:, :, None] - at[:, None, :]).abs() < window  # a row may see what comes after
        if visible is None:
            visible = torch.ones(1, length, length, dtype=torch.bool, device=at.device).tril()
        visible = visible & near
    if visible is None:
        return None
    return additive(visible, dtype).expand(len(group.index), length, length)[:, None]


def _window_on_prefix(pack: Layout, length: int, window: int | None) -> tuple[int, Tensor | None]:
    """Return (first prefix token any row may see, visibility (row tokens, the rest) or None)."""
    at = pack.positions[pack.shared :]
    if window is None or not len(at) or int(at.max()) < window:
        return 0, None
    if pack.cached_at is not None:
        return 0, at[:, None] - pack.cached_at[None, :] < window
    first = min(max(0, length - window + 1), length - 1)
    keys_at = torch.arange(first, length, device=at.device)
    return first, at[:, None] - keys_at[None, :] < window


def _step(
    layer: int, states: tuple[Tensor, ...], pack: Layout, window: int | None, scale: float
) -> Tensor:
    """Attend from one new token a row to its row's past, itself and the prefix.

    `states`: query, key and value, (1, heads, rows, size). Returns (1, rows, heads, size).
    """
    assert pack.past is not None
    query = states[0]
    keys, values = pack.past.append(layer, states[1], states[2])
    own = additive(pack.past.visible(window)[:, None, None], query.dtype)
    out, total = partial_attention(query[0].transpose(0, 1)[:, :, None], keys, values, own, scale)
    out, total = out[:, :, 0].transpose(0, 1)[None], total[:, :, 0].t()[None]
    if pack.cached:
        key, value = pack.cached[layer]
        first, visible = _window_on_prefix(pack, key.shape[2], window)
        mask = None if visible is None else additive(visible, query.dtype)
        part, logsum = partial_attention(query, key[:, :, first:], value[:, :, first:], mask, scale)
        if visible is not None:  # no number comes from a softmax over nothing
            unseen = ~visible.any(1)
            part = part.masked_fill(unseen[:, None], 0)
            logsum = logsum.masked_fill(unseen, float("-inf"))
        merged = torch.logaddexp(total, logsum)
        out = out * (total - merged).exp()[..., None].to(out.dtype)
        out = out.addcmul(part, (logsum - merged).exp()[..., None].to(out.dtype))
    return out.transpose(1, 2)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to scores: 0 where `visible`, else minus infinity."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, float("-inf"))


def partial_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return softmax(query key) value, (rows, heads, queries, size), and its log-sum-exp."""
    if query.shape[2] == 1 and query.dtype in _HALF:
        return _one_query(query, key, value, mask, scale)
    if query.device.type == "cpu":
        found: tuple[Tensor, Tensor] = _flash(
            query, key, value, 0.0, False, attn_mask=mask, scale=scale
        )
        return found
    return _dense_partial(query, key, value, mask, scale)


def _one_query(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the same as `partial_attention` for one query a row, whose heads share keys."""
    rows, kept = len(key), key.shape[1]
    grouped = query.reshape(rows, kept, -1, query.shape[-1])  # (rows, key heads, own heads, size)
    scores = (grouped @ key.transpose(-1, -2)).float().mul_(scale)
    scores = scores if mask is None else scores.add_(mask)
    total = scores.logsumexp(-1, keepdim=True)
    out = scores.sub_(total).exp_().to(value.dtype) @ value
    return out.reshape(query.shape), total.reshape(rows, -1, 1)


def _dense_partial(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the same as `partial_attention` in plain operations, for any device."""
    times = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    scores = (query @ key.transpose(-1, -2)).float() * scale
    scores = scores if mask is None else scores + mask
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(value.dtype) @ value, total


def _gather(tokens: Tensor, group: Group) -> Tensor:
    """(1, heads, tokens, size) -> (rows, heads, length, size)."""
    return tokens[0].transpose(0, 1)[group.index].transpose(1, 2)


class _Merged(torch.autograd.Function):
    """Two partial flash attentions; saves queries, keys, values, output and log-sum-exp only."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        query, key, value, prefix_key, prefix_value, (masks, visible, shared, scale) = given
        out, total = _own_part(query, key, value, masks, scale)
        if prefix_key is not None:
            mask = _prefix_mask(visible, query.dtype)
            rows_query = query[:, :, shared:]
            part, logsum = _flash(
                rows_query, prefix_key, prefix_value, 0.0, False, attn_mask=mask, scale=scale
            )
            if visible is not None:  # the kernel gives 0 where a token sees no key at all
                logsum = logsum.masked_fill(~visible.any(1), float("-inf"))
            own = total[:, :, shared:]
            merged = torch.logaddexp(own, logsum)
            rows = out[:, :, shared:]
            rows.mul_((own - merged).exp()[..., None])
            rows.addcmul_(part, (logsum - merged).exp()[..., None].to(out.dtype))
            total[:, :, shared:] = merged
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, total)
        ctx.settings = (masks, visible, shared, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, prefix_key, prefix_value, out, total = ctx.saved_tensors
        masks, visible, shared, scale = ctx.settings
        grad = grads[0].contiguous()
        back = [torch.empty_like(tokens) for tokens in (query, key, value)]  # groups cover all
        for group, mask in masks:
            rows = [_gather(tokens, group) for tokens in (grad, query, key, value, out)]
            rows[0] = rows[0] * group.valid[:, None, :, None]
            logsum = total[0].transpose(0, 1)[group.index].transpose(1, 2)
            where = group.index[group.valid]
            parts = _flash_gradients(rows, logsum, mask is None, mask, scale)
            for whole, part in zip(back, parts, strict=True):
                whole[0].transpose(0, 1)[where] = part.transpose(1, 2)[group.valid]
        if prefix_key is None:
            return (*back, None, None, None)
        tokens = [grad[:, :, shared:], query[:, :, shared:], prefix_key, prefix_value]
        mask = _prefix_mask(visible, query.dtype)
        parts = _flash_gradients(
            [*tokens, out[:, :, shared:]], total[:, :, shared:], False, mask, scale
        )
        back[0][:, :, shared:] += parts[0]
        return (*back, parts[1], parts[2], None)


def _prefix_mask(visible: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if visible is None else additive(visible, dtype)


def _own_part(
    query: Tensor, key: Tensor, value: Tensor, masks: Masks, scale: float
) -> tuple[Tensor, Tensor]:
    """Return output (1, heads, tokens, size) and log-sum-exp (1, heads, tokens) of rows alone."""
    _, heads, tokens, size = query.shape
    out = query.new_empty(tokens, heads, size)
    total = torch.empty(tokens, heads, dtype=torch.promote_types(query.dtype, torch.float32))
    for group, mask in masks:
        rows = [_gather(part, group) for part in (query, key, value)]
        own, logsum = _flash(*rows, 0.0, mask is None, attn_mask=mask, scale=scale)
        where = group.index[group.valid]
        out[where] = own.transpose(1, 2)[group.valid]
        total[where] = logsum.transpose(1, 2)[group.valid]
    return out.transpose(0, 1)[None], total.transpose(0, 1)[None]


def _flash_gradients(
    rows: list[Tensor], logsum: Tensor, causal: bool, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of (query, key, value); `rows` holds grad, query, key, value, output."""
    grad, query, key, value, out = (tensor.contiguous() for tensor in rows)
    heads, kept = query.shape[1], key.shape[1]
    if heads != kept:  # the kernel's backward does not share keys between query heads
        key, value = (x.repeat_interleave(heads // kept, dim=1) for x in (key, value))
    given = (grad, query, key, value, out, logsum.contiguous())
    if key.shape[2] <= _SHORT and query.dtype != torch.float32:
        grads = _dense_gradients(given, causal, mask, scale)
    else:
        grads = _flash_backward(*given, 0.0, causal, attn_mask=mask, scale=scale)
    if heads == kept:
        return grads[0], grads[1], grads[2]
    shape = (len(key), kept, heads // kept, *key.shape[2:])
    return grads[0], grads[1].view(shape).sum(2), grads[2].view(shape).sum(2)


def _dense_gradients(
    given: tuple[Tensor, ...], causal: bool, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the flash backward returns, from whole score matrices."""
    grad, query, key, value, out, logsum = given
    scores = (query @ key.transpose(-1, -2)).to(logsum.dtype).mul_(scale)
    if mask is not None:
        scores += mask
    share = scores.sub_(logsum[..., None]).exp_()  # (rows, heads, queries, keys)
    if causal:
        share = share.tril_()
    share = share.to(grad.dtype)
    drift = (grad * out).sum(-1, keepdim=True)
    upstream = (grad @ value.transpose(-1, -2)).sub_(drift).mul_(share).mul_(scale)
    return (
        upstream @ key,
        upstream.transpose(-1, -2) @ query,
        share.transpose(-1, -2) @ grad,
    )


def _merged_flash(query: Tensor, key: Tensor, value: Tensor, prefix: Any, settings: Any) -> Tensor:
    prefix_key, prefix_value = prefix or (None, None)
    out: Tensor = _Merged.apply(  # type: ignore[no-untyped-call]
        query, key, value, prefix_key, prefix_value, settings
    )
    return out.transpose(1, 2)


def _one_softmax(query: Tensor, key: Tensor, value: Tensor, prefix: Any, settings: Any) -> Tensor:
    """Return the same as `_merged_flash` in plain differentiable operations, for any device."""
    masks, visible, shared, scale = settings
    _, heads, tokens, size = query.shape
    times = heads // key.shape[1]
    key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    out = query.new_zeros(tokens, heads, size)
    for number, (group, mask) in enumerate(masks):
        q, k, v = (_gather(part, group) for part in (query, key, value))
        length = q.shape[2]
        if mask is None:
            mask = torch.full((length, length), float("-inf"), device=q.device).triu(1).to(q.dtype)
            mask = mask[None, None]
        pair, seen = None, None
        if prefix is not None and not (shared and number == 0):
            pair = tuple(x.repeat_interleave(times, dim=1) for x in prefix)
            seen = None if visible is None else visible[group.index - shared][:, None]
        keys = length + (0 if pair is None else pair[0].shape[2])
        step = max(1, _SCORES // (len(q) * heads * keys))
        parts = []
        for start in range(0, length, step):  # queries are independent: a few at a time
            some = slice(start, start + step)
            near = (q[:, :, some] @ k.transpose(-1, -2)) * scale + mask[:, :, some]
            if pair is None:
                parts.append(near.float().softmax(-1).to(v.dtype) @ v)
                continue
            far = (q[:, :, some] @ pair[0].transpose(-1, -2)) * scale  # (rows, heads, step, prefix)
            if seen is not None:
                far = far.masked_fill(~seen[:, :, some], float("-inf"))
            both = torch.cat((far, near), dim=-1).float().softmax(-1).to(v.dtype)
            split = far.shape[-1]
            parts.append(both[..., :split] @ pair[1] + both[..., split:] @ v)
        mixed = torch.cat(parts, dim=2)
        out = out.index_put((group.index[group.valid],), mixed.transpose(1, 2)[group.valid])
    return out[None]
