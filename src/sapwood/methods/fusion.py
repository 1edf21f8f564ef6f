"""AdapterFusion: trained adapters of several tasks, mixed token by token by a trained attention.

Pfeiffer et al. 2021 (arXiv 2005.00247). At each place the query comes from the layer's output h,
keys and values from what each adapter adds there, u_n: `h + V sum_n a_n u_n`, a = softmax over n of
(Q h) . (K u_n). The keys have no bias, as it would be the same for every n.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.adapter import Added, Tap
from sapwood.methods.folder import load_trained, read_method
from sapwood.methods.hub_adapter import HubBottleneck
from sapwood.methods.hub_folder import PICKLE, load_hub
from sapwood.methods.hub_folder import TENSORS as HUB_TENSORS
from sapwood.methods.lora import freeze
from sapwood.methods.low_rank import LowRank
from sapwood.methods.parts import Method, Part, detach, innermost, parts
from sapwood.methods.peft_folder import CONFIG
from sapwood.methods.places import places
from sapwood.methods.settings import from_settings, settings

_MAIN, _OURS, _INSIDE = "adaptation.json", "method.json", "adaptation"
Attach = Callable[[Any], Any]  # puts a member on a net


@dataclass(frozen=True, kw_only=True)
class Fusion(Method):
    """A fusion's whole configuration: two adapters or more, of the same places.

    `adapters`: folders of trained ones (adaptations, PEFT's, AdapterHub's), which stay frozen; or
    `members`: methods, whose weights train along. Adapters are bottlenecks or low-rank branches, of
    any sizes, and act without dropout. What is kept of a fusion of folders holds their methods and
    weights, so it loads alone.
    """

    name: ClassVar[str] = "fusion"
    adapters: tuple[str, ...] = ()
    members: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        problems = [
            f"'{member}' is no method; name folders in adapters=('A', 'B')"
            for member in self.members
            if not hasattr(member, "attach")
        ]
        if self.adapters and self.members:
            problems.append("adapters are folders and members methods: give one of them")
        if any(isinstance(member, Fusion) for member in self.members):
            problems.append("a fusion cannot be fused again; name all adapters side by side")
        if problems:
            raise ConfigError("E-CONFIG-096", "The fusion is wrong.", details=problems)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. When one adapter cannot be fused nothing is attached.

        Raises what reading and attaching them raises; ConfigError (E-CONFIG-096) for fewer than
        two, or parts that add nothing of their own; ModelError (E-MODEL-068) where they disagree.
        """
        names = self.adapters or tuple(f"member {n}" for n in range(len(self.members)))
        if len(names) < 2:
            raise ConfigError(
                "E-CONFIG-096",
                f"A fusion needs two adapters or more, got {len(names)}.",
                fix="fusion(adapters=('runs/a', 'runs/b'))",
            )
        attaches: list[Attach] = [
            partial(_start, method, seed=seed + n) for n, method in enumerate(self.members)
        ]
        if self.adapters:
            folders = [_place(Path(folder)) for folder in self.adapters]
            _check_bases(folders)
            attaches = [partial(_load, folder) for folder in folders]
        methods, made = _made(net, names, attaches)
        freeze(net)
        here = {place.path: place.outer for place in places(net)}
        taps, layers = _by_path(made, Tap), _by_path(made, (Added, LowRank))
        for path, found in taps.items():
            outer = here[path]
            net.set_submodule(outer, FusionTap(net.get_submodule(outer), list(found.values())))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for path, found in layers.items():
                outer = next(place.outer for place in places(net) if place.path == path)
                layer = FusionLayer(net.get_submodule(outer), list(found.values()), methods)
                net.set_submodule(outer, layer.settled(frozen=bool(self.adapters)))
        return net

    def describe(self) -> str:
        """Return it in words for the report."""
        if self.adapters:
            return f"fusion of {', '.join(self.adapters)}"
        return f"fusion of {'; '.join(method.describe() for method in self.members)}"

    def kept(self) -> Fusion:
        """Return the configuration of what `stored` returns: the members with their weights.

        AdapterHub's folders can be read with a net only: see `as_fused`.
        """
        folders = [_place(Path(folder)) for folder in self.adapters]
        found = tuple(read_method(folder)[0] for folder in folders)
        return replace(self, adapters=(), members=(*found, *(m.kept() for m in self.members)))

    def to_settings(self) -> dict[str, Any]:
        """Return the whole configuration, JSON-ready; `from_settings` makes it again."""
        members = [{"name": m.name, "settings": settings(m)} for m in self.members]
        return {"adapters": list(self.adapters), "members": members}

    @classmethod
    def from_settings(cls, content: Mapping[str, Any]) -> Fusion:
        """Return the fusion that `to_settings` wrote. Raises ConfigError for an unknown name."""
        made = [from_settings(each["name"], each["settings"]) for each in content["members"]]
        return cls(adapters=tuple(content["adapters"]), members=tuple(made))


