"""The merged attention equals one masked softmax, forward and backward, in float64."""

from __future__ import annotations

import pytest
import torch

from sapwood.models import attention
from sapwood.models.beginnings import beginning_once
from sapwood.models.layout import Layout, Row, build_pack
from sapwood.models.past import Past

HEADS, KEYS, SIZE, SCALE = 6, 2, 16, 0.25


def visibility(layout: Layout, cached: int, window: int | None) -> torch.Tensor:
    """Return who sees whom, (tokens, cached + tokens), built token by token."""
    at = layout.positions
    seen = torch.zeros(len(at), len(at), dtype=torch.bool)
    for group in layout.groups:
        for n, (index, valid) in enumerate(zip(group.index, group.valid, strict=True)):
            index = index[valid]
            size = len(index)
            own = torch.ones(size, size, dtype=torch.bool).tril()
            if group.visible is not None:
                own = group.visible[n if len(group.visible) > 1 else 0][:size, :size]
            seen[index[:, None], index[None]] = own
    seen[layout.shared :, : layout.shared] = True
    seen = torch.cat([torch.ones(len(at), cached, dtype=torch.bool), seen], 1)
    if window is not None:
        before = torch.arange(cached) if layout.cached_at is None else layout.cached_at
        keys_at = torch.cat([before, at])
        seen &= at[:, None] - keys_at[None] < window
    return seen


