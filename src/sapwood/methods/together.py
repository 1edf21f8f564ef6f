"""Several methods on one net, as one: LoRA + adapter + IA3, prefix + parallel adapter (MAM), ...

MAM: He et al. 2022 (arXiv 2110.04366). `gated`: a trained gate a token on every LoRA branch and
bottleneck, as in UniPELT (Mao et al. 2022, arXiv 2110.07577).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

from sapwood.errors import ConfigError, SapwoodError
from sapwood.methods import METHODS
from sapwood.methods.adapter import Added
from sapwood.methods.gate import Gate
from sapwood.methods.low_rank import LowRank
from sapwood.methods.parts import Method, Part, detach, parts, weights
from sapwood.methods.settings import from_settings, settings
from sapwood.registry import called, terms

_GATED = "gated"


@dataclass(frozen=True, kw_only=True)
class Together(Method):
    """Methods that act on one net at once, attached in this order.

    `methods`: one or more; `gated`: each LoRA branch and bottleneck gets a gate, which starts at
    0.98 and reads what the part reads. Parts of other methods have none.
    """

    name: ClassVar[str] = "together"
    methods: tuple[Method, ...]
    gated: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not self.methods:
            problems.append("at least one method is needed")
        strange = [m for m in self.methods if not hasattr(m, "attach")]
        problems += [f"{type(m).__name__} is no method" for m in strange]
        if any(isinstance(method, Together) for method in self.methods):
            problems.append("they cannot be nested; name all methods side by side")
        twice = [m for n, m in enumerate(self.methods) if m in self.methods[:n]]
        problems += [f"{method.name} is given twice, with equal settings" for method in twice]
        if problems:
            raise ConfigError("E-CONFIG-096", "The methods are wrong.", details=problems)

    def attach(self, net: Any, *, seed: int = 0) -> Any:
        """See `Method`. When one method cannot be attached none is.

        Raises what the methods raise, and ConfigError: E-CONFIG-024 two of them train tensors of
        one name, E-CONFIG-096 nothing could take a gate.
        """
        before = [part for _, part in parts(net)]
        known = set(map(id, before))
        try:
            for number, method in enumerate(self.methods):
                net = method.attach(net, seed=seed + number)
                for _, part in parts(net):
                    if id(part) not in known and part.owner is None:
                        part.owner = method
            if self.gated:
                _open_gates([part for _, part in parts(net) if id(part) not in known])
            weights(net)
        except SapwoodError:
            detach(net, keep=before)
            raise
        return net

    def describe(self) -> str:
        """Return it in words for the report."""
        words = " + ".join(method.describe() for method in self.methods)
        return f"{words}, gated" if self.gated else words

    def rate(self, name: str) -> float:
        """Return how many times the learning rate a trained tensor takes.

        A method says 1 of tensors that are not its own.
        """
        return prod(method.rate(name) for method in self.methods)

    def kept(self) -> Together:
        """Return the configuration of what `stored` returns."""
        return replace(self, methods=tuple(method.kept() for method in self.methods))

    def to_settings(self) -> dict[str, Any]:
        """Return the whole configuration, JSON-ready; `from_settings` makes it again."""
        methods = [{"name": m.name, "settings": settings(m)} for m in self.methods]
        return {"methods": methods, "gated": self.gated}

    @classmethod
    def from_settings(cls, content: Mapping[str, Any]) -> Together:
        """Return the methods that `to_settings` wrote. Raises ConfigError for an unknown name."""
        made = [from_settings(each["name"], each["settings"]) for each in content["methods"]]
        return cls(methods=tuple(made), gated=bool(content["gated"]))


def _open_gates(added: list[Part]) -> None:
    """Give every branch and bottleneck a gate; all that cannot take one are named."""
    branches = [part for part in added if isinstance(part, LowRank)]
    bottlenecks = [part for part in added if isinstance(part, Added)]
    scaled = sorted({type(part).__name__ for part in branches if part.gain() is not None})
    if scaled or not (branches or bottlenecks):
        why = "no LoRA branch and no adapter is among them"
        if scaled:
            why = f"{', '.join(scaled)} scales the whole output, which depends on its branch"
        raise ConfigError(
            "E-CONFIG-096", f"These methods cannot be gated: {why}.", fix="gate lora or adapter"
        )
    for branch in branches:
        branch.branch_gate = Gate(branch.in_features, branch.weight.device)
    for part in bottlenecks:
        part.adapter_gate = Gate(part.hidden, part.device)


def wants_text(method: Method) -> bool:
    """Tell whether a method starts from a text (prefix, prompt, p_tuning) that is not given yet."""
    some = method.methods if isinstance(method, Together) else (method,)
    return any(getattr(m, "start", "") == "text" and not getattr(m, "text_ids", ()) for m in some)


def with_text(method: Method, ids: Sequence[int]) -> Method:
    """Return `method` with the token ids of a text to start from, wherever one is wanted."""
    if not wants_text(method):
        return method
    if isinstance(method, Together):
        return replace(method, methods=tuple(with_text(m, ids) for m in method.methods))
    filled: Method = replace(method, text_ids=tuple(ids))  # type: ignore[type-var]
    return filled


def parse(text: str) -> Method:
    """Return the method that a line names: "lora", "lora(rank=4)+ia3", "gated(lora+adapter)".

    Values are numbers, True, words and tuples, quoted where a word has a dash. Raises ConfigError:
    E-CONFIG-001 an unknown method, E-CONFIG-096 naming everything else that is wrong with it.

    >>> parse("lora(rank=4) + adapter(placement=parallel)").describe()
    'lora r=4 + parallel adapter, width 48'
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise _wrong(text, [error.msg]) from None
    gated = isinstance(tree, ast.Call) and ast.unparse(tree.func) == _GATED
    if gated:
        assert isinstance(tree, ast.Call)
        if len(tree.args) != 1 or tree.keywords:
            raise _wrong(text, ["gated takes methods joined by +, as gated(lora+adapter)"])
        tree = tree.args[0]
    problems: list[str] = []
    found = [_one(node, problems) for node in terms(tree)]
    made = tuple(method for method in found if method is not None)
    if problems:
        raise _wrong(text, problems)
    return made[0] if len(made) == 1 and not gated else Together(methods=made, gated=gated)


def _wrong(text: str, problems: list[str]) -> ConfigError:
    fix = 'write it as "lora(rank=4)+adapter(width=16)"'
    return ConfigError("E-CONFIG-096", f"'{text}' names no methods.", details=problems, fix=fix)


def _one(node: ast.expr, problems: list[str]) -> Method | None:
    name = node.func if isinstance(node, ast.Call) else node
    if isinstance(name, ast.Name) and name.id == Together.name:
        problems.append("join methods by + instead of naming 'together'")
        return None
    made: Method | None = called("method", METHODS, node, problems)
    return made
