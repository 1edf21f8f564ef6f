"""A trained gate for what a part adds, one number a token (UniPELT, arXiv 2110.07577)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# sigmoid(4) = 0.982: at first a gated part adds nearly what it would without a gate, and the
# gradient of the gate (0.018 of its largest) is not yet closed off.
_OPEN = 4.0


class Gate(nn.Module):
    """`sigmoid(w x + b)` of a part's input: `weight` (1, inputs), zero at first, `bias` (1,)."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, inputs, device=device))
        self.bias = nn.Parameter(torch.full((1,), _OPEN, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., 1), between 0 and 1."""
        return functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype)).sigmoid()
