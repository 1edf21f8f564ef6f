"""What PEFT calls each method: one reader and one writer a type, one line each in two tables.

A reader takes the configuration and the tensors by module path, and returns our method and its
tensors; a writer the reverse. Both add everything that cannot be said on the other side to a list
of problems, so that a user meets all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sapwood.methods import prefix_tuning, prompt
from sapwood.methods.bitfit import Difference, LayerNorm
from sapwood.methods.dora import Dora
from sapwood.methods.ia3 import Ia3
from sapwood.methods.lora import Lora
from sapwood.methods.parts import Method, Part, parts
from sapwood.methods.peft_targets import names_for, our_pattern, targets_of, their_pattern
from sapwood.methods.places import pattern
from sapwood.methods.vera import Vera, VeraLayer, projections

Tensors = Mapping[str, Tensor]
Read = Callable[[Mapping[str, Any], Tensors, list[str]], tuple[Method, dict[str, Tensor]] | None]
Write = Callable[[Any, Tensors, Any, list[str]], tuple[dict[str, Any], dict[str, Tensor]]]

WHOLE = "ln_tuning_layers."  # PEFT keeps a copy of the normalisation layer under this name
SHARED = ("vera_A", "vera_B")
PROMPT = "prompt_embeddings"
_LORA = ("lora_A.weight", "lora_B.weight")
_DORA = (*_LORA, "lora_magnitude_vector")
_IA3 = ("ia3_l",)
_VERA = ("vera_lambda_b", "vera_lambda_d")
_NORMS = ("weight", "bias")

_ANY = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "target_modules", "exclude_modules", "fan_in_fan_out",
)  # fmt: skip
_LAYERS = ("layers_to_transform", "layers_pattern", "bias")
# The keys that are read, or that say nothing of a trained adapter: how it began, or how it was run.
_KNOWN: dict[str, tuple[str, ...]] = {
    "LORA": (
        *_ANY, *_LAYERS, "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora",
        "rank_pattern", "alpha_pattern", "init_lora_weights", "loftq_config", "eva_config",
        "corda_config", "lora_ga_config", "megatron_config", "megatron_core", "qalora_group_size",
        "ensure_weight_tying", "runtime_config",
    ),
    "IA3": (*_ANY, "feedforward_modules", "init_ia3_weights"),
    "VERA": (
        *_ANY, *_LAYERS, "r", "projection_prng_key", "save_projection", "vera_dropout",
        "d_initial", "init_weights",
    ),
    "LN_TUNING": _ANY,
}  # fmt: skip
# Starts that take their first factors off the base's weights, which PEFT does again when it loads.
_MOVES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def unsaid(config: Mapping[str, Any]) -> list[str]:
    """Return what a configuration asks for that Sapwood does not reproduce."""
    problems: list[str] = []
    if config["peft_type"] not in _KNOWN:
        return problems  # its reader knows
    for key in sorted(set(config) - set(_KNOWN[config["peft_type"]])):
        value = config[key]
        if key == "modules_to_save" and value:
            names = [value] if isinstance(value, str) else sorted(value)
            problems.append(f"modules_to_save: {', '.join(names)} were trained whole beside it")
        elif value and (key, value) != ("bias", "none"):
            problems.append(f"{key} = {value!r} is not supported")
    if config.get("bias", "none") != "none":
        problems.append(
            f"bias = {config['bias']!r} is not supported: the base's biases were trained"
        )
    needed = {"LORA": ("r", "lora_alpha"), "VERA": ("r",)}.get(config["peft_type"], ())
    missing = [key for key in (*needed, "target_modules") if not config.get(key)]
    return problems + [f"{key} is missing" for key in missing]


def paths_of(tensors: Collection[str], ends: tuple[str, ...], problems: list[str]) -> list[str]:
    """Return the module paths of tensors whose names end in `ends`; others become problems."""
    found, strange = set(), []
    for name in sorted(tensors):
        end = next((end for end in ends if name.endswith("." + end)), None)
        if end is None:
            strange.append(name)
        else:
            found.add(name.removesuffix("." + end))
    problems += [f"the tensor {name} belongs to no part of it" for name in strange[:4]]
    if len(strange) > 4:
        problems.append(f"and {len(strange) - 4} more tensors")
    if not found:
        problems.append(f"it has no tensor {' or '.join(ends)}")
    return sorted(found)


def _read_lora(
    config: Mapping[str, Any], tensors: Tensors, problems: list[str]
) -> tuple[Method, dict[str, Tensor]] | None:
    dora = bool(config.get("use_dora"))
    start = str(config.get("init_lora_weights", True))
    if start.startswith(_MOVES_THE_BASE) and (start != "pissa" or dora):
        problems.append(
            f"init_lora_weights = '{start}' moved the base's weights: save it again in PEFT with "
            "path_initial_model_for_weight_conversion"
        )
    paths = paths_of(tensors, _DORA if dora else _LORA, problems)
    if problems:
        return None
    chosen: dict[str, Any] = {
        "rank": int(config["r"]),
        "alpha": float(config["lora_alpha"]),
        "dropout": float(config.get("lora_dropout") or 0.0),
        "targets": targets_of(config).names(paths),
        "rslora": bool(config.get("use_rslora")),
        "rank_pattern": our_pattern(config.get("rank_pattern") or {}, paths),
        "alpha_pattern": our_pattern(config.get("alpha_pattern") or {}, paths),
    }
    if dora:
        return Dora(**chosen), dict(tensors)
    return Lora(**chosen, start="pissa" if start == "pissa" else "plain"), dict(tensors)


def _write_lora(
    method: Lora | Dora, tensors: Tensors, net: Any, problems: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    dora = isinstance(method, Dora)
    paths = paths_of(tensors, _DORA if dora else _LORA, problems)
    for path in paths:
        rank = int(pattern(method.rank_pattern, path, method.rank))
        factor = tensors.get(f"{path}.lora_A.weight")
        if factor is not None and len(factor) != rank:
            problems.append(f"{path} has rank {len(factor)}, the method says {rank}")
    config = {
        "peft_type": "LORA",
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "target_modules": names_for(method.targets, paths, net),
        "bias": "none",
        "use_rslora": method.rslora,
        "use_dora": dora,
        "modules_to_save": None,
        "rank_pattern": their_pattern(method.rank_pattern, paths),
        "alpha_pattern": their_pattern(method.alpha_pattern, paths),
        "init_lora_weights": True,
    }
    return config, dict(tensors)


def _feed_forward(config: Mapping[str, Any], path: str) -> bool:
    names = config.get("feedforward_modules") or ()
    if isinstance(names, str):
        return targets_of({"target_modules": names}).match(path)
    return path.endswith(tuple(names))  # so PEFT has it, without a dot before the name


def _read_ia3(
    config: Mapping[str, Any], tensors: Tensors, problems: list[str]
) -> tuple[Method, dict[str, Tensor]] | None:
    paths = paths_of(tensors, _IA3, problems)
    if problems:
        return None
    targets = targets_of(config)
    inputs = [path for path in paths if _feed_forward(config, path)]
    outputs = sorted(set(paths) - set(inputs))
    before, after = targets.names(inputs), targets.names(outputs)
    if set(before) & set(after):  # one name for both
        before, after = tuple(inputs), tuple(outputs)
    return Ia3(targets=after if outputs else (), inputs=before if inputs else ()), dict(tensors)


def _write_ia3(
    method: Ia3, tensors: Tensors, net: Any, problems: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    paths = paths_of(tensors, _IA3, problems)
    inputs = [path for path in paths if len(tensors[f"{path}.ia3_l"]) == 1]
    outputs = sorted(set(paths) - set(inputs))
    before = names_for(method.inputs, inputs, net) if inputs else []
    after = names_for(method.targets, outputs, net) if outputs else []
    if any(path.endswith(tuple(before)) for path in outputs):
        before = inputs
    if any(path.endswith(tuple(before)) for path in outputs):
        problems.append("PEFT reads feedforward_modules as ends of names, which outputs share here")
    config = {
        "peft_type": "IA3",
        "target_modules": sorted({*before, *after}),
        "feedforward_modules": before,
        "modules_to_save": None,
        "init_ia3_weights": True,
    }
    return config, dict(tensors)


def _read_vera(
    config: Mapping[str, Any], tensors: Tensors, problems: list[str]
) -> tuple[Method, dict[str, Tensor]] | None:
    own = [name for name in tensors if name not in SHARED]
    paths = paths_of(own, _VERA, problems)
    if problems:
        return None
    method = Vera(
        rank=int(config["r"]),
        start=float(config.get("d_initial", 0.1)),
        dropout=float(config.get("vera_dropout") or 0.0),
        targets=targets_of(config).names(paths),
        projection_seed=int(config.get("projection_prng_key", 0)),
    )
    return method, dict(tensors)


def _write_vera(
    method: Vera, tensors: Tensors, net: Any, problems: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    own = {name: tensor for name, tensor in tensors.items() if name not in SHARED}
    paths = paths_of(own, _VERA, problems)
    shared = {name: tensors[name] for name in SHARED if name in tensors}
    layers = [part for _, part in parts(net) if isinstance(part, VeraLayer)] if net else []
    if layers:
        inputs, outputs = (
            max(getattr(p, n) for p in layers) for n in ("in_features", "out_features")
        )
        made = projections(method.projection_seed, method.rank, inputs, outputs)
        shared = dict(zip(SHARED, made, strict=True))
    config = {
        "peft_type": "VERA",
        "r": method.rank,
        "d_initial": method.start,
        "vera_dropout": method.dropout,
        "target_modules": names_for(method.targets, paths, net),
        "projection_prng_key": method.projection_seed,
        "save_projection": bool(shared),
        "bias": "none",
        "modules_to_save": None,
        "init_weights": True,
    }
    return config, own | shared


def _read_norms(
    config: Mapping[str, Any], tensors: Tensors, problems: list[str]
) -> tuple[Method, dict[str, Tensor]] | None:
    del config
    paths_of(tensors, tuple(WHOLE + end for end in _NORMS), problems)
    if problems:
        return None
    return LayerNorm(), {name.replace(f".{WHOLE}", "."): t for name, t in tensors.items()}


def _write_norms(
    method: LayerNorm, tensors: Tensors, net: Any, problems: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    del method
    if net is not None:
        tensors = _whole(net)
    paths = paths_of(tensors, _NORMS, problems)
    config = {
        "peft_type": "LN_TUNING",
        "target_modules": names_for((), paths, net),
        "modules_to_save": None,
    }
    ends = {name: name.rsplit(".", 1) for name in tensors}
    return config, {f"{ends[n][0]}.{WHOLE}{ends[n][1]}": tensor for n, tensor in tensors.items()}


def _whole(net: Any) -> dict[str, Tensor]:
    """Return the tensors of the layers that were changed, or of all where none was."""
    found = [(path, part) for path, part in parts(net) if isinstance(part, Difference)]
    moved = [
        (path, part) for path, part in found if any(bool(p.any()) for p in part.trained().values())
    ]
    return {
        f"{path}.{name}": tensor
        for path, part in moved or found
        for name, tensor in part.changed().items()
    }


def _read_virtual(module: Any) -> Read:
    """Return the reader of a method whose module says itself what PEFT's folder means."""

    def read(
        config: Mapping[str, Any], tensors: Tensors, problems: list[str]
    ) -> tuple[Method, dict[str, Tensor]] | None:
        made: tuple[Method, dict[str, Tensor]] = module.from_peft(config, tensors)
        return None if problems else made

    return read


