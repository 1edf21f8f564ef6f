"""The search over rates and sizes: it finds the better rate, and goes on where it was cut off."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from sapwood.interfaces import Event
from sapwood.methods.adapter import Adapter
from sapwood.methods.lora import Lora
from sapwood.methods.vera import Vera
from sapwood.search.progress import Progress
from sapwood.search.trials import SIZES, Proposal, searched


@pytest.fixture
def bench(tmp_path):
    def folder(name):
        made = tmp_path / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    return SimpleNamespace(
        job=SimpleNamespace(tuning=SimpleNamespace(trials=8), seed=3),
        candidate_folder=folder,
        tuning_seconds=lambda name: 80.0,
    )


def attempts(seen, stop_after=None):
    """A training whose loss is least at the rate 1e-3; it can be cut off."""

    def attempt(proposal, own, seconds, judge):
        seen.append((proposal, own, seconds))
        run = Progress()
        for number in (1, 2, 3):
            yield Event(kind="progress", candidate=own, done=number, total=3)
            if stop_after is not None and len(seen) > stop_after:
                yield Event(kind="note", note="cut off here")
            run.judge(number, 0.5, abs(math.log10(proposal.rate / 1e-3)) + 1 / number)
            if judge(run):
                break
        return run

    return attempt


def drain(events):
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


START = Proposal(method=Lora(), rate=3e-3)


def test_it_finds_the_rate_and_says_what_it_tried(bench):
    seen = []
    best, tried = drain(searched(bench, "lora", START, attempts(seen)))
    assert len(tried) == len(seen) == 8
    assert all(seconds > 0 for _, _, seconds in seen)
    off = sorted(abs(math.log10(proposal.rate / 1e-3)) for proposal, _, _ in seen)
    assert abs(math.log10(best.rate / 1e-3)) == pytest.approx(off[0], abs=0.35)
    assert min(t["loss"] for t in tried) <= off[0] + 1
    assert {proposal.method.rank for proposal, _, _ in seen} <= set(SIZES["rank"])
    assert all(p.method.alpha == 2 * p.method.rank for p, _, _ in seen)
    assert all(3e-4 <= p.rate <= 3e-2 for p, _, _ in seen)


def test_a_search_that_was_cut_off_goes_on_with_the_same_trial(bench):
    first = []
    events = searched(bench, "lora", START, attempts(first, stop_after=3))
    for event in events:
        if event.note == "cut off here":
            break
    events.close()
    assert len(first) == 4
    again = []
    _, tried = drain(searched(bench, "lora", START, attempts(again)))
    assert again[0][0] == first[3][0] and again[0][1] == first[3][1]
    assert len(tried) == 8 and len(again) == 5


def test_each_method_has_its_own_sizes(bench):
    seen = []
    drain(searched(bench, "a", Proposal(method=Adapter(), rate=1e-3), attempts(seen)))
    assert {p.method.width for p, _, _ in seen} <= set(SIZES["width"])
    seen = []
    drain(searched(bench, "v", Proposal(method=Vera(), rate=1e-3), attempts(seen)))
    assert {p.method.rank for p, _, _ in seen} == {256}  # not LoRA's kind of rank
