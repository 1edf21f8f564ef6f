"""Read and write PEFT's folder layout: adapter_config.json + adapter_model.safetensors.

What each of PEFT's types means is in `peft_kinds`, which modules it means in `peft_targets`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.bitfit import is_norm
from sapwood.methods.parts import Method, stored, transposed
from sapwood.methods.peft_kinds import PROMPT, READERS, SHARED, WRITERS, has, unsaid
from sapwood.methods.peft_targets import targets_of
from sapwood.methods.places import LINEAR, places

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_SHARED, _PREFIX = "base_model.", "base_model.model."


def write_peft(
    tensors: Mapping[str, Tensor],
    method: Method,
    folder: Path,
    *,
    base: str,
    transposed: bool,
    encoder: bool = False,
) -> None:
    """Write trained tensors into `folder`, loadable by ``peft.PeftModel.from_pretrained``.

    `tensors`: what `parts.stored` returns; `base`: the name PEFT should show; `transposed`: whether
    the base's layers keep their weights as (inputs, outputs), as GPT-2's do; `encoder`: whether the
    base is one, which PEFT loads into another wrapper. Raises ConfigError (E-CONFIG-028) naming all
    that PEFT has no words for.
    """
    about = {"base": base, "transposed": transposed, "encoder": encoder}
    _write(tensors, method, folder, about=about, net=None)


def export_peft(net: Any, method: Method, folder: Path, *, base: str) -> None:
    """Write `method`, attached to `net`, into `folder` for PEFT.

    `base`: the name PEFT should show. With the net at hand, names of modules are short, VeRA's
    random matrices are saved too, and LayerNorm tuning can be written, of which PEFT keeps the
    whole tensors. Raises ConfigError (E-CONFIG-028) as `write_peft`.
    """
    about = {"base": base, "transposed": transposed(net)}
    _write(stored(net), method.kept(), folder, about=about, net=net)


def _write(
    tensors: Mapping[str, Tensor], method: Method, folder: Path, *, about: Any, net: Any
) -> None:
    problems: list[str] = []
    if method.name not in WRITERS:
        problems.append(f"PEFT has no method like {method.name}; it has {', '.join(WRITERS)}")
    elif method.name == "layernorm" and net is None and not has(method, tensors):
        problems.append("PEFT keeps whole layers: only export_peft, which has the net, writes them")
    else:
        config, kept = WRITERS[method.name](method, tensors, net, problems)
    if problems:
        raise ConfigError(
            "E-CONFIG-028",
            f"{method.describe()} cannot be written as a PEFT folder.",
            details=problems,
        )
    config |= {
        "task_type": "FEATURE_EXTRACTION" if about.get("encoder") else _task(tensors, net),
        "base_model_name_or_path": about["base"],
        "inference_mode": True,
    }
    if config["peft_type"] in ("LORA", "IA3", "VERA"):
        config["fan_in_fan_out"] = about["transposed"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    named = {
        _theirs(name): tensor.detach().float().cpu().contiguous() for name, tensor in kept.items()
    }
    save_file(named, folder / TENSORS, metadata={"format": "pt"})


def _theirs(name: str) -> str:
    if name == PROMPT:
        return name
    return (_SHARED if name in SHARED else _PREFIX) + name


def _task(tensors: Mapping[str, Tensor], net: Any) -> str | None:
    """Return PEFT's task type, which chooses the wrapper it loads into; None fits any net."""
    if net is not None:
        if getattr(net.config, "is_encoder_decoder", False):
            return "SEQ_2_SEQ_LM"
        return "CAUSAL_LM" if net.get_output_embeddings() is not None else "FEATURE_EXTRACTION"
    halves = {
        name for path in tensors for name in path.split(".") if name in ("encoder", "decoder")
    }
    return None if halves else "CAUSAL_LM"


def read_peft(folder: Path) -> tuple[Method, dict[str, Tensor]]:
    """Return the method a PEFT folder holds, and its tensors by module path.

    Whole tensors of normalisation layers stay whole until they are attached. Raises ModelError:
    E-MODEL-020 no configuration, 021 not JSON, 022 naming all that Sapwood cannot reproduce, 024
    to 026 no tensors, corrupt or not finite.
    """
    config, path = _config(folder), folder / CONFIG
    kind = config.get("peft_type")
    if kind not in READERS:
        problems = [f"peft_type is {kind!r}; Sapwood reads {', '.join(READERS)}"]
        raise ModelError("E-MODEL-022", f"{path} cannot be loaded exactly.", details=problems)
    problems = unsaid(config)
    if problems and not (folder / TENSORS).exists():
        tensors: dict[str, Tensor] = {}
    else:
        tensors = _by_path(read_tensors(folder / TENSORS))
    made = None
    try:
        made = READERS[kind](config, tensors, problems)
    except re.error as error:
        problems.append(f"'{error.pattern!s}' is no regular expression: {error}")
    except (TypeError, ValueError) as error:
        problems.append(f"a setting has another type than PEFT gives it: {error}")
    if problems or made is None:
        raise ModelError("E-MODEL-022", f"{path} cannot be loaded exactly.", details=problems)
    return made


def targeted(net: Any, folder: Path) -> set[str]:
    """Return the paths of the modules of `net` that the configuration of a PEFT folder targets.

    Empty where it is about none, as for prompts.
    """
    config = _config(folder)
    kinds: Any = LINEAR
    if config.get("peft_type") == "LN_TUNING":
        kinds = tuple({type(place.module) for place in places(net) if is_norm(place.module)})
    return targets_of(config).inside(net, kinds) if config.get("target_modules") else set()


def _by_path(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(_PREFIX).removeprefix(_SHARED): t for n, t in tensors.items()}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError("E-MODEL-020", f"{path} is missing: this is no PEFT adapter.") from None
    except ValueError as error:
        raise ModelError("E-MODEL-021", f"{path} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ModelError("E-MODEL-021", f"{path} holds no JSON object.")
    return config


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file; ModelError when missing, corrupt or not finite."""
    if not path.exists():
        fix = "copy the whole folder again"
        if (path.parent / _PICKLE).exists():
            fix = f"{_PICKLE} is a pickle, which can run code: load and save it again in PEFT"
        raise ModelError("E-MODEL-024", f"{path} is missing.", fix=fix)
    try:
        tensors = load(path.read_bytes())  # safetensors' load_file leaks some bytes a tensor
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
