"""The line that names an objective."""

from __future__ import annotations

import numpy as np
import pytest

from sapwood.errors import ConfigError
from sapwood.objectives import OBJECTIVES, Draws, objective
from sapwood.objectives.mixtures import Mix, Sum, drawn, tightest
from sapwood.objectives.mlm import Mlm
from sapwood.objectives.nsp import Nsp
from sapwood.objectives.span import Span
from sapwood.objectives.windows import Measure
from sapwood.testing import sample_documents


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("mlm", Mlm()),
        (" mlm(rate=0.15) ", Mlm(rate=0.15)),
        ("mlm(unit='word', mask=1, random=0)", Mlm(unit="word", mask=1.0, random=0.0)),
        ("span(density=0.15, mean=3)", Span()),
        ("mlm+nsp", Sum(tokens=Mlm(), pair=Nsp())),
        ("nsp(short=0.2)+mlm", Sum(tokens=Mlm(), pair=Nsp(short=0.2))),
    ],
)
def test_lines_that_are_understood(line, wanted):
    assert objective(line) == wanted
    assert objective(str(wanted)) == wanted


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("mlmm", "E-CONFIG-001", "Unknown objective 'mlmm'. Did you mean 'mlm'?"),
        ("mlm(", "E-CONFIG-205", "'mlm(' names no objective."),
        ("mlm(0.15)", "E-CONFIG-205", "mlm: '0.15' has no name; write setting=value"),
        ("mlm(rat=1)", "E-CONFIG-205", "mlm has no setting 'rat'. Did you mean 'rate'?"),
        ("clm(rate=1)", "E-CONFIG-205", "clm has no setting 'rate'. It has none."),
        ("mlm(rate=word)", "E-CONFIG-205", "mlm: rate=word: it must be of the type float"),
        ("mlm(rate=1/2)", "E-CONFIG-205", "it is neither a number nor a word; quote it"),
        ("mlm*2", "E-CONFIG-205", "'mlm * 2' is no objective with settings"),
        ("mix(clm, fim)", "E-CONFIG-205", "mix takes objectives joined by +"),
        ("mix(a*clm+fim)", "E-CONFIG-205", "'a' is no weight; write a number before *"),
        ("mlm+clm", "E-CONFIG-203", "'mlm+clm' cannot be in one example."),
        ("clm+nsp", "E-CONFIG-203", "'clm' and 'nsp' cannot be in one example."),
        ("mlm+nsp+sop", "E-CONFIG-203", "'mlm+nsp+sop' cannot be in one example."),
        ("mix(clm+mlm)", "E-CONFIG-203", "they train different nets: decoder, encoder"),
        ("mix(nsp+sop)", "E-CONFIG-203", "'nsp' makes pairs"),
        ("mix(clm)", "E-CONFIG-203", "a mix has two members or more"),
        ("mix(0*clm+fim)", "E-CONFIG-202", "a weight must be above 0, not 0.0"),
    ],
)
def test_lines_that_are_not(line, code, words):
    with pytest.raises(ConfigError) as caught:
        objective(line)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.fix


def test_an_unknown_name_lists_all():
    with pytest.raises(ConfigError) as caught:
        objective("bert")
    assert caught.value.fix == f"use one of: {', '.join(OBJECTIVES)}"


def test_members_of_a_mix_have_their_shares(vocabulary):
    task = objective("mix(3*clm+fim(rate=1.0))")
    assert isinstance(task, Mix)
    assert (task.trains, task.placed) == ("decoder", "packed")
    draws = Draws(task, sample_documents(400), vocabulary, 64)
    members = []
    for index in range(draws.plan(0)):
        made = draws.draw(0, index)
        moved = vocabulary.prefix in made["input_ids"]
        assert moved == (made["member"] == 1)
        members.append(int(made["member"]))
    assert abs(np.mean(members) - 0.25) < 0.04
    rng = np.random.default_rng(0)
    counts = np.bincount([drawn((1.0, 2.0, 5.0), rng) for _ in range(8000)]) / 8000
    assert np.abs(counts - np.array([1, 2, 5]) / 8).max() < 0.02


def test_a_prefix_decoder_sees_no_prefix_in_plain_examples(vocabulary):
    task = objective("mix(clm+prefix_lm)")
    assert (task.trains, task.placed) == ("prefix", "single")
    draws = Draws(task, sample_documents(60), vocabulary, 64)
    for index in range(draws.plan(0)):
        made = draws.draw(0, index)
        assert (made["prefix"] == 0) == (made["member"] == 0)


def test_the_tightest_measure_fits_all():
    found = tightest([Measure(capacity=568, overhead=0), Measure(capacity=512, overhead=1, tail=1)])
    assert found == Measure(capacity=512, overhead=1, tail=1)
    assert found.room == 511
