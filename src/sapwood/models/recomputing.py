"""Activation checkpointing: blocks keep their inputs only, the backward pass runs them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from sapwood.errors import ModelError


@contextmanager
def recomputing(net: Any, on: bool = True) -> Iterator[None]:
    """Let forward passes inside the block save each block's input only, if `on`.

    Works in training and evaluation mode and with anything passed to blocks by keyword: layouts,
    cached prefixes and trained ones. The backward pass may come after the block ends. Raises
    ModelError (E-MODEL-037) for a net without such blocks.
    """
    if not on:
        yield
        return
    blocks: list[Any] = [m for m in net.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not blocks:
        raise ModelError(
            "E-MODEL-037",
            f"{type(net).__name__} has no blocks that can be computed again.",
            fix="train without --checkpointing, with fewer tokens at once",
        )
    names = ("gradient_checkpointing", "_gradient_checkpointing_func", "training")
    before = [{name: getattr(b, name, None) for name in names} for b in blocks]
    again = partial(checkpoint, use_reentrant=False)
    try:
        for block in blocks:  # the flags that transformers' own switch sets
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = again
            block.training = True  # of the block alone: dropout inside it stays as it is
        yield
    finally:
        for block, held in zip(blocks, before, strict=True):
            for name, value in held.items():
                setattr(block, name, value)
