"""What methods leave in a net: parts, each around one module of the base, with trained tensors.

Every method is made of parts, and everything done with a method after it was attached (collect its
tensors, switch it off, merge it, take it off) is done with its parts, here, once for all methods.
Parts of several methods may wrap one module: the later one is outside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sapwood.errors import ConfigError, SapwoodError

INSIDE = "base_layer"


class Method(Protocol):
    """What changes weights: a frozen dataclass whose fields are its whole configuration.

    `name` is its key in METHODS. What is trained hangs in the net's parts.
    """

    name: ClassVar[str]

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """Freeze the base of `net`, add the trained parts, and return the net to call.

        What starts at random starts from `seed` alone. Raises ConfigError when a target matches
        nothing, or when the method makes no sense for this kind of net.
        """
        ...

    def merge(self, net: Any) -> Any:
        """Return `net`, this method attached, as a plain net again; see `merge` below."""
        return merge(net)

    def describe(self) -> str:
        """Return it in words for the report."""
        return self.name

    def rate(self, name: str) -> float:
        """Return how many times the learning rate the trained tensor `name` takes."""
        return 1.0

    def kept(self) -> Method:
        """Return the configuration of what an adaptation keeps of it; see `Part.stored`."""
        return self


class Part(nn.Module):
    """A trained piece around `base_layer`, a module of the base, which it stands in for.

    `FILES`: the names that trained parameters have in files, where they differ from those of the
    attributes. `enabled` False: the base's module alone answers. A part that can be folded into
    the base's weights overrides `fold`.
    """

    FILES: ClassVar[Mapping[str, str]] = {}
    base_layer: nn.Module

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.enabled = True
        self.owner: Method | None = None  # where several methods act together: its own one
        self.merged_from: dict[str, Tensor] | None = None
        self.training = base_layer.training

    @property
    def weight(self) -> Tensor:
        """The base's weight; some nets read its dtype."""
        return self.base_layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The base's bias, or None."""
        return self.base_layer.bias  # type: ignore[return-value]

    @property
    def active(self) -> bool:
        """Whether it acts in the forward pass."""
        return self.enabled and self.merged_from is None

    def trained(self) -> dict[str, nn.Parameter]:
        """Return its own trained parameters by their names in files."""
        own = (
            (name, parameter)
            for name, parameter in self.named_parameters()
            if not name.startswith(INSIDE + ".")
        )
        return {self.FILES.get(name, name): p for name, p in own if p.requires_grad}

    def stored(self) -> dict[str, Tensor]:
        """Return what an adaptation keeps of it; a method's `kept` says of which configuration."""
        return dict(self.trained())

    def fold(self) -> dict[str, Tensor]:
        """Return the base's tensors (names inside `base_layer`) with this part folded in, float32.

        Raises ConfigError (E-CONFIG-023) when it is no linear change of the base's weights.
        """
        raise ConfigError(
            "E-CONFIG-023",
            f"{type(self).__name__} cannot be merged into the base's weights.",
            fix="keep it beside the base, as an adaptation",
        )

    def remove(self, net: Any, path: str) -> None:
        """Put the base's module back in its place, `path`."""
        net.set_submodule(path, self.base_layer)

    @torch.no_grad()
    def merge(self) -> None:
        """Fold it into the base's tensors, keeping the originals for `unmerge`."""
        if self.merged_from is not None:
            return
        changed = self.fold()
        self.merged_from = {name: self._inner(name).data for name in changed}
        for name, tensor in changed.items():
            held = self._inner(name)
            held.data = tensor.to(held.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the base's own tensors back, bit for bit."""
        for name, tensor in (self.merged_from or {}).items():
            self._inner(name).data = tensor
        self.merged_from = None

    def _inner(self, name: str) -> Tensor:
        owner = innermost(self.base_layer)
        found: Tensor = owner.get_parameter(name)
        return found


class Guest(Part):
    """A part that wraps nothing: it is a child of a module of the base, for what no wrapper can do.

    Its path is that of the module and its own name there; `base_layer` is an empty stand-in.
    """

    def __init__(self, host: nn.Module) -> None:
        super().__init__(nn.Identity().train(host.training))

    def remove(self, net: Any, path: str) -> None:
        """Leave the module it is a child of."""
        host, _, name = path.rpartition(".")
        delattr(net.get_submodule(host), name)


def innermost(module: nn.Module) -> nn.Module:
    """Return the base's own module under all parts around it."""
    while isinstance(module, Part):
        module = module.base_layer
    return module


def logical(path: str) -> str:
    """Return the path that a module has in the plain base.

    >>> logical("layers.0.mlp.base_layer.down_proj.base_layer")
    'layers.0.mlp.down_proj'
    """
    return ".".join(name for name in path.split(".") if name != INSIDE)


def parts(net: Any) -> Iterator[tuple[str, Part]]:
    """Yield (path in the plain base, part) of every part, the outer ones first."""
    for path, module in net.named_modules():
        if isinstance(module, Part):
            yield logical(path), module


def train(net: Any, on: bool = True) -> None:
    """Let what methods left in a net train, or answer; the base inside it stays as it is.

    So its own dropout stays off: the loss then does not depend on how rows are packed, nor on the
    engine, and on SST-2 dropout gained nothing (LoRA on an encoder, one seed).
    """
    for _, part in parts(net):
        part.training = on


def weights(net: Any) -> dict[str, nn.Parameter]:
    """Return the trained tensors of every part, by path in the plain base.

    Raises ConfigError (E-CONFIG-024) when two parts give one name: they could not be kept apart.
    """
    found: dict[str, nn.Parameter] = {}
    for path, part in parts(net):
        for name, parameter in part.trained().items():
            whole = f"{path}.{name}" if path else name
            if whole in found:
                raise ConfigError(
                    "E-CONFIG-024",
                    f"Two methods train '{whole}': their weights cannot be kept apart.",
                    fix="combine different methods, or merge the first one",
                )
            found[whole] = parameter
    return found


def transposed(net: Any) -> bool:
    """Return whether wrapped layers keep their weights as (inputs, outputs), as GPT-2's do."""
    return any(isinstance(innermost(part), Conv1D) for _, part in parts(net))


def stored(net: Any) -> dict[str, Tensor]:
    """Return copies of what an adaptation keeps of the attached methods, by path."""
    return {
        f"{path}.{name}" if path else name: tensor.detach().clone()
        for path, part in parts(net)
        for name, tensor in part.stored().items()
    }


def weights_key(net: Any) -> str:
    """Return a digest of the content of every active part ("" for none)."""
    digest = sha256()
    for path, part in parts(net):
        if part.active:
            digest.update(f"{path} {type(part).__name__} {part.extra_repr()}".encode())
            for name, tensor in sorted(part.trained().items()):
                digest.update(name.encode())
                content = tensor.detach().cpu().contiguous().view(torch.uint8)
                digest.update(content.numpy().tobytes())
    return digest.hexdigest() if digest.digest() != sha256().digest() else ""


@contextmanager
def disabled(net: Any) -> Iterator[None]:
    """Run the plain base inside the block: parts are skipped, then as before."""
    before = [(part, part.enabled) for _, part in parts(net)]
    try:
        for part, _ in before:
            part.enabled = False
        yield
    finally:
        for part, enabled in before:
            part.enabled = enabled


def detach(net: Any, keep: Collection[Part] = ()) -> Any:
    """Remove every part but those in `keep`; without any, the net is the base, bit for bit."""
    kept = set(map(id, keep))
    for _, part in parts(net):  # the outer ones first: they folded into what inner ones had left
        if id(part) not in kept:
            part.unmerge()
    return _unwrapped(net, kept)


def merge(net: Any) -> Any:
    """Return `net` with every part folded into the base's weights and the wrappers gone.

    Inner parts are folded first. Raises ConfigError (E-CONFIG-023) naming a part that cannot be;
    the net is then as it was.
    """
    found = [part for _, part in parts(net)]
    try:
        for part in reversed(found):
            part.merge()
    except SapwoodError:
        for part in found:
            part.unmerge()
        raise
    return _unwrapped(net)


def _unwrapped(net: Any, kept: Collection[int] = ()) -> Any:
    for path, part in reversed([(p, m) for p, m in net.named_modules() if isinstance(m, Part)]):
        if id(part) not in kept:
            part.remove(net, path)
    return net
