"""Full fine-tuning: the base's own tensors train, and the originals come back at the end.

Memory, a trained number in float32: 4 bytes the weight, 4 the original, 4 its gradient, 8 AdamW's
two averages: five times the base, where LoRA needs little more than the base alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sapwood.errors import ConfigError
from sapwood.methods.lora import freeze
from sapwood.methods.low_rank import LowRank
from sapwood.methods.parts import Guest, Method, logical, parts
from sapwood.methods.places import kind_of, places, unread
from sapwood.registry import did_you_mean

HOME = "full_tuning"


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Train the base itself.

    `tensors`: names of tensors or modules, whole paths or the ends of them; by default every
    tensor but those of an encoder's pooler, whose output nobody reads. Tied tensors stay tied.
    """

    name: ClassVar[str] = "full"
    tensors: tuple[str, ...] = ()

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`; nothing is random.

        Raises ConfigError: E-CONFIG-021 naming every name that matches nothing, E-CONFIG-025 a
        tensor is read by a part that gives it no gradient, or trains already, E-CONFIG-094 the base
        is in a number format too coarse for small steps.
        """
        chosen = self._chosen(net)
        _check_free(net, chosen)
        narrow = sorted({str(p.dtype)[6:] for p in chosen.values() if p.dtype not in _WIDE})
        if narrow:
            raise ConfigError(
                "E-CONFIG-094",
                f"The base is in {', '.join(narrow)}: most steps would round to nothing.",
                fix="load it with --dtype float32",
            )
        freeze(net)
        net.add_module(HOME, Trained(net, chosen))
        return net

    def describe(self) -> str:
        """Return it in words for the report."""
        return f"full ({', '.join(self.tensors)})" if self.tensors else "full"

    def _chosen(self, net: Any) -> dict[str, nn.Parameter]:
        known: dict[str, nn.Parameter] = {}
        seen: set[int] = set()
        for place in places(net):
            for name, tensor in place.module._parameters.items():
                if tensor is None or id(tensor) in seen or (not self.tensors and unread(place)):
                    continue
                seen.add(id(tensor))
                known[f"{place.path}.{name}" if place.path else name] = tensor
        if not self.tensors:
            return known
        missing, chosen = [], set()
        for wanted in self.tensors:
            pattern = re.compile(rf"(.*\.)?{re.escape(wanted)}(\..*)?")
            found = {name for name in known if pattern.fullmatch(name)}
            if not found:
                missing.append(f"'{wanted}' matches no tensor.{did_you_mean(wanted, known)}")
            chosen |= found
        if missing:
            raise ConfigError(
                "E-CONFIG-021", "The tensors of full must all take effect.", details=missing
            )
        return {name: tensor for name, tensor in known.items() if name in chosen}


_WIDE = (torch.float32, torch.float64)


def _check_free(net: Any, chosen: dict[str, nn.Parameter]) -> None:
    if hasattr(net, HOME):
        raise ConfigError(
            "E-CONFIG-025",
            f"Tensors of this '{kind_of(net)}' net train already.",
            fix="name them all in one full",
        )
    branched = {path for path, part in parts(net) if isinstance(part, LowRank)}
    both = [name for name in chosen if name.rpartition(".")[0] in branched]
    if both:
        raise ConfigError(
            "E-CONFIG-025",
            f"{len(both)} of the tensors are read by low-rank branches, which keep them frozen.",
            details=both[:4],
            fix="name other tensors, as tensors=embed_tokens",
        )


class Trained(Guest):
    """Tensors of the base that train in their places, with the originals for later.

    Switching it off swaps the originals in, without a copy. The digest of what is attached reads
    every trained number (about half a second a gigabyte).
    """

    def __init__(self, net: nn.Module, chosen: dict[str, nn.Parameter]) -> None:
        super().__init__(net)
        self._chosen = chosen  # the base's own parameters: not a second time under this module
        self._other = {name: tensor.data for name, tensor in chosen.items()}
        for tensor in chosen.values():
            tensor.data = tensor.data.clone()
            tensor.requires_grad_(True)

    @property
    def enabled(self) -> bool:
        """Whether the trained tensors are in their places; the originals are, otherwise."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        """Swap the tensors where that changes."""
        if value != getattr(self, "_enabled", True):
            self._swap()
        self._enabled = value

    def _swap(self) -> None:
        for name, tensor in self._chosen.items():
            other = self._other[name].to(tensor.device)
            self._other[name], tensor.data = tensor.data, other

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the tensors by their names in the base."""
        return {logical(n): tensor for n, tensor in self._chosen.items() if tensor.requires_grad}

    def stored(self) -> dict[str, Tensor]:
        """Return the trained tensors, switched off or not."""
        return {n: t.data if self.enabled else self._other[n] for n, t in self._chosen.items()}

    def fold(self) -> dict[str, Tensor]:
        """Return nothing: they are in the base already."""
        return {}

    def remove(self, net: Any, path: str) -> None:
        """Put the originals back, unless the trained tensors were merged."""
        if self.merged_from is None:
            self.enabled = False
        for tensor in self._chosen.values():
            tensor.requires_grad_(False)
            tensor.grad = None
        super().remove(net, path)
