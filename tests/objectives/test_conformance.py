"""Every objective of the table keeps its promises; what does not is told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from sapwood.objectives import OBJECTIVES, objective
from sapwood.objectives.mlm import Mlm
from sapwood.objectives.nsp import Pairwise
from sapwood.registry import resolve
from sapwood.testing import check_objective

# What an epoch of the sample documents gives: share of targets, from and to; lost tokens allowed.
TARGETS = {
    "clm": (1.0, 1.02), "mlm": (0.29, 0.31), "rtd": (0.14, 0.17), "plm": (0.15, 0.18),
    "nsp": (0, 0), "sop": (0, 0), "span": (0.2, 0.3), "prefix_lm": (0.4, 0.6),
    "ul2": (0.3, 0.6), "fim": (1.0, 1.2),
}  # fmt: skip
VARIANTS = (
    "mlm(unit=word)", "mlm(unit=span)", "mlm(rate=1.0, mask=1.0, random=0.0)", "mlm+nsp", "mlm+sop",
    "rtd(unit=word)+sop", "plm+nsp", "plm(reuse=0.5)", "plm(reuse=0.5)+nsp", "nsp(short=1.0)",
    "span(density=0.5, mean=8)", "span(form=joined)", "span(closing=True)", "prefix_lm(form=pair)",
    "prefix_lm(density=0.25)", "ul2(form=joined)", "fim(rate=1.0, spm=0.0)", "fim(spm=1.0)",
    "mix(0.7*span+0.3*prefix_lm(form=pair))", "mix(clm+3*fim)", "mix(clm+prefix_lm)",
)  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_keeps_its_promises(name):
    found = check_objective(objective(name))
    low, high = TARGETS[name]
    assert low <= found.targets <= high
    assert found.lost == 0 or name in ("nsp", "sop", "span", "prefix_lm", "ul2")


@pytest.mark.parametrize("line", VARIANTS)
def test_settings_and_sums_keep_them_too(line):
    check_objective(objective(line))


def test_a_table_line_is_an_objective_of_that_name():
    for name in OBJECTIVES:
        assert resolve("objective", OBJECTIVES, name).name == name
        assert objective(name) == resolve("objective", OBJECTIVES, name)()


def test_an_objective_that_breaks_a_promise_is_told():
    @dataclass(frozen=True, kw_only=True)
    class Careless(Mlm):
        """Draws from whatever state numpy's generator has."""

        name = "careless"

        def example(self, window, rng, vocabulary):
            return super().example(window, np.random.default_rng(np.random.randint(99)), vocabulary)

    with pytest.raises(AssertionError, match="changes the state of numpy's generator"):
        check_objective(Careless())

    @dataclass(frozen=True, kw_only=True)
    class Counting(Mlm):
        """Remembers what it made before."""

        name = "counting"

        def example(self, window, rng, vocabulary):
            seen.append(1)
            return super().example(window, np.random.default_rng(len(seen)), vocabulary)

    seen = []
    with pytest.raises(AssertionError, match="depends on more than its number"):
        check_objective(Counting(unit="token"))

    @dataclass(frozen=True, kw_only=True)
    class Greedy(Mlm):
        """Hides special tokens as well."""

        name = "greedy"

        def example(self, window, rng, vocabulary):
            made = super().example(window, rng, vocabulary)
            made["labels"][0] = made["input_ids"][0]
            return made

    with pytest.raises(AssertionError, match="a special token is a target"):
        check_objective(Greedy())

    @dataclass(frozen=True, kw_only=True)
    class Short(Mlm):
        """Leaves out the last token of a piece."""

        name = "short"

        def example(self, window, rng, vocabulary):
            pieces = tuple(p._replace(ids=p.ids[:-1], starts=p.starts[:-1]) for p in window.pieces)
            return super().example(window._replace(pieces=pieces), rng, vocabulary)

    with pytest.raises(AssertionError, match=r"an example has no target|tokens are in no example"):
        check_objective(Short())

    @dataclass(frozen=True, kw_only=True)
    class Silent(Pairwise):
        """Makes pairs and gives them no label."""

        name = "silent"

        def pairs(self, sentences, room, rng):
            return objective("sop").pairs(sentences, room, rng)

        def example(self, window, rng, vocabulary):
            return super().example(window, rng, vocabulary) | {"next_sentence_label": np.array(7)}

    with pytest.raises(AssertionError, match="the label of a pair is not 0 or 1"):
        check_objective(Silent())
