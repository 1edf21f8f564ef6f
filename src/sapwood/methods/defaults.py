"""Learning rates that suit each method, by the kind of net: what `--learning-rate` defaults to.

A rate belongs to what is trained, so methods that act together keep each its own. The figures are
those that did best in benchmarks/methods.py, or stand between its neighbours there; LOG.md has the
measurements.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from sapwood.methods.parts import Method, parts
from sapwood.methods.together import Together, parse

_DECODER = {
    "lora": 5e-4, "dora": 5e-4, "vera": 5e-3, "ia3": 5e-3, "adapter": 1e-3, "compacter": 2e-3,
    "reft": 2e-3, "bitfit": 2e-3, "layernorm": 2e-3, "full": 2e-5, "prompt": 2e-2,
    "p_tuning": 1e-3, "prefix": 5e-3,
}  # fmt: skip
_ENCODER = {
    "lora": 1e-3, "dora": 1e-3, "vera": 5e-3, "ia3": 5e-3, "adapter": 1e-3, "compacter": 2e-3,
    "reft": 2e-3, "bitfit": 2e-3, "layernorm": 2e-3, "full": 1e-4, "prompt": 2e-2,
    "p_tuning": 1e-3, "prefix": 5e-3,
}  # fmt: skip
_OTHER = 1e-3


def learning_rate(method: Method, *, encoder: bool = False) -> float:
    """Return the rate of a method, of the first one where several act together."""
    if isinstance(method, Together):
        return learning_rate(method.methods[0], encoder=encoder)
    return (_ENCODER if encoder else _DECODER).get(method.name, _OTHER)


def times(net: Any, method: Method, *, encoder: bool = False) -> dict[str, float]:
    """Return how many times the rate of `learning_rate` each trained tensor takes, by path.

    `net`: with `method` attached; where several act together each has the rate of its own.
    """
    first = learning_rate(method, encoder=encoder)
    found = {}
    for path, part in parts(net):
        own = part.owner or method
        share = learning_rate(own, encoder=encoder) / first
        for name in part.trained():
            whole = f"{path}.{name}" if path else name
            found[whole] = share * own.rate(whole)
    return found


def configured(text: str, *, rank: int | None = None, dropout: float = 0.0) -> Method:
    """Return the methods that `text` names (see `together.parse`), with what else was asked for.

    `rank` and `dropout` go to those LoRA kinds that the text leaves as they come; alpha is then
    twice the rank.
    """
    made = parse(text)
    some = made.methods if isinstance(made, Together) else (made,)
    changed = tuple(_changed(method, rank, dropout) for method in some)
    return replace(made, methods=changed) if isinstance(made, Together) else changed[0]


def _changed(method: Method, rank: int | None, dropout: float) -> Method:
    names = {field.name for field in fields(method)}  # type: ignore[arg-type]
    plain = type(method)()
    settings: dict[str, Any] = {}
    ranked = rank is not None and {"rank", "alpha"} <= names
    if ranked and all(getattr(method, n) == getattr(plain, n) for n in ("rank", "alpha")):
        settings = {"rank": rank, "alpha": 2.0 * (rank or 0)}
    if dropout and "dropout" in names and not method.dropout:  # type: ignore[attr-defined]
        settings["dropout"] = dropout
    changed: Method = replace(method, **settings)  # type: ignore[type-var]
    return changed
