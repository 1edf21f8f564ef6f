"""A line that names an objective, read: "mlm(rate=0.15)+nsp", "mix(0.7*span+0.3*prefix_lm)"."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from sapwood.errors import ConfigError
from sapwood.objectives.mixtures import Mix, Sum
from sapwood.objectives.nsp import Pairwise
from sapwood.objectives.windows import Objective
from sapwood.registry import called, terms

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
        rows = [_weighted(node, problems) for node in terms(tree.args[0])]
        members = [called("objective", table, node, problems) for _, node in rows]
        if not problems:
            weights = tuple(weight for weight, _ in rows)
            return Mix(members=tuple(m for m in members if m), weights=weights)
    else:
        made = [called("objective", table, node, problems) for node in terms(tree)]
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


def _weighted(node: ast.expr, problems: list[str]) -> tuple[float, ast.expr]:
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return 1.0, node
    if isinstance(node.left, ast.Constant) and isinstance(node.left.value, int | float):
        return float(node.left.value), node.right
    problems.append(f"'{ast.unparse(node.left)}' is no weight; write a number before *")
    return 1.0, node.right
