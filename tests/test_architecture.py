"""The rules of CONTRIBUTING.md, checked: tiers, cycles, sizes, types, tables, start-up, tree."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sapwood"
MODULES = sorted(SOURCE.rglob("*.py"))
# Imports go to a lower tier only; members of one tier do not import each other.
TIERS: tuple[tuple[str, ...], ...] = (
    ("interfaces", "errors", "registry", "config", "files", "packages"),
    ("metrics", "translation"),
    ("tally",),
    ("tasks", "objectives", "corpora", "launch", "planning"),
    ("context", "readouts", "methods", "models", "checkpoint", "pages"),
    ("adaptation",),
    ("training", "evaluation", "testing"),
    ("tensorflow",),
    ("pool",),
    ("bridges",),
    ("search",),
    ("report",),
    ("serving",),
    ("studio",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
# The tables of tier 0 lean on each other; nothing else does.
FOUNDATION = {("registry", "errors"), ("config", "errors"), ("files", "errors")}
FOUNDATION |= {("packages", "errors"), ("packages", "config"), ("packages", "files")}
HEAVY = ("torch", "transformers", "sklearn", "scipy", "matplotlib", "pandas", "huggingface_hub")
FILE_LINES, FUNCTION_LINES, CLASS_LINES, PARAMETERS, FIELDS = 400, 60, 150, 7, 20
VAGUE = {"utils", "util", "base", "core", "manager", "helper", "helpers", "misc", "common"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(path: Path) -> str:
    """Return the module name: src/sapwood/models/store.py -> sapwood.models.store."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, at_start: bool = False) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of every import, or of those that run when the module is imported."""
    top = tree(path).body if at_start else ast.walk(tree(path))
    for node in top:
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            yield module, node.lineno
            for name in node.names:
                if f"{module}.{name.name}" in NAMES:
                    yield f"{module}.{name.name}", node.lineno


NAMES = {dotted(path): path for path in MODULES}
RANK = {family: rank for rank, tier in enumerate(TIERS) for family in tier}


def family(module: str) -> str:
    return module.split(".")[1]


def of_all(kind: type | tuple[type, ...]) -> list[tuple[Path, ast.AST]]:
    return [(p, node) for p in MODULES for node in ast.walk(tree(p)) if isinstance(node, kind)]


def functions() -> list[tuple[Path, Function]]:
    return of_all((ast.FunctionDef, ast.AsyncFunctionDef))  # type: ignore[return-value]


def lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def place(path: Path, node: ast.stmt) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno} {getattr(node, 'name', '')}"


def test_every_module_has_a_tier() -> None:
    families = {family(name) for name in NAMES if name != "sapwood"}
    assert families <= set(RANK), f"give a tier to {sorted(families - set(RANK))}"


def test_imports_go_to_a_lower_tier() -> None:
    wrong = []
    for name, path in NAMES.items():
        for target, line in imports(path):
            if not target.startswith("sapwood."):
                continue
            if name == "sapwood":
                if family(target) not in TIERS[0]:
                    wrong.append(f"{name}:{line} imports {target} on start")
                continue
            here, there = family(name), family(target)
            if here == there or (here, there) in FOUNDATION:
                continue
            if RANK[there] >= RANK[here]:
                wrong.append(f"{name}:{line} (tier {RANK[here]}) -> {target} ({RANK[there]})")
    assert wrong == []


def test_nothing_inside_imports_the_root() -> None:
    wrong = [
        place(path, node)
        for path, node in of_all((ast.Import, ast.ImportFrom))
        if (isinstance(node, ast.Import) and any(n.name == "sapwood" for n in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "sapwood")
    ]
    assert wrong == []


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {
        name: {target for target, _ in imports(path) if target in NAMES and target != name}
        for name, path in NAMES.items()
    }
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, f"cycle: {' -> '.join((*trail, name))}"
        if name not in state:
            state[name] = 1
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            state[name] = 2

    for name in sorted(graph):
        visit(name, ())


def test_no_vague_names() -> None:
    assert [str(p) for p in MODULES if VAGUE & {p.stem, p.parent.name}] == []


def test_files_are_short() -> None:
    counts = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in MODULES}
    assert {path: n for path, n in counts.items() if n > FILE_LINES} == {}


