"""A line that names an objective, read: "mlm(rate=0.15)+nsp", "mix(0.7*span+0.3*prefix_lm)"."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sapwood.errors import ConfigError
from sapwood.objectives.mixtures import Mix, Sum
from sapwood.objectives.nsp import Pairwise
from sapwood.objectives.windows import Objective
from sapwood.registry import did_you_mean, resolve

_MIX = "mix"


def parse(text: str, table: Mapping[str, str]) -> Objective:
    """Return the objective that a line names.

    Raises ConfigError: E-CONFIG-001 an unknown objective, E-CONFIG-202 and -203 as the objectives
    do, E-CONFIG-205 everything else that is wrong with the line.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise _wrong(text, [error.msg]) from None
    problems: list[str] = []
    if isinstance(tree, ast.Call) and ast.unparse(tree.func) == _MIX:
        if len(tree.args) != 1 or tree.keywords:
            raise _wrong(text, ["mix takes objectives joined by +, as mix(0.7*span+0.3*ul2)"])
        rows = [_weighted(node, problems) for node in _terms(tree.args[0])]
        members = [_one(node, table, problems) for _, node in rows]
        if not problems:
            weights = tuple(weight for weight, _ in rows)
            return Mix(members=tuple(m for m in members if m), weights=weights)
    else:
        made = [_one(node, table, problems) for node in _terms(tree)]
        if not problems:
            return _together(text, [each for each in made if each])
    raise _wrong(text, problems)


def _together(text: str, made: list[Objective]) -> Objective:
    if len(made) == 1:
        return made[0]
    pairs = [each for each in made if isinstance(each, Pairwise)]
    others = [each for each in made if not isinstance(each, Pairwise)]
    if len(made) != 2 or len(pairs) != 1:
        raise ConfigError(
            "E-CONFIG-203",
            f"'{text}' cannot be in one example.",
            fix="add one of nsp or sop to one of mlm, rtd or plm; others take turns: mix(a+b)",
        )
    return Sum(tokens=others[0], pair=pairs[0])


def _wrong(text: str, problems: list[str]) -> ConfigError:
    fix = 'write it as "mlm", "mlm(rate=0.15)+nsp" or "mix(0.7*span+0.3*prefix_lm(form=pair))"'
    return ConfigError("E-CONFIG-205", f"'{text}' names no objective.", details=problems, fix=fix)


def _terms(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_terms(node.left), *_terms(node.right)]
    return [node]


def _weighted(node: ast.expr, problems: list[str]) -> tuple[float, ast.expr]:
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return 1.0, node
    if isinstance(node.left, ast.Constant) and isinstance(node.left.value, int | float):
        return float(node.left.value), node.right
    problems.append(f"'{ast.unparse(node.left)}' is no weight; write a number before *")
    return 1.0, node.right


def _one(node: ast.expr, table: Mapping[str, str], problems: list[str]) -> Objective | None:
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    if not isinstance(call.func, ast.Name):
        problems.append(f"'{ast.unparse(node)}' is no objective with settings")
        return None
    name = call.func.id
    kind = resolve("objective", table, name)
    known = {field.name: field.default for field in fields(kind)}
    given: dict[str, Any] = {}
    bare = [ast.unparse(value) for value in call.args]
    wrong = [f"{name}: '{value}' has no name; write setting=value" for value in bare]
    for keyword in call.keywords:
        option = keyword.arg or "**"
        if option not in known:
            hint = did_you_mean(option, known) or f" It has {', '.join(known) or 'none'}."
            wrong.append(f"{name} has no setting '{option}'.{hint}")
            continue
        try:
            given[option] = _fitting(keyword.value, known[option])
        except ValueError as error:
            wrong.append(f"{name}: {option}={ast.unparse(keyword.value)}: {error}")
    problems += wrong
    if wrong:
        return None
    made: Objective = kind(**given)
    return made


def _fitting(node: ast.expr, default: Any) -> Any:
    """Return the value of `node` as a setting of the type of `default`, or raise ValueError."""
    if isinstance(node, ast.Name):
        value: Any = node.id
    else:
        try:
            value = ast.literal_eval(node)
        except ValueError:
            raise ValueError("it is neither a number nor a word; quote it") from None
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        raise ValueError(f"it must be of the type {type(default).__name__}")
    return value
