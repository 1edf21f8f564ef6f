"""Checkpoints: weights, optimiser, random state and position, so that a run resumes exactly.

A folder ``checkpoint-N`` holds `state.safetensors` and `state.json`, appears in one rename, and is
never a pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sapwood.files import new_folder, write_json

_KEPT = 2


class Stateful(Protocol):
    """What checkpoints need of an optimiser, torch's or several as one."""

    def state_dict(self) -> dict[str, Any]:
        """Return {"state": by number of the weight, "param_groups": ...}."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    weights: Mapping[str, Tensor],
    optimiser: Stateful,
    extra: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``folder/checkpoint-STEP`` and keep the newest two.

    `weights`: the trained tensors by name, in the optimiser's order; `tensors`: more of the
    caller's (the best weights so far); `extra`: JSON-ready, given back by `load_checkpoint`.
    """
    path = folder / f"checkpoint-{step}"
    parts: dict[str, Tensor] = {f"weights/{n}": t.detach().cpu() for n, t in weights.items()}
    parts |= {f"extra/{n}": t.detach().cpu() for n, t in (tensors or {}).items()}
    state = optimiser.state_dict()["state"]
    for number, values in state.items():
        for name, value in values.items():
            parts[f"optimiser/{number}/{name}"] = value.detach().cpu()
    parts["random"] = torch.random.get_rng_state()
    if torch.cuda.is_available():
        parts["random of the device"] = torch.cuda.get_rng_state()
    with new_folder(path) as part:
        copies = {name: tensor.contiguous().clone() for name, tensor in parts.items()}
        save_file(copies, part / "state.safetensors")
        write_json(part / "state.json", {"step": step, **extra})
    for old in (*sorted(_all(folder), key=_step)[:-_KEPT], *folder.glob(".checkpoint-*")):
        shutil.rmtree(old, ignore_errors=True)
    return path


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint of `folder`, and what a killed process left half written."""
    for path in (*_all(folder), *folder.glob(".checkpoint-*")):
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(
    folder: Path, *, weights: Mapping[str, Tensor], optimiser: Stateful
) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    """Put the newest readable checkpoint of `folder` back; return (step, extra, tensors).

    Returns (0, {}, {}) when there is none. A checkpoint that cannot be read, or that is not of
    these weights, is passed over.
    """
    for path in sorted(_all(folder), key=_step, reverse=True):
        try:
            parts = load_file(path / "state.safetensors")
            extra = json.loads((path / "state.json").read_text())
            step = int(extra.pop("step"))
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
        if not _fits(parts, weights):
            continue
        _restore(parts, weights, optimiser)
        tensors = {n[6:]: t for n, t in parts.items() if n.startswith("extra/")}
        return step, extra, tensors
    return 0, {}, {}


def _fits(parts: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Tell whether a checkpoint holds exactly these weights, so that none is restored by half."""
    stored = {n[8:]: tuple(t.shape) for n, t in parts.items() if n.startswith("weights/")}
    return "random" in parts and stored == {n: tuple(t.shape) for n, t in weights.items()}


def _restore(
    parts: Mapping[str, Tensor], weights: Mapping[str, Tensor], optimiser: Stateful
) -> None:
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(parts[f"weights/{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts.items():
        if name.startswith("optimiser/"):
            _, number, key = name.split("/")
            state.setdefault(int(number), {})[key] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    torch.random.set_rng_state(parts["random"])
    if "random of the device" in parts and torch.cuda.is_available():
        torch.cuda.set_rng_state(parts["random of the device"])


def _all(folder: Path) -> list[Path]:
    return [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))
