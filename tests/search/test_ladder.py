"""How the time of a run is shared between reading rows and training."""

from types import SimpleNamespace

import pytest

from sapwood.search.ladder import _leave_time
from sapwood.search.workbench import Stopped

LATER = ["few-shot", "lora"]


def bench(spent, *, tried=("few-shot",), budget=240.0, reserve=40.0):
    clock = SimpleNamespace(budget=budget, spent=spent, left=budget - spent)
    results = {name: {"family": name} for name in tried}
    return SimpleNamespace(clock=clock, reserve=reserve, results=results)


@pytest.mark.parametrize("family", ["few-shot", "channel", "knn", "probe", "zero-shot"])
def test_reading_begins_in_the_first_half_only_where_something_trains_after_it(family):
    _leave_time(bench(99), family, LATER)
    with pytest.raises(Stopped, match="139 s are left, and the rest is kept for candidates that"):
        _leave_time(bench(101), family, LATER)
    _leave_time(bench(101), family, ["few-shot", "probe"])


@pytest.mark.parametrize("family", ["lora", "lora+context", "encoder-lora", "compressed"])
def test_what_trains_is_never_held_back(family):
    _leave_time(bench(200), family, ["lora"])


def test_the_first_demonstrations_are_shown_whatever_the_time():
    _leave_time(bench(200, tried=("tf-idf",)), "few-shot", LATER)
    with pytest.raises(Stopped):
        _leave_time(bench(200, tried=("tf-idf",)), "probe", LATER)
