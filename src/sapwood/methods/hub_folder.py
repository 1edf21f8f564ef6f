"""AdapterHub's folders (the `adapters` library, version 1.3.0): bottleneck, LoRA and prefix.

A folder is read exactly or refused with the reason. Its bottlenecks become an `Adapter` where ours
reads the same states, else a `HubAdapter`. Heads and dropout are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.activations import ACT2FN

from sapwood.errors import ModelError
from sapwood.files import new_folder, write_json
from sapwood.methods.adapter import Adapter
from sapwood.methods.folder import attach_trained
from sapwood.methods.hub_adapter import HubAdapter, spots
from sapwood.methods.keys_values import PEFT_NAME, expected_shape, turned
from sapwood.methods.lora import Lora
from sapwood.methods.parts import Method
from sapwood.methods.peft_folder import read_tensors
from sapwood.methods.places import kind_of, places, role
from sapwood.methods.prefix_tuning import PREFIX, Prefix

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
_CONVERT = (
    'on a machine you trust the file on: python -c "import torch; from safetensors.torch import '
    "save_file; w = torch.load('pytorch_adapter.bin', weights_only=True); "
    "save_file({k: v.clone() for k, v in w.items()}, 'adapter.safetensors')\""
)


_CLASSES = {
    "bert": "BertModel", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}  # fmt: skip
# AdapterHub's names of activations that transformers calls otherwise.
_ACTIVATIONS = {"swish": "silu"}
_BLOCK = re.compile(r"(?:.*\.)?(?:encoder\.layer|layers|h)\.(\d+)\.(.+)")
_NAMES = {
    "adapter_down.0.weight": "adapter_down.weight", "adapter_down.0.bias": "adapter_down.bias",
    "adapter_up.weight": "adapter_up.weight", "adapter_up.bias": "adapter_up.bias",
}  # fmt: skip
# What AdapterHub writes for a bottleneck; each value but those set below is the only one we have.
_PLAIN: Mapping[str, Any] = {
    "adapter_residual_before_ln": False, "cross_adapter": False, "dropout": 0.0,
    "factorized_phm_W": True, "factorized_phm_rule": False,
    "hypercomplex_nonlinearity": "glorot-uniform", "init_weights": "bert",
    "init_weights_seed": None, "inv_adapter": None, "inv_adapter_reduction_factor": None,
    "learn_phm": True, "leave_out": [], "ln_after": False, "ln_before": False,
    "original_ln_after": True, "phm_bias": True, "phm_c_init": "normal", "phm_dim": 4,
    "phm_init_range": 0.0001, "phm_layer": False, "phm_rank": 1, "residual_before_ln": True,
    "shared_W_phm": False, "shared_phm_rule": True, "stochastic_depth": 0.0, "use_gating": False,
}  # fmt: skip
_NEEDED = (
    "cross_adapter", "inv_adapter", "leave_out", "ln_after", "ln_before", "original_ln_after",
    "phm_layer", "residual_before_ln", "use_gating",
)  # fmt: skip


def load_hub(net: Any, folder: Path) -> Method:
    """Attach the adapter of an AdapterHub folder to `net` and return its method."""
    method, tensors = read_hub(folder, net)
    attach_trained(net, method, tensors, where=str(folder))
    return method


def read_hub(folder: Path, net: Any) -> tuple[Method, dict[str, Tensor]]:
    """Return the method that an AdapterHub folder holds, and its tensors by module path of `net`.

    Raises ModelError: E-MODEL-020, 021 no configuration or not JSON, 024 to 026 no tensors, corrupt
    or not finite, 069 pickled tensors (which are never opened), another kind of net, or settings
    that cannot be reproduced exactly, all of them named.
    """
    content = _content(folder)
    config, kind = content["config"], kind_of(net)
    made_for = content.get("model_type")
    if made_for != kind or content.get("hidden_size") != net.config.hidden_size:
        there = f"it is for {made_for} of width {content.get('hidden_size')}"
        raise _not_exact(folder, [f"{there}, the net is {kind} of width {net.config.hidden_size}"])
    if not (folder / TENSORS).exists() and (folder / PICKLE).exists():
        raise ModelError(
            "E-MODEL-069",
            f"{folder} has only pickled weights, and a pickle can run any code.",
            fix=f"save it with use_safetensors=True, or, {_CONVERT}",
        )
    tensors, shape = read_tensors(folder / TENSORS), config.get("architecture")
    if shape is None:
        return _bottleneck(folder, config, tensors, net)
    if shape == "lora":
        return _lora(folder, config, tensors, net)
    if shape == "prefix_tuning":
        return _prefix(folder, config, tensors, net)
    known = "bottleneck, lora and prefix_tuning"
    raise _not_exact(folder, [f"its architecture is '{shape}'; read are {known}"])


def write_hub(
    tensors: Mapping[str, Tensor], method: Method, folder: Path, *, net: Any, name: str = "sapwood"
) -> None:
    """Write a bottleneck as AdapterHub reads it: `load_adapter(folder, use_safetensors=True)`.

    `tensors`: what `parts.stored` returned; `net`: the base. Raises ModelError (E-MODEL-069) for
    what AdapterHub cannot express: other methods, and our parallel adapter outside BERT, which
    reads the normalised states there.
    """
    kind = kind_of(net)
    said = _settings_of(method, kind)
    known, hidden, stored = spots(kind), net.config.hidden_size, {}
    for whole, tensor in tensors.items():
        path, ending = next(
            (whole.removesuffix("." + ours), theirs)
            for theirs, ours in _NAMES.items()
            if whole.endswith("." + ours)
        )
        spot = next(s for s in reversed(known) if _in_block(path) == s.layer)
        block = path.removesuffix("." + spot.layer)
        stored[f"{block}.{spot.theirs}.adapters.{name}.{ending}"] = tensor.detach().float().cpu()
    width = next(len(t) for n, t in tensors.items() if n.endswith("adapter_down.bias"))
    # AdapterHub takes int(hidden // factor): half a number more keeps rounding out of it.
    config = {**_PLAIN, **said, "reduction_factor": hidden / (width + 0.5)}
    content = {
        "config": config, "hidden_size": hidden, "model_class": _CLASSES[kind], "model_name": "",
        "model_type": kind, "name": name, "version": "adapters.1.3.0",
    }  # fmt: skip
    with new_folder(folder) as part:
        write_json(part / CONFIG, content)
        save_file({n: t.contiguous() for n, t in stored.items()}, part / TENSORS)


def _content(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("E-MODEL-020", f"{path} is missing: this is no adapter.") from None
    except ValueError as error:
        raise ModelError("E-MODEL-021", f"{path} is not valid JSON: {error}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise _not_exact(folder, ["it has no 'config': it is no AdapterHub folder (PEFT's?)"])
    return content


def _bottleneck(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], net: Any
) -> tuple[Method, dict[str, Tensor]]:
    parallel, before = bool(config.get("is_parallel")), bool(config.get("original_ln_before"))
    unread = () if before and not parallel else ("residual_before_ln",)
    problems = [
        f"{key} is {config[key]!r}"
        for key in _NEEDED
        if key not in unread and config.get(key, _PLAIN[key]) != _PLAIN[key]
    ]
    scale, factor = config.get("scaling", 1.0), config.get("reduction_factor")
    problems += [f"scaling is '{scale}', a trained one"] if isinstance(scale, str) else []
    if not isinstance(factor, int | float):
        problems.append("reduction_factor differs from layer to layer")
    act = str(config.get("non_linearity", "relu")).lower()
    act = _ACTIVATIONS.get(act, act)
    if act not in ACT2FN:
        problems.append(f"non_linearity is '{act}'")
    if problems:
        raise _not_exact(folder, problems)
    assert isinstance(factor, int | float)
    known, found, strays = spots(kind_of(net)), {}, []
    for name, tensor in tensors.items():
        whole = re.fullmatch(r"(.+)\.adapters\.[^.]+\.(adapter_(?:down\.0|up)\.\w+)", name)
        block = _BLOCK.fullmatch(whole[1]) if whole else None
        spot = next((s for s in known if block and block[2] == s.theirs), None)
        if whole is None or block is None or spot is None:
            strays.append(f"{name} has no place here")
            continue
        found[f"{_block_path(net, int(block[1]))}.{spot.layer}.{_NAMES[whole[2]]}"] = tensor
    if strays:
        raise _not_exact(folder, strays[:8])
    made = HubAdapter(
        width=max(1, int(net.config.hidden_size // factor)),
        attention=bool(config.get("mh_adapter")),
        output=bool(config.get("output_adapter")),
        reads="residual" if parallel else "stream" if before else "output",
        activation=act,
        scale=float(scale),
    )
    return _as_ours(made, kind_of(net)), found


def _as_ours(made: HubAdapter, kind: str) -> Method:
    """Return our own adapter where it reads the same states."""
    placement = ""
    if made.reads == "output" and made.output:
        placement = "houlsby" if made.attention else "pfeiffer"
    if made.reads == "residual" and kind == "bert" and not made.attention:
        placement = "parallel"
    if not placement:
        return made
    return Adapter(
        width=made.width, placement=placement, activation=made.activation, scale=made.scale
    )


def _settings_of(method: Method, kind: str) -> dict[str, Any]:
    """Return AdapterHub's settings of a bottleneck."""
    if isinstance(method, Adapter):
        if method.placement == "parallel" and kind != "bert":
            why = f"parallel adapters read normalised states in {kind}, AdapterHub's the residual"
            raise ModelError("E-MODEL-069", f"AdapterHub cannot express this: {why}.")
        both, parallel, before = (
            method.placement == "houlsby",
            method.placement == "parallel",
            False,
        )
        output = True
    elif isinstance(method, HubAdapter):
        both, output = method.attention, method.output
        parallel, before = method.reads == "residual", method.reads == "stream"
    else:
        raise ModelError(
            "E-MODEL-069",
            f"Only bottleneck adapters are written for AdapterHub, not {method.name}.",
            fix="PEFT's layout has the other methods",
        )
    return {
        "mh_adapter": both, "output_adapter": output, "is_parallel": parallel,
        "original_ln_before": before, "non_linearity": method.activation,
        "scaling": float(method.scale),
    }  # fmt: skip