def as_fused(method: Fusion, own: Sequence[tuple[str, Part]]) -> Fusion:
    """Return what is kept of `method`, attached as the parts `own`; see `Fusion.kept`."""
    found = [part.methods for _, part in own if isinstance(part, FusionLayer)]
    members = tuple(member.kept() for member in found[0])
    return replace(method, adapters=(), members=members)


class FusionTap(Part):
    """A module that keeps its input for adapters that read it further on."""

    def __init__(self, layer: nn.Module, taps: Sequence[Part]) -> None:
        super().__init__(layer)
        self._taps = list(taps)

    def forward(self, x: Tensor) -> Any:
        """Run the module."""
        for tap in self._taps:
            tap.seen = x if self.active else None  # type: ignore[assignment]
        return self.base_layer(x)

    def fold(self) -> dict[str, Tensor]:
        """Return nothing: it changes nothing."""
        return {}


class FusionLayer(Part):
    """A layer's output plus what `adapters`, a part each, would add to it, mixed.

    `fusion_query` (hidden, hidden) with bias and `fusion_key` (hidden, hidden), normal with
    deviation 0.02 at first; `fusion_value` (hidden, hidden), zero at first, is the difference of V
    from the identity, so that weight decay draws V there, as the paper's penalty does. The parts
    are no modules of this one, as they wrap nothing; their parameters are.
    """

    def __init__(
        self, layer: nn.Module, adapters: Sequence[Part], methods: tuple[Method, ...]
    ) -> None:
        super().__init__(layer)
        own: Any = innermost(layer)
        size = adapters[0].hidden if isinstance(adapters[0], Added) else adapters[0].out_features
        self.adapters, self.methods, self.content = tuple(adapters), methods, ""
        width = int(size)  # type: ignore[arg-type]
        # drawn on the CPU, and so the same on every device
        self.fusion_query = nn.Linear(width, width, dtype=torch.float32)
        self.fusion_key = nn.Linear(width, width, bias=False, dtype=torch.float32)
        for linear in (self.fusion_query, self.fusion_key):
            nn.init.normal_(linear.weight, std=0.02)
            linear.to(own.weight.device)
        nn.init.zeros_(self.fusion_query.bias)
        self.fusion_value = nn.Parameter(torch.zeros_like(self.fusion_key.weight))
        held = [tensor for part in adapters for tensor in part.trained().values()]
        self.held = nn.ParameterList(held)  # they move to a device, and count, with this module

    def settled(self, *, frozen: bool) -> FusionLayer:
        """Return it with its adapters frozen, or to be trained along."""
        if frozen:
            self.content = _digest(self._held())
            for tensor in self.held:
                tensor.requires_grad_(False)
        return self

    def _held(self) -> dict[str, nn.Parameter]:
        """Return the adapters' own tensors, ``NUMBER.NAME``."""
        return {
            f"{number}.{part.FILES.get(name, name)}": tensor
            for number, part in enumerate(self.adapters)
            for name, tensor in part.named_parameters()
            if not name.startswith("base_layer.")
        }

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the fusion's parameters, and the adapters' where they train along."""
        found = {n: p for n, p in self.named_parameters() if n.startswith("fusion_")}
        return found | {n: t for n, t in self._held().items() if t.requires_grad}

    def stored(self) -> dict[str, Tensor]:
        """Return the fusion's parameters and all of the adapters'."""
        return {**self.trained(), **self._held()}

    def extra_repr(self) -> str:
        """Return what changes the output besides the trained tensors."""
        words = ", ".join(f"{type(p).__name__}({p.extra_repr()})" for p in self.adapters)
        return f"{words}, frozen={self.content}" if self.content else words

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., hidden)."""
        out: Tensor = self.base_layer(x)
        if not self.active:
            return out
        # (..., adapters, hidden): by dot products with K^T Q h no dense product is for one adapter
        added = torch.stack([_added(part, x, out) for part in self.adapters], -2)
        query, key = self.fusion_query, self.fusion_key.weight.to(x.dtype)
        asked = functional.linear(out, query.weight.to(x.dtype), query.bias.to(x.dtype)) @ key
        shares = (added @ asked[..., None]).float().softmax(-2).to(x.dtype)  # (..., adapters, 1)
        mixed = (shares * added).sum(-2)
        return out + mixed + functional.linear(mixed, self.fusion_value.to(x.dtype))


def _added(part: Part, x: Tensor, out: Tensor) -> Tensor:
    """Return what one adapter alone would add to `out`, the layer's output for `x`."""
    if isinstance(part, LowRank):
        a, b = (factor.to(x.dtype) for factor in part.factors())
        return functional.linear(functional.linear(x, a) * part.scale, b)
    assert isinstance(part, Added)
    states, tap = out, part._tap[0]
    if tap is not None:
        assert tap.seen is not None, "the sublayer did not run before its end"
        states, tap.seen = tap.seen, None
    if isinstance(part, HubBottleneck):
        states = states + out if part.stream else states
        for norm in part.norm:
            states = norm(states)
    return part.added(states)


