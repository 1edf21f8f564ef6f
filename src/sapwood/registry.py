"""Tables of names: plain dicts ``name -> "module:attribute"``, imported on use."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from sapwood.errors import ConfigError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of `known`, or an empty string.

    >>> did_you_mean("lorra", ["lora", "prefix"])
    " Did you mean 'lora'?"
    """
    near = get_close_matches(name.lower(), {k.lower(): k for k in known}, n=1, cutoff=0.6)
    originals = {k.lower(): k for k in known}
    return f" Did you mean '{originals[near[0]]}'?" if near else ""


def resolve(family: str, table: Mapping[str, str], name: str) -> Any:
    """Import and return the member `name` of a family's `table`.

    Raises ConfigError (E-CONFIG-001) that lists what is known when `name` is not in the table.
    """
    if name not in table:
        raise ConfigError(
            "E-CONFIG-001",
            f"Unknown {family} '{name}'.{did_you_mean(name, table)}",
            fix=f"use one of: {', '.join(table)}",
        )
    module, attribute = table[name].split(":")
    return getattr(import_module(module), attribute)


def terms(node: ast.expr) -> list[ast.expr]:
    """Return what a sum adds, from left to right; of anything else, itself."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*terms(node.left), *terms(node.right)]
    return [node]


def called(family: str, table: Mapping[str, str], node: ast.expr, problems: list[str]) -> Any:
    """Return the dataclass of a family's `table` that `node` names, made with its settings.

    `node`: a name, or a call with named settings: numbers, True, words and tuples, quoted where a
    word has a dash. What is wrong is added to `problems`; None where there are any. Raises
    ConfigError (E-CONFIG-001) for a name that is not in the table.
    """
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    if not isinstance(call.func, ast.Name):
        problems.append(f"'{ast.unparse(node)}' is no {family} with settings")
        return None
    name = call.func.id
    kind = resolve(family, table, name)
    known = {field.name: field for field in fields(kind)}
    given: dict[str, Any] = {}
    bare = [ast.unparse(value) for value in call.args]
    problems += [f"{name}: '{value}' has no name; write setting=value" for value in bare]
    for keyword in call.keywords:
        option = keyword.arg or "**"
        if option not in known:
            hint = did_you_mean(option, known) or f" It has {', '.join(known) or 'none'}."
            problems.append(f"{name} has no setting '{option}'.{hint}")
            continue
        try:
            given[option] = _fitting(_value(keyword.value), _default(known[option]))
        except (ValueError, TypeError) as error:
            problems.append(f"{name}: {option}={ast.unparse(keyword.value)}: {error}")
    return None if problems else kind(**given)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(item) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError("it is neither a number nor a word; quote it") from None


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None


def _fitting(value: Any, default: Any) -> Any:
    """Return `value` as a setting of the type of `default`; ValueError when it is of another."""
    if default is None:
        return value
    if isinstance(default, tuple) and not isinstance(value, tuple):
        value = (value,)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise ValueError(f"it must be of the type {type(default).__name__}")
    return value