def _lora(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], net: Any
) -> tuple[Method, dict[str, Tensor]]:
    unknown = ("use_gating", "use_dora", "vera_d", "vera_b")
    problems = [f"{key} is {config[key]!r}" for key in unknown if config.get(key)]
    if config.get("composition_mode", "add") != "add":
        problems.append(f"composition_mode is {config['composition_mode']!r}, as IA3's")
    found, known = {}, {place.path: place.module for place in places(net)}
    for name, tensor in tensors.items():
        whole = re.fullmatch(r"(.+)\.loras\.[^.]+\.(lora_[AB])", name)
        block = _BLOCK.fullmatch(whole[1]) if whole else None
        path = f"{_block_path(net, int(block[1]))}.{block[2]}" if block else ""
        if whole is None or path not in known:
            problems.append(f"{name} has no place here")
        elif path.endswith("c_attn"):
            problems.append(f"{path} is split into query, key and value there, one branch here")
        else:
            found[f"{path}.{whole[2]}.weight"] = tensor
    if problems:
        raise _not_exact(folder, problems[:8])
    targets = tuple(sorted({name.rsplit(".", 2)[0] for name in found}))
    return Lora(rank=int(config["r"]), alpha=float(config["alpha"]), targets=targets), found


def _prefix(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], net: Any
) -> tuple[Method, dict[str, Tensor]]:
    """Return the prefix with its net, where it has one, run out; copies of each layer are one."""
    kind = kind_of(net)
    problems = ["use_gating is True"] if config.get("use_gating") else []
    if kind in ("gpt2", "bert"):  # their positions are learned, so nothing can move them along
        problems.append(f"rows of a {kind} start at position 0 there, behind the prefix here")
    held: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = re.fullmatch(r".+\.prefix_tunings\.[^.]+\.self_prefix\.(.+)", name)
        if whole is None:
            if "prefix_gates" not in name:
                problems.append(f"{name} has no place here")
        elif not torch.equal(held.setdefault(whole[1], tensor), tensor):
            problems.append(f"{name} differs from its copies")
    if problems:
        raise _not_exact(folder, problems[:8])
    act = str(config.get("non_linearity", "tanh")).lower()
    if "wte.weight" in held:
        inner = held["wte.weight"] @ held["control_trans.0.weight"].t()
        inner = ACT2FN[_ACTIVATIONS.get(act, act)](inner + held["control_trans.0.bias"])
        flat = inner @ held["control_trans.2.weight"].t() + held["control_trans.2.bias"]
    else:
        flat = held["control_trans"]
    table = flat.float().view(int(config["prefix_length"]), *expected_shape(net.config))
    # Rows start at position 0 there and behind the prefix here: its keys move along.
    moved = turned(table, net, len(table))
    return Prefix(tokens=len(table), start="random"), {f"{PREFIX}.{PEFT_NAME}": moved}


def _block_path(net: Any, number: int) -> str:
    found = role(net, "block")
    return found[number].path if number < len(found) else f"block {number}"


def _in_block(path: str) -> str:
    found = _BLOCK.fullmatch(path)
    return found[2] if found else path


def _not_exact(folder: Path, problems: list[str]) -> ModelError:
    return ModelError(
        "E-MODEL-069",
        f"{folder} cannot be read exactly.",
        details=problems,
        fix="use it with the adapters library, or train it again here",
    )
