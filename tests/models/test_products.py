"""Linear layers through oneDNN: the same values, gradients, names and weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from sapwood.models.products import FastConv1D, FastLinear, quickened

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 20), NewGELUActivation(), Conv1D(16, 20), nn.Linear(16, 5, bias=False)
    )


def run(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the output and the gradients of the input and of every weight."""
    x = x.clone().requires_grad_()
    out = net(x)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in net.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(12,), (7, 12), (2, 3, 12)])
def test_values_and_gradients_are_the_same(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    wanted = run(net(), x)
    monkeypatch.setattr("sapwood.launch.products.onednn_is_faster", lambda: True)
    fast = quickened(net())
    for one, other in zip(run(fast, x), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_weights_and_names_stay() -> None:
    plain = net()
    held = dict(plain.named_parameters())
    fast = quickened(plain)
    assert [type(layer) for layer in fast] == [FastLinear, nn.GELU, FastConv1D, FastLinear]
    assert {name: id(p) for name, p in fast.named_parameters()} == {
        name: id(p) for name, p in held.items()
    }
    assert quickened(fast) is fast


def test_tied_weights_stay_tied() -> None:
    embedding, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    head.weight = embedding.weight
    fast = quickened(nn.ModuleDict({"embedding": embedding, "head": head}))
    assert fast["head"].weight is fast["embedding"].weight


def test_what_does_not_train_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapwood.launch.products.onednn_is_faster", lambda: True)
    fast = quickened(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    fast[0].requires_grad_(False)
    fast[1].bias.requires_grad_(False)
    fast(torch.ones(2, 4)).sum().backward()
    assert fast[0].weight.grad is None and fast[1].bias.grad is None
    assert fast[1].weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_formats_take_the_usual_way(dtype: torch.dtype) -> None:
    fast = quickened(nn.Sequential(nn.Linear(4, 3), Conv1D(2, 3))).to(dtype)
    assert fast(torch.ones(2, 4, dtype=dtype)).dtype == dtype


def test_autocast_takes_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapwood.launch.products.onednn_is_faster", lambda: True)
    fast = quickened(nn.Sequential(nn.Linear(4, 3)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(torch.ones(2, 4)).dtype == torch.bfloat16
