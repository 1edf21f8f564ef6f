"""One plain LoRA out of what consumers cannot read: rsLoRA, patterns, DoRA, other linear changes.

Scales go into B and smaller ranks are filled with zeros, which is exact. DoRA's change of a weight
W, `(g - 1) W + g s B A` with g its magnitudes over the row norms, has the rank of W: the nearest
LoRA is taken, and what it loses is reported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sapwood.errors import ConfigError, ModelError
from sapwood.files import new_folder, write_json
from sapwood.methods.low_rank import LowRank
from sapwood.methods.merging import Branch, Merged, cut, cut_branch, padded
from sapwood.methods.parts import parts
from sapwood.methods.peft_folder import CONFIG, TENSORS
from sapwood.methods.portable import MAGNITUDE, PREFIX, Shipped, bare

_LINEAR = (".lora_A.weight", ".lora_B.weight", MAGNITUDE)
# What may stay in a folded configuration: it says where, not how much.
_KEPT = (
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
)  # fmt: skip
_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
Weight = Callable[[str], Tensor]


def fold(shipped: Shipped, *, weight: Weight | None = None, rank: int | None = None) -> Merged:
    """Return a PEFT folder's LoRA or DoRA as plain branches of one rank and scale 1.

    `weight`: the base's weight of a module path, (outputs, inputs), asked for with DoRA only;
    `rank`: of the result, None for the largest there is. Raises ModelError (E-MODEL-067) naming all
    that is no change of a linear layer, ConfigError (E-CONFIG-096) for a rank below 1 and for DoRA
    without `weight`.
    """
    _check_foldable(shipped)
    dora = bool(shipped.config.get("use_dora"))
    if rank is not None and rank < 1:
        raise ConfigError("E-CONFIG-096", f"The rank must be 1 or more, got {rank}.")
    if dora and weight is None:
        raise ConfigError(
            "E-CONFIG-096",
            "DoRA changes the base's own weights, so folding it needs them.",
            fix="name the base: --model BASE",
        )
    found = {path: _branch(shipped, path) for path in shipped.paths()}
    most = rank or max(branch.rank for branch in found.values())
    made, lost = {}, {}
    for path, branch in found.items():
        magnitude = shipped.magnitude(path) if dora else None
        if magnitude is None:
            made[path], lost[path] = cut_branch(branch, most)
        else:
            assert weight is not None
            made[path], lost[path] = _fold_dora(branch, magnitude, weight(path).float(), most)
    return Merged(branches=padded(made), lost=lost)


def fold_parts(net: Any, *, rank: int | None = None) -> Merged:
    """Return the attached method of `net` as plain branches of one rank and scale 1.

    For every method that is a linear change of weights: branches without a gain keep their
    factors, other changes are cut to `rank` (None: the largest there is, else 16). Raises
    ModelError (E-MODEL-067) naming parts that change something else.
    """
    problems, found = [], {}
    for path, part in parts(net):
        if isinstance(part, LowRank) and part.gain() is None:
            a, b = (factor.detach().float() for factor in part.factors())
            found[path] = Branch(a=a, b=b, scale=part.scale)
            continue
        try:
            changed = part.fold()
        except ConfigError as error:
            problems.append(f"{path}: {error.what}")
            continue
        if not changed:
            continue
        if set(changed) != {"weight"} or changed["weight"].dim() != 2 or path in found:
            problems.append(f"{path}: {type(part).__name__} changes more than one weight matrix")
            continue
        delta = (changed["weight"] - part.weight.float()).detach()
        whole = delta.t() if getattr(part, "transposed", False) else delta
        own = part.rank if isinstance(part, LowRank) else 0
        found[path] = Branch(a=torch.empty(own, 0), b=whole)  # no factors yet: cut below
    if problems or not found:
        raise _not_foldable(problems or ["no method is attached"])
    most = rank or max(branch.rank for branch in found.values()) or 16
    cuts = {path: _cut_either(branch, most) for path, branch in found.items()}
    branches = padded({path: branch for path, (branch, _) in cuts.items()})
    return Merged(branches=branches, lost={path: lost for path, (_, lost) in cuts.items()})


def total_loss(merged: Merged) -> float:
    """Return the relative error of all modules together, estimated from the kept branches.

    |D - D_r|^2 = |D|^2 - |D_r|^2 holds for the nearest D_r, so |D| follows from each module's loss.
    """
    kept = {p: float(branch.delta().square().sum()) for p, branch in merged.branches.items()}
    whole = {p: value / max(1 - merged.lost.get(p, 0.0) ** 2, 1e-12) for p, value in kept.items()}
    total = sum(whole.values())
    gone = sum(merged.lost.get(p, 0.0) ** 2 * value for p, value in whole.items())
    return (gone / total) ** 0.5 if total else 0.0


def as_folder(merged: Merged, config: Mapping[str, Any]) -> Shipped:
    """Return plain branches as a PEFT folder's content; of `config` only where they sit is kept."""
    kept = {key: config[key] for key in _KEPT if config.get(key) is not None}
    if config.get("peft_type", "LORA") != "LORA":
        kept.pop("target_modules", None)  # of another method: its modules are not all the LoRA's
    written = {
        "target_modules": sorted(merged.branches),
        "fan_in_fan_out": False,
        **kept,
        "peft_type": "LORA",
        "inference_mode": True,
        "r": merged.rank,
        "lora_alpha": merged.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
    }
    tensors = {}
    for path, branch in merged.branches.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = branch.a
        tensors[f"{PREFIX}{path}.lora_B.weight"] = branch.b * branch.scale
    return Shipped(config=written, tensors=tensors)