def test_functions_and_classes_are_short() -> None:
    long = [f"{place(p, f)}: {lines(f)}" for p, f in functions() if lines(f) > FUNCTION_LINES]
    for path, node in of_all(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        if lines(node) > CLASS_LINES:
            long.append(f"{place(path, node)}: {lines(node)}")
    assert long == []


def is_command(function: Function) -> bool:
    """Tell a click command, whose parameters are flags: they follow the limit of fields."""
    return any(
        ".command" in ast.unparse(d) or "click." in ast.unparse(d) for d in function.decorator_list
    )


def test_functions_take_few_parameters() -> None:
    many = []
    for path, function in functions():
        a = function.args
        names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if count > (FIELDS if is_command(function) else PARAMETERS):
            many.append(f"{place(path, function)}: {count}")
    assert many == []


def test_dataclasses_are_frozen_keyword_only_and_small() -> None:
    wrong = []
    for path, node in of_all(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        for decorator in map(ast.unparse, node.decorator_list):
            if not re.match(r"(dataclasses\.)?dataclass\b", decorator):
                continue
            fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
            if "frozen=True" not in decorator or "kw_only=True" not in decorator:
                wrong.append(f"{place(path, node)}: not frozen and keyword-only")
            if len(fields) > FIELDS:
                wrong.append(f"{place(path, node)}: {len(fields)} fields")
    assert wrong == []


def test_everything_is_typed() -> None:
    untyped = []
    for path, function in functions():
        a = function.args
        extra = [x for x in (a.vararg, a.kwarg) if x is not None]
        named = [*a.posonlyargs, *a.args, *a.kwonlyargs, *extra]
        bare = [x.arg for x in named if x.annotation is None and x.arg not in ("self", "cls")]
        if bare or function.returns is None:
            untyped.append(f"{place(path, function)}: {', '.join(bare) or 'return'}")
    assert untyped == []


def test_public_names_say_what_they_are() -> None:
    silent = [str(p.relative_to(ROOT)) for p in MODULES if not ast.get_docstring(tree(p))]
    for path in MODULES:
        outer = [x for x in tree(path).body if isinstance(x, ast.ClassDef | Function)]
        inner = [x for c in outer if isinstance(c, ast.ClassDef) for x in c.body]
        private = {id(x) for c in outer if c.name.startswith("_") for x in getattr(c, "body", [])}
        for node in (*outer, *inner):
            if not isinstance(node, ast.ClassDef | Function) or id(node) in private:
                continue
            if not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(place(path, node))
    assert silent == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_heavy_libraries_load_inside_functions(path: Path) -> None:
    """Modules that start-up reaches may import nothing heavy at their top."""
    if family_of_start(path):
        top = {name.split(".")[0] for name, _ in imports(path, at_start=True)}
        assert top & set(HEAVY) == set()


def family_of_start(path: Path) -> bool:
    name = dotted(path)
    return name == "sapwood" or family(name) in {"cli", "commands", *TIERS[0]}


@pytest.mark.parametrize(
    "code", ["import sapwood", "from sapwood.cli import main; main(['--help'])"]
)
def test_starting_is_fast_and_light(code: str) -> None:
    watch = (
        "import sys, json, time, atexit\n"
        f"heavy = {HEAVY!r}\n"
        "start = time.perf_counter()\n"
        "def tell():\n"
        "    seconds = time.perf_counter() - start\n"
        "    found = [h for h in heavy if h in sys.modules]\n"
        "    print(json.dumps([seconds, found]), file=sys.stderr)\n"
        "atexit.register(tell)\n"
        f"{code}\n"
    )
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", watch], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        times.append(time.perf_counter() - begin)
        assert json.loads(done.stderr.splitlines()[-1])[1] == []
    assert min(times) < 0.3, f"{code}: {min(times):.2f} s"


def tables() -> list[tuple[str, str, str]]:
    """Return (module, table and key, "module:attribute") of every table of names."""
    found = []
    for path in MODULES:
        for node in tree(path).body:
            value = getattr(node, "value", None)
            if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(value, ast.Dict):
                continue
            target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            for key, entry in zip(value.keys, value.values, strict=True):
                if isinstance(entry, ast.Constant) and re.fullmatch(
                    r"sapwood(\.\w+)+:\w+", str(entry.value)
                ):
                    assert key is not None
                    found.append((dotted(path), f"{target}[{ast.unparse(key)}]", str(entry.value)))
    return found


def test_the_tables_are_found() -> None:
    assert any(table.startswith("COMMANDS[") for _, table, _ in tables())
    assert any(table.startswith("METHODS[") for _, table, _ in tables())
    assert any(table.startswith("READOUTS[") for _, table, _ in tables())


@pytest.mark.parametrize(("module", "line", "entry"), tables(), ids=lambda x: str(x))
def test_table_lines_resolve(module: str, line: str, entry: str) -> None:
    target, attribute = entry.split(":")
    assert hasattr(importlib.import_module(target), attribute), f"{module} {line}"


def readme_tree() -> dict[str, str]:
    """Return path -> purpose from the README's file tree, paths relative to src/sapwood."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```[^\n]*\n(src/sapwood/[^\n]*\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, "README.md has no fenced block that starts with the line src/sapwood/"
    entries: dict[str, str] = {}
    folders: list[tuple[int, str]] = []
    for line in found.group(1).splitlines()[1:]:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        name, _, purpose = line.strip().partition(" ")
        while folders and folders[-1][0] >= depth:
            folders.pop()
        path = (folders[-1][1] if folders else "") + name
        assert purpose.strip(), f"README tree: {path} has no purpose"
        entries[path] = purpose.strip()
        if name.endswith("/"):
            folders.append((depth, path))
    return entries


def disk_tree() -> set[str]:
    """Return files and folders at depth 1 and 2; a folder's line stands for its __init__.py."""
    found = set()
    for path in SOURCE.rglob("*"):
        inside = path.relative_to(SOURCE)
        if "__pycache__" in inside.parts or path.name == "__init__.py" or len(inside.parts) > 2:
            continue
        found.add(inside.as_posix() + ("/" if path.is_dir() else ""))
    return found


def test_the_readme_tree_is_the_disk() -> None:
    listed, there = set(readme_tree()), disk_tree()
    assert (sorted(listed - there), sorted(there - listed)) == ([], [])


def tracked() -> Mapping[str, str]:
    """Return the text of every file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    texts = {}
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (raw := path.read_bytes())[:8192]:
            texts[name] = raw.decode("utf-8", "replace")
    assert "pyproject.toml" in texts
    return texts


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("open end", r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
        ("machine path", r"(?<![\w.\-/])/(wo" + r"rk|ro" + r"ot)(?![\w-])"),
    ],
)
def test_no_leftovers(what: str, pattern: str) -> None:
    left = [
        f"{name}:{number}: {what}: {line.strip()[:80]}"
        for name, text in tracked().items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert left == []
