"""LoRA: trained low-rank branches beside frozen layers (Hu et al. 2022, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sapwood.errors import ConfigError
from sapwood.methods.low_rank import LowRank
from sapwood.registry import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Lora:
    """LoRA's whole configuration.

    `rank` >= 1; `alpha` > 0: the branch is scaled by alpha / rank (by alpha / sqrt(rank) with
    `rslora`, arXiv 2312.03732); `dropout` in [0, 1) on the branch's input; `targets`: names of
    linear layers (the last part of their path), or ("all-linear",) for all but the head;
    `rank_pattern`, `alpha_pattern`: other values for single module paths.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if self.rank < 1:
            problems.append(f"LoRA rank must be 1 or more, got {self.rank}.")
        if self.alpha <= 0:
            problems.append(f"LoRA alpha must be above 0, got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            problems.append(f"LoRA dropout must be in [0, 1), got {self.dropout}.")
        if problems:
            raise ConfigError("E-CONFIG-020", " ".join(problems))

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """Freeze `net`, wrap its target layers in place and return it.

        The branches start from `seed` alone, whatever the state of torch's generator. Raises
        ConfigError (E-CONFIG-021) naming every target that matches no layer.
        """
        net.requires_grad_(False)
        found = self._find(net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for path, layer in found.items():
                rank = int(_pattern(self.rank_pattern, path, self.rank))
                alpha = float(_pattern(self.alpha_pattern, path, self.alpha))
                scale = alpha / (rank**0.5 if self.rslora else rank)
                wrapped = LowRank(layer, rank=rank, scale=scale, dropout=self.dropout)
                wrapped.train(net.training)
                net.set_submodule(path, wrapped)
        return net

    def merge(self, net: Any) -> Any:
        """Return `net` with every branch added into its base weight and the wrappers gone."""
        for path, layer in list(branches(net)):
            layer.merge()
            layer.merged_from = None
            net.set_submodule(path, layer.base_layer)
        return net

    def _find(self, net: Any) -> dict[str, nn.Linear | Conv1D]:
        head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
        fused = (nn.MultiheadAttention,)  # its fast path reads weights past any wrapper
        inside = {
            f"{path}.{name}" if path else name
            for path, module in net.named_modules()
            if isinstance(module, fused)
            for name, _ in module.named_modules()
        }
        linear: dict[str, nn.Linear | Conv1D] = {
            path: module
            for path, module in net.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module is not head and path not in inside
        }
        if self.targets == ("all-linear",):
            return linear
        found = {
            path: module
            for path, module in linear.items()
            if any(path == t or path.endswith("." + t) for t in self.targets)
        }
        names = sorted({path.rsplit(".", 1)[-1] for path in linear})
        missing = [
            f"'{t}' matches no linear layer.{did_you_mean(t, names)}"
            for t in self.targets
            if not any(path == t or path.endswith("." + t) for path in linear)
        ]
        if missing:
            raise ConfigError(
                "E-CONFIG-021",
                "LoRA targets must all take effect.",
                details=missing,
                fix=f"use 'all-linear' or names among: {', '.join(names)}",
            )
        return found


def _pattern(table: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    for name, value in table.items():
        if path == name or path.endswith("." + name):
            return value
    return otherwise


def branches(net: Any) -> Iterator[tuple[str, LowRank]]:
    """Yield (path, layer) of every low-rank branch of `net`."""
    for path, module in net.named_modules():
        if isinstance(module, LowRank):
            yield path, module


def weights(net: Any) -> dict[str, Tensor]:
    """Return the trained tensors of every branch, by path."""
    found: dict[str, Tensor] = {}
    for path, layer in branches(net):
        found[f"{path}.lora_A.weight"] = layer.lora_A
        found[f"{path}.lora_B.weight"] = layer.lora_B
    return found


def weights_key(net: Any) -> str:
    """Return a digest of the content of every enabled branch ("" for none)."""
    digest = sha256()
    for path, layer in branches(net):
        if layer.enabled:
            digest.update(path.encode())
            for tensor in (layer.lora_A, layer.lora_B):
                digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def disabled(net: Any) -> Iterator[None]:
    """Run the plain base inside the block: branches are skipped, then enabled again."""
    layers = [layer for _, layer in branches(net)]
    try:
        for layer in layers:
            layer.enabled = False
        yield
    finally:
        for layer in layers:
            layer.enabled = True


def detach(net: Any) -> Any:
    """Remove every branch; the net is the base it was."""
    for path, layer in list(branches(net)):
        layer.unmerge()
        net.set_submodule(path, layer.base_layer)
    return net
