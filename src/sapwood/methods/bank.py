"""Many adaptations on one frozen base in one batch, named: low-rank ones, IA3 and bottlenecks.

Which of them a row of tokens goes through is said for each pass: row -> {name: weight}, so weighted
sums and rows of the plain base come free. `bank_layer` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sapwood.errors import ConfigError, ModelError
from sapwood.methods.adapter import Bottleneck, Tap
from sapwood.methods.bank_layer import BankLayer
from sapwood.methods.dora import DoraLayer
from sapwood.methods.ia3 import Ia3Layer
from sapwood.methods.lora import LoraLayer
from sapwood.methods.parts import Method, Part, detach, innermost, parts
from sapwood.methods.sharing import Passing, Sharing, Use, sharing_of
from sapwood.methods.vera import VeraLayer
from sapwood.registry import did_you_mean

# What a part trains when it is no more than the bank reproduces: a gate, say, adds a name.
_PLAIN: dict[type[Part], set[str]] = {
    LoraLayer: {"lora_A.weight", "lora_B.weight"},
    DoraLayer: {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"},
    VeraLayer: {"vera_lambda_b", "vera_lambda_d"},
    Ia3Layer: {"ia3_l"},
    Bottleneck: {f"adapter_{a}.{b}" for a in ("down", "up") for b in ("weight", "bias")},
    Tap: set(),
}


class Bank:
    """N named adaptations attached to one frozen base, as parts; by itself the base is plain.

    `methods`: LoRA, DoRA, VeRA, IA3 or bottleneck adapters by name; each starts as it would alone
    from `seed`, or from its own in a mapping.
    Inside `using` rows go through adaptations, outside of it through none. Raises ConfigError:
    E-CONFIG-096 a method that cannot be mixed, E-CONFIG-097 the net has parts already.
    """

    def __init__(
        self, net: Any, methods: Mapping[str, Method], *, seed: int | Mapping[str, int] = 0
    ) -> None:
        if any(True for _ in parts(net)):
            raise ConfigError(
                "E-CONFIG-097",
                "A bank needs a plain base: this one has a method attached.",
                fix="detach it, or give it to the bank as one of its adaptations",
            )
        self.net, self.methods, self.state = net, dict(methods), Passing()
        self._made: dict[str, dict[str, Part]] = {}
        for name, method in self.methods.items():
            try:
                method.attach(net, seed=seed if isinstance(seed, int) else seed[name])
                for path, part in parts(net):
                    self._made.setdefault(path, {})[name] = part
                    check_mixable(name, method, part)
            finally:
                detach(net)
        for path, here in self._made.items():
            net.set_submodule(path, _layer(self, net.get_submodule(path), here))

    def admit(self, name: str, method: Method, made: Mapping[str, Part]) -> None:
        """Take in one adaptation more, or another under its name; the others stay as they are.

        `made`: the parts of `method` by path, as it attached them, trained, to a net of the same
        weights. Raises ConfigError (E-CONFIG-096) for one that cannot be mixed.
        """
        self.changed({name: (method, made)})()

    def release(self, name: str) -> None:
        """Let one adaptation go, if it is there."""
        self.changed({}, [name])()

    def changed(
        self,
        coming: Mapping[str, tuple[Method, Mapping[str, Part]]],
        leaving: Collection[str] = (),
    ) -> Callable[[], None]:
        """Make the layers of a change, and return what puts them in place, a matter of moments.

        So passes may run while the layers are made, but not another change. See `admit`.
        """
        for name, (method, made) in coming.items():
            for part in made.values():
                check_mixable(name, method, part)
        gone = {*leaving, *coming}
        methods = {name: method for name, method in self.methods.items() if name not in gone}
        methods |= {name: method for name, (method, _) in coming.items()}
        whole = _parts_after(self._made, {n: made for n, (_, made) in coming.items()}, gone)
        layers: dict[str, nn.Module] = {}
        for path, here in whole.items():
            if here is not self._made.get(path):
                now = self.net.get_submodule(path)
                layers[path] = _layer(self, now, here) if here else innermost(now)

        def put() -> None:
            for path, layer in layers.items():
                self.net.set_submodule(path, layer)
            self.methods = methods
            self._made = {path: here for path, here in whole.items() if here}

        return put

    @property
    def names(self) -> tuple[str, ...]:
        """Return the adaptations' names."""
        return tuple(self.methods)

    def weights(self, name: str) -> dict[str, nn.Parameter]:
        """Return one adaptation's trained tensors by the names they would have alone."""
        _check(self, [name])
        return {
            f"{path}.{inner}": parameter
            for path, part in parts(self.net)
            if isinstance(part, BankLayer)
            for inner, parameter in part.owned.get(name, {}).items()
        }

    def stored(self, name: str) -> dict[str, Tensor]:
        """Return copies of what an adaptation keeps, as `parts.stored` would alone."""
        return {path: tensor.detach().clone() for path, tensor in self.weights(name).items()}

    @torch.no_grad()
    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Fill one adaptation with trained tensors. Raises ModelError (E-MODEL-023)."""
        own = self.weights(name)
        wrong = sorted(set(own) ^ set(tensors))
        wrong += [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
        if wrong:
            raise ModelError(
                "E-MODEL-023",
                f"{len(wrong)} tensors of '{name}' do not map onto the bank.",
                details=wrong[:8],
                fix="give the method with which they were trained",
            )
        for path, parameter in own.items():
            parameter.copy_(tensors[path])

    @contextmanager
    def using(self, uses: Use | Mapping[int, Use], rows: Tensor | None = None) -> Iterator[None]:
        """Run the forward passes inside through adaptations.

        `rows`: the row of each token, in the shape of the token ids (see `Pack.rows`), and `uses`:
        row -> {name: weight}; a row that is not there is one of the plain base. Without `rows` all
        tokens use the one {name: weight}. Where activations are computed again in the backward
        pass it belongs inside, too. Raises ConfigError (E-CONFIG-098) for an unknown name.
        """
        with self.passing(self.shared(uses, rows)):
            yield

    @contextmanager
    def passing(self, sharing: Sharing) -> Iterator[None]:
        """Run the forward passes inside as `shared` said.

        Passes of one `Sharing` object without a gradient prepare each layer once: the trained
        tensors must not change between them.
        """
        before = self.state.sharing
        self.state.sharing = sharing
        try:
            yield
        finally:
            self.state.sharing = before

    def shared(self, uses: Any, rows: Tensor | None = None) -> Sharing:
        """Return who owns which tokens; see `using`."""
        each: dict[int, Use] = {0: uses} if rows is None else dict(uses)
        wanted = {name for use in each.values() for name, weight in use.items() if weight}
        _check(self, wanted)
        names = tuple(name for name in self.methods if name in wanted)
        return sharing_of(names, each, rows, self.net.get_input_embeddings().weight.device)

    def detach(self) -> Any:
        """Take everything off; the net is the base it was, bit for bit."""
        return detach(self.net)


def _layer(bank: Bank, now: nn.Module, here: Mapping[str, Part]) -> BankLayer:
    """Return the layer with `here` in the place of `now`, with what that keeps ready."""
    made = BankLayer(innermost(now), here, bank.state).train(bank.net.training)
    if isinstance(now, BankLayer):
        made.stacks = now.stacks
    return made


def _check(bank: Bank, names: Collection[str]) -> None:
    """Raise ConfigError (E-CONFIG-098) for a name that the bank does not have."""
    unknown = [name for name in names if name not in bank.methods]
    if unknown:
        raise ConfigError(
            "E-CONFIG-098",
            f"The bank has no adaptation '{unknown[0]}'.{did_you_mean(unknown[0], bank.names)}",
            fix=f"use one of: {', '.join(bank.names)}",
        )


def _parts_after(
    before: Mapping[str, dict[str, Part]],
    coming: Mapping[str, Mapping[str, Part]],
    gone: Collection[str],
) -> dict[str, dict[str, Part]]:
    """Return path -> adaptation -> part after a change; what stays alike is the same object."""
    found: dict[str, dict[str, Part]] = {}
    for path in [*before, *(path for made in coming.values() for path in made)]:
        here = before.get(path, {})
        kept = {name: part for name, part in here.items() if name not in gone}
        more = {name: made[path] for name, made in coming.items() if path in made}
        found[path] = {**kept, **more} if more or len(kept) < len(here) else here
    return found


def check_mixable(name: str, method: Any, part: Part) -> None:
    """Raise ConfigError (E-CONFIG-096) for a part that a bank cannot reproduce."""
    why = ""
    if type(part) not in _PLAIN:
        known = "LoRA, DoRA, VeRA, IA3 and bottlenecks that read a sublayer"
        why = f"only {known} can be mixed in one batch, not {type(part).__name__}"
    elif getattr(part.owner or method, "start", "plain") == "pissa":
        why = "its frozen starting point is no part of the base that all share; use start='eva'"
    elif isinstance(part.base_layer, Part) or innermost(part) is not part.base_layer:
        why = "it wraps one layer twice"
    elif set(part.trained()) != _PLAIN[type(part)]:
        why = "it has a gate or trains more than low-rank rows"
    if why:
        raise ConfigError(
            "E-CONFIG-096",
            f"'{name}' ({method.describe()}) cannot be in a bank: {why}.",
            fix="train and serve it alone",
        )
