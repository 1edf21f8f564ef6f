"""How deep brackets are, against a parser that follows them, in a time nobody can stretch."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sapwood.serving.nesting import too_deep

LEAVES = some.none() | some.integers() | some.text(alphabet='[]{}"\\a,é', max_size=8)
TREES = some.recursive(
    LEAVES,
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(some.text(alphabet='[{"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


def levels_of(tree: Any) -> int:
    """Return the levels of brackets of what was parsed."""
    if isinstance(tree, list | dict):
        inner = tree.values() if isinstance(tree, dict) else tree
        return 1 + max(map(levels_of, inner), default=0)
    return 0


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(tree=TREES, plain=some.booleans())
def test_levels_are_those_of_the_parser(tree: Any, plain: bool) -> None:
    raw = json.dumps(tree, ensure_ascii=plain).encode()
    levels = levels_of(tree)
    assert not too_deep(raw, levels) and not too_deep(raw, levels + 3)
    assert levels == 0 or too_deep(raw, levels - 1)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(raw=some.text(alphabet='[]{}"\\ a', max_size=40))
def test_what_is_no_json_is_no_deeper_than_it_says(raw: str) -> None:
    """What passes opens no more brackets than it may, wherever a parser would give up."""
    if too_deep(raw.encode(), 4):
        return
    depth, inside, escaped = 0, False, False
    for sign in raw:
        if inside:
            escaped, inside = sign == "\\" and not escaped, sign != '"' or escaped
        elif sign == '"':
            inside = True
        elif sign in "[{":
            depth += 1
            assert depth <= 4
        elif sign in "]}":
            depth -= 1
            if depth < 0:
                return  # a parser has given up


PIECES = (b"[", b"]", b"[]", b"[[]]", b'"', b'\\"', b'"\\', b'"[', b"{}[]", b'{"":', b"\\", b"][")


@pytest.mark.parametrize("piece", PIECES)
def test_two_megabytes_take_no_time(piece: bytes) -> None:
    raw = piece * ((2 << 20) // len(piece))
    begin = time.process_time()
    too_deep(raw, 24)
    assert time.process_time() - begin < 1
