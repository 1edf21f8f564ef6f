"""How the time of a run is shared between reading rows and training."""

from types import SimpleNamespace

import pytest

from sapwood.search.candidate import Candidate
from sapwood.search.ladder import _leave_time
from sapwood.search.workbench import Stopped

LATER = ["few-shot", "lora"]


def bench(spent, *, tried=("few-shot-4",), budget=240.0, reserve=40.0, few=0.7, best=0.8):
    dev = {"metric": "accuracy", "value": few}
    return SimpleNamespace(
        best=lambda: ("probe", None),
        value=lambda _: best,
        clock=SimpleNamespace(budget=budget, spent=spent, left=budget - spent),
        reserve=lambda _: reserve,
        results={name: {"family": name.removesuffix("-4"), "dev": dev} for name in tried},
        finished=dict.fromkeys(tried),
    )


def rung(name):
    family = "few-shot" if name.startswith("few-shot") else name.partition("-few-shot")[0]
    return Candidate(name=name, family=family, make=lambda *_: None)


@pytest.mark.parametrize("name", ["few-shot-16", "channel", "knn-few-shot", "probe-few-shot"])
def test_demonstrations_are_shown_in_the_first_half_where_something_trains_later(name):
    _leave_time(bench(99), rung(name), LATER)
    with pytest.raises(Stopped, match="139 s are left, and the rest is kept for candidates that"):
        _leave_time(bench(101), rung(name), LATER)
    _leave_time(bench(101), rung(name), ["few-shot", "probe"])


@pytest.mark.parametrize(
    "name", ["zero-shot", "knn", "probe", "lora", "lora+context", "encoder-lora", "compressed"]
)
def test_what_shows_none_is_never_held_back(name):
    assert _leave_time(bench(200), rung(name), ["lora"]) is None


def test_the_first_demonstrations_are_shown_whatever_the_time():
    _leave_time(bench(200, tried=("tf-idf",)), rung("few-shot-4"), LATER)
    with pytest.raises(Stopped):
        _leave_time(bench(200, tried=("tf-idf",)), rung("knn-few-shot"), LATER)


def test_a_probe_on_what_was_read_already_costs_nothing():
    read = ("few-shot-4", "knn-few-shot")
    assert _leave_time(bench(200, tried=read), rung("probe-few-shot"), LATER) is None
    with pytest.raises(Stopped):
        _leave_time(bench(200), rung("probe-few-shot"), LATER)


def test_where_demonstrations_are_far_behind_training_begins_earlier():
    _leave_time(bench(49, few=0.1), rung("few-shot-16"), LATER)
    with pytest.raises(Stopped, match="189 s are left"):
        _leave_time(bench(51, few=0.1), rung("few-shot-16"), LATER)
    _leave_time(bench(51, few=0.1), rung("few-shot-16"), ["few-shot", "probe"])
    _leave_time(bench(51, few=0.6), rung("few-shot-16"), LATER)