@pytest.mark.parametrize(
    ("path", "scores"), [("_merged_flash", 0), ("_one_softmax", 1 << 26), ("_one_softmax", 700)]
)
@pytest.mark.parametrize(
    ("shared", "cached", "lengths", "window", "tree", "causal"),
    [
        (-1, 11, [5, 7, 3], None, False, True),
        (-1, 11, [5, 70, 4], None, True, True),
        (-1, 11, [5, 20, 4], 6, True, True),
        (-1, 12, [5, 20, 3], 4, False, True),
        (0, 0, [5, 7, 3], None, False, True),
        (9, 0, [5, 7, 3], None, False, True),
        (0, 11, [5, 7, 3], None, False, True),
        (0, 11, [5, 70, 3], None, True, True),
        (9, 0, [5, 7, 3], 6, False, True),
        (0, 11, [5, 20, 3], 6, True, True),
        (0, 11, [5, 20, 3], 3, False, True),
        (0, 12, [5, 20, 3], None, False, True),
        (0, 12, [5, 20, 3], 4, True, True),
        (0, 0, [5, 7, 3], None, False, False),
        (0, 0, [5, 5], None, False, False),
    ],
)
def test_equals_one_masked_softmax(
    path, scores, shared, cached, lengths, window, tree, causal, monkeypatch
):
    monkeypatch.setattr(attention, "_SCORES", scores)  # few scores at once: many small parts
    torch.manual_seed(0)
    double = torch.float64
    blocks = cached == 12  # a head of 2 tokens and blocks of 3, 3 and 4, which start alike
    at = torch.tensor([0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 5]) if blocks else None
    prefix = tuple(
        torch.randn(1, KEYS, cached, SIZE, dtype=double, requires_grad=True) for _ in range(2)
    )
    rows = [
        Row(ids=range(n), parents=[*range(-1, n - 2), n - 3] if tree else None) for n in lengths
    ]
    start = {"cached_at": at, "start": 6} if blocks else {}
    pack = build_pack(
        rows, shared=range(shared), cached=(prefix,) if cached else (), causal=causal, **start
    )
    layout = (beginning_once(pack) if shared < 0 else pack).layout
    assert (layout.shared > 0) == (shared != 0)
    tokens = len(layout.positions)
    query = torch.randn(1, HEADS, tokens, SIZE, dtype=double, requires_grad=True)
    key, value = (
        torch.randn(1, KEYS, tokens, SIZE, dtype=double, requires_grad=True) for _ in range(2)
    )
    keys, values = (
        torch.cat([old, new], 2).repeat_interleave(HEADS // KEYS, 1)
        for old, new in zip(prefix, (key, value), strict=True)
    )
    full = (query @ keys.transpose(-1, -2)) * SCALE
    full = full.masked_fill(~visibility(layout, cached, window), float("-inf"))
    naive = (full.softmax(-1) @ values).transpose(1, 2)
    upstream = torch.randn_like(naive)
    leaves = [query, key, value, *(prefix if cached else ())]
    expected = torch.autograd.grad(naive, leaves, upstream)

    masks = [(g, attention._mask(layout, g, window, double)) for g in layout.groups]
    pair, seen, apart = attention._prefix(0, key, value, layout, window)
    settings = (masks, seen, apart, SCALE)
    out = getattr(attention, path)(query, key, value, pair, settings)
    found = torch.autograd.grad(out, leaves, upstream)
    # the one-softmax path works in float32 inside, whatever the dtype around it
    tolerance = 1e-12 if path == "_merged_flash" else 2e-6
    torch.testing.assert_close(out, naive, rtol=0, atol=tolerance)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize(("cached", "window"), [(0, None), (11, None), (11, 6), (11, 2), (0, 3)])
def test_a_step_equals_one_masked_softmax(flash, cached, window, monkeypatch):
    if not flash:  # the path of other devices, in float32 inside
        monkeypatch.setattr(attention, "partial_attention", partial_elsewhere)
    torch.manual_seed(0)
    lengths = [4, 0, 7]
    prefix = tuple(torch.randn(1, KEYS, cached, SIZE) for _ in range(2))
    past = Past(3, 9, torch.device("cpu"))
    before = [(torch.randn(1, KEYS, 11, SIZE), torch.randn(1, KEYS, 11, SIZE))]
    past.take([0, 1, 2], [0, 4, 4], before, lengths)
    layout = Layout(
        groups=(), positions=cached + past.lengths, cached=(prefix,) if cached else (), past=past
    )
    states = [torch.randn(1, n, 3, SIZE) for n in (HEADS, KEYS, KEYS)]
    found = attention._step(0, tuple(states), layout, window, SCALE)
    for row, (start, length) in enumerate([(0, 4), (4, 0), (4, 7)]):
        keys, values = (
            torch.cat([old, kept[:, :, start : start + length], new[:, :, row : row + 1]], 2)
            for old, kept, new in zip(prefix, before[0], states[1:], strict=True)
        )
        far = cached + length - torch.arange(cached + length + 1)
        keys, values = (x.repeat_interleave(HEADS // KEYS, 1) for x in (keys, values))
        scores = (states[0][:, :, row : row + 1] @ keys.transpose(-1, -2)) * SCALE
        scores = scores.masked_fill(far >= (window or 99), float("-inf"))
        naive = (scores.softmax(-1) @ values)[:, :, 0]
        torch.testing.assert_close(found[:, row], naive, rtol=0, atol=1e-5)


def partial_elsewhere(query, key, value, mask, scale):
    """Return `_partial` as any device but the CPU gets it."""
    return attention._dense_partial(query, key, value, mask, scale)


@pytest.mark.parametrize("masked", [False, True])
def test_one_query_a_row_in_half_precision_is_the_kernel(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 1, 8, generator=generator)
    key, value = (torch.randn(3, 2, 11, 8, generator=generator) for _ in range(2))
    mask = None
    if masked:
        seen = torch.arange(11)[None] < torch.tensor([[4], [11], [1]])
        mask = attention.additive(seen[:, None, None], torch.float32)
    wanted, total = attention.partial_attention(query, key, value, mask, 0.3)
    half = [x.to(torch.bfloat16) for x in (query, key, value)]
    low = None if mask is None else mask.to(torch.bfloat16)
    found, sums = attention.partial_attention(*half, low, 0.3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=3e-2, rtol=3e-2)
    torch.testing.assert_close(sums.float(), total.float(), atol=3e-2, rtol=3e-2)
