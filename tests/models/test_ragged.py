"""Rows of any lengths in one call: the same as one softmax, with the kernel in plain operations.

The kernel itself runs on CUDA alone: there `test_on_cuda` runs it, elsewhere it is skipped.
"""

from __future__ import annotations

import pytest
import torch

from sapwood.models import attention, ragged
from sapwood.models.beginnings import beginning_once
from sapwood.models.decoder import Decoder
from sapwood.models.layout import Layout, Row, build_pack
from sapwood.testing import tiny_net

HEADS, KEYS, SIZE, SCALE = 4, 2, 16, 0.3
CASES = [(0, 0, False), (6, 0, False), (0, 9, False), (0, 9, True)]


def parts(query, seats, causal):
    """Yield (queries, keys, mask) of each sequence of a call."""
    borders_q, borders_k = (x.tolist() for x in seats[:2])
    for n in range(len(borders_q) - 1):
        q, k = slice(*borders_q[n : n + 2]), slice(*borders_k[n : n + 2])
        size = (q.stop - q.start, k.stop - k.start)
        seen = torch.ones(size, dtype=torch.bool)
        yield q, k, seen.tril() if causal else seen


def plain_kernel(states, seats, causal, scale):
    query, key, value = states
    times = query.shape[1] // key.shape[1]
    out, total = torch.empty_like(query), query.new_empty(query.shape[1], len(query))
    for q, k, seen in parts(query, seats, causal):
        keys, values = (x[k].repeat_interleave(times, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[q], keys) * scale
        scores = scores.masked_fill(~seen, float("-inf"))
        total[:, q] = scores.logsumexp(-1)
        out[q] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
    return out, total


def plain_gradients(given, seats, causal, scale):
    """Return the gradients as the kernel computes them: from output and log-sum-exp as given."""
    grad, query, key, value, out, total = given
    times = query.shape[1] // key.shape[1]
    back = [torch.zeros_like(x) for x in (query, key, value)]
    for q, k, seen in parts(query, seats, causal):
        keys, values = (x[k].repeat_interleave(times, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[q], keys) * scale
        share = (scores - total[:, q, None]).exp() * seen
        drift = (grad[q] * out[q]).sum(-1).t()[..., None]
        upstream = torch.einsum("qhd,khd->hqk", grad[q], values)
        upstream = (upstream - drift) * share * scale
        shape = (k.stop - k.start, key.shape[1], times, SIZE)
        back[0][q] = torch.einsum("hqk,khd->qhd", upstream, keys)
        back[1][k] += torch.einsum("hqk,qhd->khd", upstream, query[q]).view(shape).sum(2)
        back[2][k] += torch.einsum("hqk,qhd->khd", share, grad[q]).view(shape).sum(2)
    return back


def made(shared, cached, alike, dtype=torch.float64, device="cpu"):
    """Return (layout, leaves): rows of unlike lengths behind what they follow."""
    torch.manual_seed(0)
    rows = [Row(ids=[7, 8, *range(20, 20 + n)]) for n in (5, 1, 9, 5)]
    prefix = tuple(
        torch.randn(1, KEYS, cached, SIZE, dtype=dtype, device=device).requires_grad_()
        for _ in range(2)
    )
    pack = build_pack(rows, shared=range(shared), cached=(prefix,) if cached else (), device=device)
    layout = (beginning_once(pack) if alike else pack).layout
    tokens = len(layout.positions)
    leaves = [
        torch.randn(1, heads, tokens, SIZE, dtype=dtype, device=device).requires_grad_()
        for heads in (HEADS, KEYS, KEYS)
    ]
    return layout, [*leaves, *(prefix if cached else ())]


def settings_of(layout: Layout, leaves):
    masks = [(g, attention._mask(layout, g, None, leaves[0].dtype)) for g in layout.groups]
    return masks, *attention._prefix(0, *leaves[1:3], layout, None)


@pytest.mark.parametrize(("shared", "cached", "alike"), CASES)
def test_equals_one_softmax_forward_and_backward(shared, cached, alike, monkeypatch):
    monkeypatch.setattr(ragged, "_kernel", plain_kernel)
    monkeypatch.setattr(ragged, "_gradients", plain_gradients)
    layout, leaves = made(shared, cached, alike)
    masks, pair, visible, apart = settings_of(layout, leaves)
    if alike:  # a beginning within the pack that does not see itself twice needs a mask
        assert visible is not None
        return
    wanted = attention._one_softmax(*leaves[:3], pair, (masks, None, apart, SCALE))
    found = ragged.attend(*leaves[:3], pair, (layout, apart, SCALE))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    upstream = torch.randn_like(wanted)
    for got, want in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(wanted, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_borders_hold_every_row_once():
    layout, _ = made(6, 0, False)
    assert layout.borders.tolist() == [0, 6, 17, 24, 31, 34]
    assert layout.borders.dtype == torch.int32
    assert layout.longest == 11


def test_only_half_precision_on_cuda_without_masks_fits():
    query = torch.zeros(1, HEADS, 3, SIZE, dtype=torch.bfloat16)
    assert not ragged.fits(query, masked=False)
    if torch.cuda.is_available():
        assert ragged.fits(query.cuda(), masked=False)
        assert not ragged.fits(query.cuda(), masked=True)
        assert not ragged.fits(query.cuda().float(), masked=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("shared", "cached", "alike"), CASES[:3])
def test_on_cuda(shared, cached, alike):
    layout, leaves = made(shared, cached, alike, torch.bfloat16, "cuda")
    masks, pair, _, apart = settings_of(layout, leaves)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    far = tuple(exact[3:]) or None
    if shared:
        far = exact[1][:, :, :shared], exact[2][:, :, :shared]
    masks = [(group, None) for group, _ in masks]
    wanted = attention._one_softmax(*exact[:3], far, (masks, None, apart, SCALE))
    found = ragged.attend(*leaves[:3], pair, (layout, apart, SCALE))
    upstream = torch.randn_like(found)
    own = torch.autograd.grad(found, leaves, upstream)
    true = torch.autograd.grad(wanted, exact, upstream.double())
    for got, want in zip((found, *own), (wanted, *true), strict=True):
        off = (got.double() - want).norm() / want.norm()
        assert off < 2e-2, f"relative difference {off:.2g}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_packed_rows_on_cuda_equal_those_of_the_cpu(kind):
    rows = [Row(ids=range(20, 20 + n), wanted=(n - 1,)) for n in (5, 12, 3)]
    context = list(range(40, 60))
    found = {}
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float32), ("cuda", torch.half)):
        decoder = Decoder(tiny_net(kind).to(device, dtype))
        states = torch.zeros(len(rows), 32)
        for owners, part in decoder.hidden(rows, decoder.encode(context)):
            states[owners] = part.float().cpu()
        found[device, dtype] = states
    plain = found["cpu", torch.float32]
    torch.testing.assert_close(found["cuda", torch.float32], plain, rtol=0, atol=1e-4)
    off = (found["cuda", torch.half] - plain).norm() / plain.norm()
    assert off < 1e-2
