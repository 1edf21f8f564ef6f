"""What autograd keeps for a backward pass, counted with torch's own hooks on every side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counted(skip: set[int]) -> Iterator[dict[int, int]]:
    """Yield {storage: bytes} of what autograd saves inside, each storage once, without `skip`."""
    import torch

    saved: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skip:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def storages(net: Any) -> set[int]:
    """Return the storages of a net's weights, which are there with or without autograd."""
    return {p.untyped_storage().data_ptr() for p in net.parameters()}