def _write_virtual(module: Any) -> Write:
    def write(
        method: Method, tensors: Tensors, net: Any, problems: list[str]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        del net
        strange = [name for name in tensors if name.rsplit(".", 1)[-1] != PROMPT]
        problems += [f"the tensor {name} belongs to no part of it" for name in strange]
        if problems:
            return {}, {}
        made: tuple[dict[str, Any], dict[str, Tensor]] = module.to_peft(method, tensors)
        return made

    return write


READERS: dict[str, Read] = {
    "LORA": _read_lora,
    "IA3": _read_ia3,
    "VERA": _read_vera,
    "LN_TUNING": _read_norms,
    "PROMPT_TUNING": _read_virtual(prompt),
    "P_TUNING": _read_virtual(prompt),
    "PREFIX_TUNING": _read_virtual(prefix_tuning),
}
WRITERS: dict[str, Write] = {
    "lora": _write_lora,
    "dora": _write_lora,
    "ia3": _write_ia3,
    "vera": _write_vera,
    "layernorm": _write_norms,
    "prompt": _write_virtual(prompt),
    "prefix": _write_virtual(prefix_tuning),
}
# The ends of the names that each writer takes.
_ENDS = {
    "lora": _LORA,
    "dora": _DORA,
    "ia3": _IA3,
    "vera": (*_VERA, *SHARED),
    "layernorm": _NORMS,
    "prompt": (PROMPT,),
    "prefix": (PROMPT,),
}


def has(method: Method, tensors: Collection[str]) -> bool:
    """Return whether tensors of these names can be written for PEFT without the net."""
    ends = _ENDS.get(method.name, ())
    return bool(ends) and all(f".{name}".endswith(tuple(f".{e}" for e in ends)) for name in tensors)


def settled(
    added: Sequence[tuple[str, Part]], tensors: Tensors, problems: list[str]
) -> tuple[dict[str, Tensor], set[str]]:
    """Return the tensors of a file as the parts that were attached for them hold theirs.

    `added`: those parts with their module paths. Whole normalisation tensors become differences
    from the base's; VeRA's random matrices are compared with those that the parts made, and left
    out. Also returned: the names of trained tensors that need no value, as layers that a file
    leaves out stay the base's.
    """
    found, unchanged = dict(tensors), set()
    own = {f"{path}.{name}" if path else name for path, p in added for name in p.trained()}
    for path, part in added:
        for name in part.names if isinstance(part, Difference) else ():
            whole, delta = f"{path}.{name}", f"{path}.delta_{name}"
            if whole in found and delta in own:
                base = part._inner(name).float()
                given = found.pop(whole).to(base.device).float()
                found[delta] = given - base if given.shape == base.shape else given
                unchanged.add(delta)
    if unchanged:
        unchanged = own - set(found)
    if any(name in found for name in SHARED):
        layers = [part for _, part in added if isinstance(part, VeraLayer)]
        given_a, given_b = (found.pop(name, None) for name in SHARED)
        if not layers or not all(
            _same(given_a, part.down) and _same(given_b, part.up) for part in layers
        ):
            problems.append(
                "vera_A and vera_B are not the matrices that projection_prng_key gives here: they "
                "were made for other targets, or by another generator"
            )
    return found, unchanged


def _same(given: Tensor | None, made: Tensor) -> bool:
    if given is None or any(g < m for g, m in zip(given.shape, made.shape, strict=True)):
        return False
    rows, columns = made.shape
    return torch.equal(given[:rows, :columns], made.to(given))