def write_folder(shipped: Shipped, folder: Path) -> None:
    """Write a PEFT folder, whole or not at all.

    Raises ConfigError (E-CONFIG-058) for a folder that holds something else.
    """
    if folder.exists() and (folder.is_file() or not _replaceable(folder)):
        raise ConfigError(
            "E-CONFIG-058",
            f"{folder} exists and is no adapter folder; it would be replaced.",
            fix="choose another folder",
        )
    with new_folder(folder) as part:
        write_json(part / CONFIG, json.loads(json.dumps(dict(shipped.config), default=sorted)))
        stored = {n: t.detach().float().cpu().contiguous() for n, t in shipped.tensors.items()}
        save_file(stored, part / TENSORS, metadata={"format": "pt"})


def _replaceable(folder: Path) -> bool:
    """Return whether a folder holds nothing but a folded adapter."""
    return {path.name for path in folder.iterdir()} <= {CONFIG, TENSORS}


def _check_foldable(shipped: Shipped) -> None:
    config, problems = shipped.config, []
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        problems.append(f"peft_type is {kind!r}")
    problems += [
        f"{key} is set"
        for key in (
            "modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias",
            "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora",
            "arrow_config", "kasa_config", "monteclora_config",
        )
        if config.get(key)
    ]  # fmt: skip
    if config.get("bias", "none") != "none":
        problems.append(f"bias is {config['bias']!r}")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_STARTS):
        problems.append(f"init_lora_weights is '{start}': it began from a changed base")
    strays = [name for name in sorted(shipped.tensors) if bare(name)[1] not in _LINEAR]
    problems += [f"{name} is no factor of a linear layer" for name in strays[:4]]
    halves = [path for path in shipped.paths() if None in shipped.pair(path)]
    problems += [f"{path} has one factor only" for path in halves[:4]]
    if not shipped.paths():
        problems.append("it holds no low-rank factors")
    if problems:
        raise _not_foldable(problems)


def _not_foldable(problems: list[str]) -> ModelError:
    return ModelError(
        "E-MODEL-067",
        "It is not a linear change that a plain LoRA can take over.",
        details=problems[:12],
        fix="merge it into the base's weights and serve those",
    )


def _branch(shipped: Shipped, path: str) -> Branch:
    a, b = shipped.pair(path)
    assert a is not None, path
    assert b is not None, path
    return Branch(a=a.float(), b=b.float(), scale=shipped.trained_scale(path, len(a)))


def _fold_dora(
    branch: Branch, magnitude: Tensor, weight: Tensor, rank: int
) -> tuple[Branch, float]:
    if weight.shape != (len(branch.b), branch.a.shape[1]) or len(magnitude) != len(weight):
        sizes = (len(branch.b), branch.a.shape[1])
        raise _not_foldable([f"the base's weight is {tuple(weight.shape)}, the branch {sizes}"])
    whole = weight + branch.delta()
    gain = magnitude.float() / whole.norm(dim=1)
    return cut(gain[:, None] * whole - weight, rank)


def _cut_either(branch: Branch, rank: int) -> tuple[Branch, float]:
    """Cut factors as factors, and a change without any as a matrix."""
    return cut(branch.b, rank) if branch.a.shape[1] == 0 else cut_branch(branch, rank)