def _made(
    net: Any, names: Sequence[str], attaches: Sequence[Attach]
) -> tuple[tuple[Method, ...], list[list[tuple[str, Part]]]]:
    """Return each member's method and its parts with their paths, off the net again."""
    before = [part for _, part in parts(net)]
    known, methods, made = set(map(id, before)), [], []
    for name, attach in zip(names, attaches, strict=True):
        try:
            method: Method = attach(net)
            found = [(path, part) for path, part in parts(net) if id(part) not in known]
            _check_fusable(name, method, found)
        finally:
            detach(net, keep=before)
        methods.append(method)
        made.append(found)
    _check_places(names, made)
    return tuple(methods), made


def _start(method: Method, net: Any, *, seed: int) -> Method:
    method.attach(net, seed=seed)
    return method


def _load(folder: Path, net: Any) -> Method:
    hub = any((folder / name).exists() for name in (HUB_TENSORS, PICKLE))
    return load_hub(net, folder) if hub else load_trained(net, folder)


def _check_fusable(name: str, method: Method, found: Sequence[tuple[str, Part]]) -> None:
    """Raise ConfigError (E-CONFIG-096) for parts that are more than an addition to an output."""
    adding = [path for path, part in found if not isinstance(part, Tap)]
    why = "it has two parts at one place" if len(set(adding)) < len(adding) else ""
    why = why or ("" if adding else "it adds nothing")
    for path, part in found:
        stored = {name: tensor.shape for name, tensor in part.stored().items()}
        if not isinstance(part, Added | LowRank | Tap):
            why = f"{type(part).__name__} at {path} is neither a bottleneck nor a low-rank branch"
        elif isinstance(part, LowRank) and part.gain() is not None:
            why = f"{type(part).__name__} scales the whole output"
        elif any("gate" in tensor for tensor in part.trained()):
            why = "it has gates"
        elif stored != {name: tensor.shape for name, tensor in part.trained().items()}:
            why = "it has a frozen starting point, and is kept as another method than it trains as"
        elif getattr(part, "by_inputs", 0):
            why = "a start from inputs needs it on the net by itself"
    if why:
        raise ConfigError("E-CONFIG-096", f"'{name}' ({method.describe()}) cannot be fused: {why}.")


def _check_places(names: Sequence[str], made: Sequence[Sequence[tuple[str, Part]]]) -> None:
    """Raise ModelError (E-MODEL-068) naming the places that not all members have."""
    own = [{path for path, part in found if not isinstance(part, Tap)} for found in made]
    problems = []
    for name, here in zip(names, own, strict=True):
        for words, paths in (("lacks", own[0] - here), ("also has", here - own[0])):
            shown = sorted(paths)
            more = f" and {len(shown) - 2} more" if len(shown) > 2 else ""
            problems += [f"{name} {words} {', '.join(shown[:2])}{more}"] if shown else []
    if problems:
        raise ModelError(
            "E-MODEL-068",
            f"These adapters cannot be fused: they sit in other places than {names[0]}.",
            details=problems,
            fix="fuse adapters with the same placement and targets",
        )


def _by_path(made: Sequence[Sequence[tuple[str, Part]]], kind: Any) -> dict[str, dict[int, Part]]:
    """Return path -> {member: its part} for the parts of a kind."""
    found: dict[str, dict[int, Part]] = {}
    for number, own in enumerate(made):
        for path, part in own:
            if isinstance(part, kind):
                found.setdefault(path, {})[number] = part
    return found


def _place(folder: Path) -> Path:
    """Return the adapter's folder: the adaptation in a run, else the folder itself."""
    inner = folder / _INSIDE
    return inner if (inner / _MAIN).exists() and not (folder / _MAIN).exists() else folder


def _check_bases(folders: Sequence[Path]) -> None:
    """Raise ModelError (E-MODEL-068) where folders say that they are for different bases.

    Names count without the owner before them; the weights' hash, where both have one, decides.
    """
    said = [_base(folder) for folder in folders]
    problems = []
    for key in ("hash", "name"):
        known = [(f, s[key]) for f, s in zip(folders, said, strict=True) if s[key]]
        problems += [
            f"{folder} is for {base[:40]}, {known[0][0]} for {known[0][1][:40]}"
            for folder, base in known[1:]
            if base != known[0][1] and not (key == "name" and all(s["hash"] for s in said))
        ]
    if problems:
        raise ModelError(
            "E-MODEL-068",
            "These adapters cannot be fused: their bases differ.",
            details=problems,
            fix="fuse adapters that were trained on one base",
        )


def _base(folder: Path) -> dict[str, str]:
    """Return the hash and the name of the base as a folder says them, "" where it does not."""
    found = {"hash": "", "name": ""}
    for file, key in ((_MAIN, ""), (_OURS, "base"), (CONFIG, "base_model_name_or_path")):
        try:
            content = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # whoever needs the file says what is wrong with it
            continue
        if file == _MAIN:
            found["hash"] = str((content.get("base") or {}).get("sha256") or "")
        else:
            name = str(content.get(key) or "").rstrip("/").rsplit("/", 1)[-1]
            found["name"] = found["name"] or name.lower()
    return found


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
