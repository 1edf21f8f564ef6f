"""Read and write LoRA in PEFT's folder layout: adapter_config.json + adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sapwood.errors import ModelError
from sapwood.methods.lora import Lora
from sapwood.methods.parts import Method

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."

# Settings of a PEFT LoRA that change the output and that Sapwood cannot reproduce: refused.
_UNSUPPORTED = (
    "use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias",
    "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip


def write_peft(
    tensors: Mapping[str, Tensor], method: Method, folder: Path, *, base: str, transposed: bool
) -> None:
    """Write branch weights into `folder`, loadable by ``peft.PeftModel.from_pretrained``.

    `tensors`: what `parts.stored` returns; `base`: the name PEFT should show; `transposed`: whether
    the base's layers keep their weights as (inputs, outputs), as GPT-2's do.
    """
    assert isinstance(method, Lora)
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


def read_own(folder: Path, method: Method) -> dict[str, Tensor]:
    """Return the tensors of a PEFT folder by module path."""
    del method
    found = read_tensors(folder / TENSORS)
    return {name.removeprefix(_PREFIX): tensor for name, tensor in found.items()}


def has(method: Method) -> bool:
    """Return whether PEFT has this method as it is configured."""
    return isinstance(method, Lora)


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
