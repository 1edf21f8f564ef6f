"""Errors in Chinese: every sentence that the source can say has a form, and no form is dead."""

from __future__ import annotations

import ast
import re
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapwood.errors import ConfigError, DataError, SapwoodError
from sapwood.translation import PHRASES, REMARKS, Form, filled, in_language, tables, translated

SOURCE = Path(__file__).parents[1] / "src" / "sapwood"
ERRORS = {"SapwoodError", "ConfigError", "DataError", "ResourceError", "ModelError", "Busy"}
HAN = re.compile(r"[\u4e00-\u9fff]")
PLACE = "\x00"
MOST = 64  # alternatives of one sentence that are looked at


def sayings(node: ast.AST | None) -> list[str] | None:
    """Return what an expression may say, PLACE where a value stands; None if that is not written.

    Of two branches both are taken; a value that is one of two written words is not a place.
    """
    match node:
        case ast.Constant(value=str(words)):
            return [words]
        case ast.IfExp(body=body, orelse=orelse):
            both = sayings(body), sayings(orelse)
            return None if None in both else [*both[0], *both[1]]  # type: ignore[misc]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return joined([sayings(left), sayings(right)])
        case ast.JoinedStr(values=values):
            parts = [
                (sayings(v.value) or [PLACE]) if isinstance(v, ast.FormattedValue) else sayings(v)
                for v in values
            ]
            return joined(parts)
    return None


def joined(parts: list[list[str] | None]) -> list[str] | None:
    if any(part is None for part in parts):
        return None
    return ["".join(choice) for choice in list(product(*parts))[:MOST]]  # type: ignore[arg-type]


def listed(node: ast.AST | None) -> Iterator[ast.AST]:
    """Yield the expressions of the sentences of a list or comprehension."""
    match node:
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            for element in elements:
                yield from listed(element.value) if isinstance(element, ast.Starred) else [element]
        case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
            yield element


def family(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def raised() -> list[tuple[str, str, str, str]]:
    """Return (family, place in the source, code, sentence) of all that is said by errors."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name not in ERRORS or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            named = {word.arg: word.value for word in node.keywords}
            parts = [*node.args[1:2], named.get("fix"), *listed(named.get("details"))]
            place = f"{path.relative_to(SOURCE)}:{node.lineno}"
            for part in parts:
                for words in sayings(part) or []:
                    if re.search(r"[A-Za-z]{2}", words.replace(PLACE, " ")):
                        found.append((family(path), place, str(node.args[0].value), words))
    return found


@cache
def written() -> str:
    """Return every string of the source, for forms that no longer say what the source says."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")]
    strings = [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join(strings)


@pytest.mark.parametrize("name", sorted({family(path) for path in SOURCE.rglob("*.py")}))
def test_every_sentence_of_an_error_is_known_in_chinese(name: str) -> None:
    missing = []
    for owner, place, code, words in raised():
        if owner != name:
            continue
        count, values = words.count(PLACE), iter("⟨" + str(n) + "⟩" for n in range(99))
        said = re.sub(PLACE, lambda _: next(values), words)  # noqa: B023
        chinese = translated(said, code)
        lost = [n for n in range(count) if f"⟨{n}⟩" not in chinese]
        command = "sapwood " in said and not re.search(r" (?!--|-m)[a-z]+ [a-z]+ ", said)
        if (not HAN.search(chinese) and not command) or lost:
            missing.append(f"{place} {code} {words.replace(PLACE, '{}')!r} {lost or ''}")
    assert not missing, f"{len(missing)} without a form:\n" + "\n".join(missing)


def test_no_form_says_what_the_source_does_not() -> None:
    clicks = tomllib.loads((SOURCE / "translation" / "click.toml").read_text("utf-8"))
    theirs = {english for forms in clicks.values() for english, _ in forms}
    dead = [
        (code, english)
        for code, forms in tables().items()
        for english, _ in forms
        if english not in theirs and not all(piece in written() for piece in english.split("{}"))
    ]
    assert not dead


def test_forms_are_whole() -> None:
    """Each has every place of its English side, once in the tables, and other words."""
    for code, forms in tables().items():
        assert not [form for form, n in Counter(e for e, _ in forms).items() if n > 1], code
        for english, chinese in forms:
            places = {int(n) for n in re.findall(r"\{(\d)\}", chinese)}
            assert places <= set(range(english.count("{}"))), (code, english)
            assert HAN.search(chinese) or code == PHRASES, (code, english)
            assert not re.search(r"\{\}", chinese), (code, english)


def test_codes_of_forms_exist() -> None:
    strings = written()
    assert not [code for code in tables() if code not in (PHRASES, REMARKS) and code not in strings]


def test_what_has_no_form_stays_as_it_is() -> None:
    error = SapwoodError("E-NONE-999", "Nobody wrote this.", details=["nor this"], fix="none")
    told = in_language(error, "zh")
    assert (told.what, told.details, told.fix) == (error.what, error.details, error.fix)
    assert in_language(error, "en") is error


def test_what_stands_in_quotes_is_a_name_and_stays() -> None:
    assert translated("There is no column 'nothing'.", "E-DATA-307") == "没有列 'nothing'。"
    assert "空值" in translated("column 'nothing' holds nothing, not text")


def test_kind_code_and_exit_stay() -> None:
    told = in_language(ConfigError("E-CONFIG-002", "x", fix="y"), "zh")
    assert isinstance(told, ConfigError) and told.exit_code == 2
    told = in_language(DataError("E-DATA-001", "No such file: a.csv"), "zh")
    assert isinstance(told, DataError) and told.code == "E-DATA-001"


def test_places_hold_lines_signs_and_nothing() -> None:
    form = Form.of("{} of {} (a+b)", "")
    assert form.places("a\nb of  (a+b)") == ["a\nb", ""]
    assert form.places("a of b (a+b) ") is None and form.places("of (a+b)") is None
    assert filled("{1}{0}", ["a", r"\1{0}"]) == r"\1{0}a"


@given(
    pieces=st.lists(st.text("ab ", max_size=3), min_size=1, max_size=5),
    words=st.text("ab ", max_size=12),
)
def test_places_are_those_of_a_pattern(pieces: list[str], words: str) -> None:
    wanted = re.fullmatch("(.*?)".join(map(re.escape, pieces)), words, re.DOTALL)
    found = Form.of("{}".join(pieces), "").places(words)
    assert found == (None if wanted is None else list(wanted.groups()))


def test_long_texts_take_no_longer_than_they_are_long() -> None:
    begun = time.perf_counter()
    translated("a " * 20_000 + "!")
    assert time.perf_counter() - begun < 2
