"""What a base is called, a second net around its tensors, and how long rows may be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from sapwood.launch import memory
from sapwood.models.past import token_bytes
from sapwood.models.store import BASES

# Keys and values of all rows together, where the machine has more: 46,000 tokens of SmolLM2-135M in
# single precision, 92,000 in half.
_MOST_BYTES = 4 << 30
_SHARE = 0.25  # of the memory that is free


def called(base: str) -> str:
    """Return the name that a base is served by: of a folder or file its last part."""
    path = Path(base).expanduser()
    return path.name if path.exists() and base not in BASES else base


def shadow(net: Any) -> Any:
    """Return a net of the same modules around the same tensors: parts on it are not on `net`."""
    known: dict[int, Any] = {id(t): t for t in (*net.parameters(), *net.buffers())}
    for module in net.modules():
        for held in vars(module).values():
            inside = vars(held).values() if hasattr(held, "__dict__") else ()
            known |= {id(t): t for t in (held, *inside) if isinstance(t, Tensor)}
    return copy.deepcopy(net, known)


def longest_row(net: Any, slots: int) -> int:
    """Return how many tokens each of `slots` rows may hold within the memory for them."""
    return max(256, int(min(_MOST_BYTES, _SHARE * _free_bytes(net)) // (slots * token_bytes(net))))


def _free_bytes(net: Any) -> int:
    """Return the free memory of the net's device, in bytes."""
    device = net.get_input_embeddings().weight.device
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    available = memory()[1]
    return 4 * _MOST_BYTES if available is None else available
