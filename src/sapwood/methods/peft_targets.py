"""Which modules a PEFT configuration means, by PEFT's own rules, and the same said in ours.

PEFT takes a list of names (a module's path or its end), a regular expression for the whole path,
or "all-linear", less some names, in some layers. Rank and alpha patterns are regular expressions
that must match the end of a path. Ours are names only (see `places`), so what a name cannot say
becomes the paths themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sapwood.methods.places import ALL_LINEAR, LINEAR, ROLES, pattern, places


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The keys of a configuration that choose modules.

    `modules`, `exclude`: names, or one regular expression; `layers`: numbers of the layers to take,
    None for all; `lists`: regular expressions for the name of the list that layers are counted in.
    """

    modules: str | tuple[str, ...]
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    lists: tuple[str, ...] = ()

    @property
    def all_linear(self) -> bool:
        """Return whether it means every linear layer but the head."""
        return isinstance(self.modules, str) and self.modules.lower() == ALL_LINEAR

    @property
    def plain(self) -> bool:
        """Return whether it is names and nothing else, which `places.find` reads alike."""
        return not isinstance(self.modules, str) and not self.exclude and self.layers is None

    def match(self, path: str) -> bool:
        """Return whether it means the module at `path` ("all-linear" needs a net: `inside`)."""
        if self.exclude and _named(self.exclude, path):
            return False
        if self.all_linear:
            return True
        if isinstance(self.modules, str) or path in self.modules or self.layers is None:
            return _named(self.modules, path)
        return _named(self.modules, path) and self._layer(path) in self.layers

    def _layer(self, path: str) -> int | None:
        # The first number counts, not that of an expert inside a layer; without a list's name PEFT
        # wants two names before it.
        starts = [rf"(?:^|.*?\.){name}" for name in self.lists] or [r".+?\.[^.]*"]
        for start in starts:
            if found := re.match(rf"{start}\.(?P<layer>\d+)\.", path):
                return int(found["layer"])
        return None

    def inside(self, net: Any, kinds: Any = LINEAR) -> set[str]:
        """Return the paths of the modules of the types `kinds` that it means in a net."""
        head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
        return {
            place.path
            for place in places(net)
            if isinstance(place.module, kinds)
            and self.match(place.path)
            and not (self.all_linear and place.module is head)
        }

    def names(self, paths: Collection[str]) -> tuple[str, ...]:
        """Return our names for it: `paths` are those of the modules that have tensors.

        A name that PEFT found nowhere is left out.
        """
        if not self.plain:
            return tuple(sorted(filter(self.match, paths)))
        kept = tuple(n for n in self.modules if any(_named((n,), path) for path in paths))
        return kept or tuple(self.modules)


def targets_of(config: Mapping[str, Any]) -> Targets:
    """Return what a configuration says of its modules."""
    layers = config.get("layers_to_transform")
    if isinstance(layers, int):
        layers = [layers]
    modules, lists = config.get("target_modules") or (), config.get("layers_pattern") or ()
    exclude = config.get("exclude_modules") or ()
    return Targets(
        modules=modules if isinstance(modules, str) else tuple(modules),
        exclude=exclude if isinstance(exclude, str) else tuple(exclude),
        layers=tuple(layers) if layers else None,
        lists=(lists,) if isinstance(lists, str) else tuple(lists),
    )


def _named(names: str | tuple[str, ...], path: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return path in names or path.endswith(tuple("." + name for name in names))


def by_regex(table: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    """Return the value of a rank or alpha pattern for a module's path, as PEFT finds it."""
    for name, value in table.items():
        if re.match(rf"(.*\.)?({name})$", path):
            return value
    return otherwise


def our_pattern(table: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """Return a pattern of PEFT's as `places.pattern` reads it: the same where that says the same.

    `paths`: those of the modules that have tensors. Names that match none are left out.
    """
    used = {n: v for n, v in table.items() if any(by_regex({n: True}, p, False) for p in paths)}
    if _alike(table, by_regex, used, pattern, paths):
        return used
    return _exact(table, by_regex, paths)


def their_pattern(table: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """Return a pattern of ours as PEFT reads it, which sorts its keys when it saves them.

    Names that match none of `paths` are left out: PEFT warns of them.
    """
    used = {n: v for n, v in table.items() if any(by_regex({n: True}, p, False) for p in paths)}
    exact = _exact(table, pattern, paths)
    for made in (used, exact):
        if _alike(dict(sorted(made.items())), by_regex, table, pattern, paths):
            return made
    return {f"^{re.escape(path)}": value for path, value in exact.items()}


_Find = Callable[[Mapping[str, Any], str, Any], Any]


def _alike(
    one: Mapping[str, Any],
    find: _Find,
    other: Mapping[str, Any],
    seek: _Find,
    paths: Collection[str],
) -> bool:
    return all(find(one, path, None) == seek(other, path, None) for path in paths)


def _exact(table: Mapping[str, Any], find: _Find, paths: Collection[str]) -> dict[str, Any]:
    # The longest first: a path may end in another one.
    found = ((path, find(table, path, None)) for path in sorted(paths, key=lambda p: (-len(p), p)))
    return {path: value for path, value in found if value is not None}


def names_for(targets: Collection[str], paths: Collection[str], net: Any = None) -> list[str]:
    """Return names that mean the modules at `paths` to PEFT, and no others.

    They are those of `targets` where these are names that do; else, without a `net` to see what
    else it holds, the paths themselves.
    """
    others = {place.path for place in places(net)} - set(paths) if net is not None else set()
    told = tuple(sorted(targets))
    if not {ALL_LINEAR, *ROLES} & set(told) and _cover(told, paths, others):
        return list(told)
    if net is None:
        return sorted(paths)
    ends = {path.rsplit(".", 1)[-1] for path in paths}
    safe = {end for end in ends if not any(_named((end,), path) for path in others)}
    return sorted(safe | {path for path in paths if path.rsplit(".", 1)[-1] not in safe})


def _cover(names: tuple[str, ...], paths: Collection[str], others: Collection[str]) -> bool:
    used = all(any(_named((name,), path) for path in paths) for name in names)
    whole = all(_named(names, path) for path in paths)
    return used and whole and not any(_named(names, path) for path in others)
