"""Read and write LoRA in PEFT's folder layout: adapter_config.json + adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sapwood.errors import ModelError
from sapwood.methods.lora import Lora, detach, weights

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."

# Settings of a PEFT LoRA that change the output and that Sapwood cannot reproduce: refused.
_UNSUPPORTED = (
    "use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias",
    "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip


def write_peft(
    tensors: Mapping[str, Tensor], method: Lora, folder: Path, *, base: str, transposed: bool
) -> None:
    """Write branch weights into `folder`, loadable by ``peft.PeftModel.from_pretrained``.

    `tensors`: what `lora.weights` returns; `base`: the name PEFT should show; `transposed`: whether
    the base's layers keep their weights as (inputs, outputs), as GPT-2's do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({name.rsplit(".", 3)[-3] for name in tensors})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "target_modules": names,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "use_rslora": method.rslora,
        "use_dora": False,
        "modules_to_save": None,
        "rank_pattern": dict(method.rank_pattern),
        "alpha_pattern": dict(method.alpha_pattern),
        "init_lora_weights": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    stored = {
        _PREFIX + name: tensor.detach().float().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    save_file(stored, folder / TENSORS, metadata={"format": "pt"})


def read_config(folder: Path) -> Lora:
    """Return the LoRA a PEFT folder describes.

    Raises ModelError when the file is missing or broken, or names a setting that changes the
    output in a way Sapwood does not reproduce.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError("E-MODEL-020", f"{path} is missing: this is no PEFT adapter.") from None
    except ValueError as error:
        raise ModelError("E-MODEL-021", f"{path} is not valid JSON: {error}.") from None
    kind = config.get("peft_type")
    problems = [
        f"{key} = {config[key]!r} is not supported" for key in _UNSUPPORTED if config.get(key)
    ]
    if kind != "LORA":
        problems.insert(0, f"peft_type is {kind!r}; Sapwood reads LORA")
    if config.get("bias", "none") != "none":
        problems.append(f"bias = {config['bias']!r} is not supported")
    missing = [key for key in ("r", "lora_alpha", "target_modules") if not config.get(key)]
    problems += [f"{key} is missing" for key in missing]
    if problems:
        raise ModelError("E-MODEL-022", f"{path} cannot be loaded exactly.", details=problems)
    targets = config["target_modules"]
    return Lora(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        dropout=float(config.get("lora_dropout") or 0.0),
        targets=(targets,) if isinstance(targets, str) else tuple(targets),
        rslora=bool(config.get("use_rslora")),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
    )


def read_peft(net: Any, folder: Path) -> Lora:
    """Attach the LoRA of a PEFT folder to `net` and return its configuration; see `attach`."""
    method = read_config(folder)
    attach(net, method, read_tensors(folder / TENSORS), where=str(folder))
    return method


def attach(net: Any, method: Lora, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Attach `method` to `net` with trained `tensors`; all must map, or nothing is attached.

    `tensors`: by module path, with PEFT's prefix or without; `where`: what holds them, for the
    message. Raises ModelError (E-MODEL-023) naming the tensors that are missing, left over or of
    another shape.
    """
    given = {_PREFIX + name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    method.attach(net)
    own = {_PREFIX + name: tensor for name, tensor in weights(net).items()}
    problems = [f"{name} has no place in this base" for name in sorted(set(given) - set(own))]
    problems += [f"{name} is not in the file" for name in sorted(set(own) - set(given))]
    problems += [
        f"{name} is {tuple(given[name].shape)} in the file, {tuple(own[name].shape)} here"
        for name in sorted(set(own) & set(given))
        if given[name].shape != own[name].shape
    ]
    if problems:
        detach(net)
        shown = [*problems[:8], *([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])]
        raise ModelError(
            "E-MODEL-023",
            f"{where}: {len(problems)} of {len(own)} tensors do not map onto the base.",
            details=shown,
            fix="load it with the base it was trained on",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file; ModelError when missing, corrupt or not finite."""
    if not path.exists():
        raise ModelError("E-MODEL-024", f"{path} is missing.", fix="copy the whole folder again")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ModelError(
            "E-MODEL-025", f"{path} is corrupt: {error}.", fix="copy the whole folder again"
        ) from None
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ModelError(
            "E-MODEL-026", f"{path} holds values that are not finite.", details=broken[:8]
        )
    return tensors
