"""Matrix products by the library that is faster on this machine.

torch multiplies float32 matrices with MKL on x86, which runs at half of oneDNN's speed on AMD
processors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.launch import onednn_is_faster


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight^T + bias by oneDNN, without a gradient; float32 on the CPU only.

    `x`: (..., inner); `weight`: (outer, inner), of any strides.
    """
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def fits(x: Tensor) -> bool:
    """Tell whether `product` may be used for this input, and is worth it here."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu"
    return plain and not torch.is_autocast_enabled("cpu") and onednn_is_faster()


def faster(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight^T + bias by the library that is faster here, exact to rounding in both."""
    return product(x, weight, bias) if fits(x) else functional.linear(x, weight, bias)
