"""Where things sit in a net: targets of methods, by name or by the role a layer plays in its kind.

A target is "all-linear", a role (`ROLES`), or a module's name: its path, or the end of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from sapwood.errors import ConfigError
from sapwood.methods.parts import INSIDE, Guest, Part
from sapwood.registry import did_you_mean

ALL_LINEAR = "all-linear"
LINEAR = (nn.Linear, Conv1D)

_LLAMA = {
    "query": r"self_attn\.q_proj", "key": r"self_attn\.k_proj", "value": r"self_attn\.v_proj",
    "attention-out": r"self_attn\.o_proj", "ff-in": r"mlp\.(gate|up)_proj",
    "ff-out": r"mlp\.down_proj", "block": r"layers\.\d+",
}  # fmt: skip
# Patterns that match the end of a module's path. XLNet's attention has no linear layers: its
# weights are bare tensors, so only the feed-forward half of a block can be wrapped.
_KINDS: dict[str, Mapping[str, str]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma3_text"), _LLAMA),
    "gpt2": {
        "query": r"attn\.c_attn", "key": r"attn\.c_attn", "value": r"attn\.c_attn",
        "attention-out": r"attn\.c_proj", "ff-in": r"mlp\.c_fc", "ff-out": r"mlp\.c_proj",
        "block": r"h\.\d+",
    },
    "bert": {
        "query": r"attention\.self\.query", "key": r"attention\.self\.key",
        "value": r"attention\.self\.value", "attention-out": r"attention\.output\.dense",
        "ff-in": r"intermediate\.dense", "ff-out": r"layer\.\d+\.output\.dense",
        "block": r"layer\.\d+",
    },
    "t5": {
        "query": r"(Self|EncDec)Attention\.q", "key": r"(Self|EncDec)Attention\.k",
        "value": r"(Self|EncDec)Attention\.v", "attention-out": r"(Self|EncDec)Attention\.o",
        "ff-in": r"DenseReluDense\.wi(_[01])?", "ff-out": r"DenseReluDense\.wo",
        "block": r"block\.\d+",
    },
    "xlnet": {"ff-in": r"ff\.layer_1", "ff-out": r"ff\.layer_2", "block": r"layer\.\d+"},
}  # fmt: skip
ROLES = ("query", "key", "value", "attention-out", "ff-in", "ff-out")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One module of the base: its `path` there, the path it has now, and that of all around it.

    `inner` leads to `module` itself, `outer` to the outermost part around it; without parts all
    three are one.
    """

    path: str
    inner: str
    outer: str
    module: nn.Module

    @property
    def name(self) -> str:
        """Return the last part of its path."""
        return self.path.rsplit(".", 1)[-1]


def places(net: Any) -> Iterator[Place]:
    """Yield every module of the base itself; what parts brought along is left out."""
    yield from _walk(net, "", "", "", set())


def _walk(module: Any, path: str, inner: str, outer: str, seen: set[int]) -> Iterator[Place]:
    if id(module) in seen:  # a module that sits in two places is one
        return
    seen.add(id(module))
    if isinstance(module, Guest):
        return
    if isinstance(module, Part):
        yield from _walk(module.base_layer, path, f"{inner}.{INSIDE}", outer, seen)
        return
    yield Place(path=path, inner=inner, outer=outer, module=module)
    for name, child in module.named_children():
        there, here = (f"{p}.{name}" if p else name for p in (path, inner))
        yield from _walk(child, there, here, here, seen)


def kind_of(net: Any) -> str:
    """Return the kind of a net, transformers' `model_type`."""
    return str(getattr(getattr(net, "config", None), "model_type", ""))


def role(net: Any, name: str) -> list[Place]:
    """Return the modules that play a role, or the blocks ("block"), in the net's order.

    Raises ConfigError (E-CONFIG-022) for a kind that has none.
    """
    kind = kind_of(net)
    pattern = _KINDS.get(kind, {}).get(name)
    found = [] if pattern is None else _matching(places(net), pattern)
    if not found:
        known = ", ".join(sorted(_KINDS))
        why = "it has no such layer" if kind in _KINDS else f"known kinds are {known}"
        raise ConfigError(
            "E-CONFIG-022",
            f"A net of the '{kind}' kind has no place '{name}': {why}.",
            fix="name the modules, or choose another method",
        )
    return found


def _matching(found: Iterator[Place], pattern: str) -> list[Place]:
    whole = re.compile(rf"(.*\.)?{pattern}")
    return [place for place in found if whole.fullmatch(place.path)]


def find(net: Any, targets: Sequence[str], *, method: str, kinds: Any = LINEAR) -> list[Place]:
    """Return the modules of the types `kinds` that `targets` name, each once, in the net's order.

    The head and an encoder's pooler are left out of "all-linear". Raises ConfigError: E-CONFIG-021
    naming every target that matches nothing, E-CONFIG-022 for a role that the kind lacks.
    """
    usable = _usable(net, kinds)
    head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
    chosen: set[str] = set()
    missing = []
    what = "linear layer" if kinds is LINEAR else "layer"
    names = sorted({place.name for place in usable})
    if not targets:
        missing.append("none are given")
    for target in targets:
        if target == ALL_LINEAR:
            matched = [p for p in usable if p.module is not head and not unread(p)]
        elif target in ROLES:
            matched = role(net, target)
        else:
            matched = [p for p in usable if p.path == target or p.path.endswith("." + target)]
        if not matched:
            missing.append(f"'{target}' matches no {what}.{did_you_mean(target, names)}")
        chosen |= {place.path for place in matched}
    if missing:
        raise ConfigError(
            "E-CONFIG-021",
            f"The targets of {method} must all take effect.",
            details=missing,
            fix=f"use '{ALL_LINEAR}', {', '.join(ROLES)}, or names among: {', '.join(names)}",
        )
    return [place for place in usable if place.path in chosen]


def unread(place: Place) -> bool:
    """Return whether a module is an encoder's pooler, whose output nobody reads here."""
    return "pooler" in place.path.split(".")


def _usable(net: Any, kinds: Any) -> list[Place]:
    """Return the modules of the types `kinds`, without those whose weights are read past a wrapper.

    torch's MultiheadAttention has a fast path that does so.
    """
    found = list(places(net))
    fused = tuple(p.path + "." for p in found if isinstance(p.module, nn.MultiheadAttention))
    return [p for p in found if isinstance(p.module, kinds) and not p.path.startswith(fused)]


def pattern(table: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    """Return the value of a rank or alpha pattern for a module's path."""
    for name, value in table.items():
        if path == name or path.endswith("." + name):
            return value
    return otherwise
