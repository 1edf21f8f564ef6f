"""How a training run is planned: rows a step, steps, and when it is not begun."""

import json
from types import SimpleNamespace

import pytest
import torch

from sapwood.search import judged
from sapwood.search.judged import FEWEST_STEPS, Judge, Judged
from sapwood.search.workbench import Stopped
from sapwood.training import Recipe, make_optimiser
from sapwood.training.course import Trained
from sapwood.training.pace import Pace


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Maker of plans: training rows, seconds -> the content of plan.json."""

    def make(
        rows, seconds, *, a_row=0.1, epochs=None, only=("lora",), dev=0, passes=3.0, whole=None
    ):
        monkeypatch.setattr(judged, "paced", lambda *_: Pace(row=0.1, besides=0.0))
        weight = torch.nn.Parameter(torch.zeros(1))
        bench = SimpleNamespace(
            job=SimpleNamespace(tuning=SimpleNamespace(epochs=epochs), only=only),
            clock=SimpleNamespace(left=seconds, save=lambda: None),
            splits=SimpleNamespace(dev=[None] * dev),
            candidate_folder=lambda _: tmp_path,
        )
        recipe = Recipe(batch_size=min(16, rows), epochs=epochs or passes)
        trained = Trained(
            name="lora", supervised=[None] * rows, weights={"w": weight},
            optimiser=make_optimiser([weight], recipe), recipe=recipe,
        )  # fmt: skip
        judge = Judge(
            training=lambda _: None, said=lambda _: None, seconds=lambda: seconds,
            whole=whole and (lambda: whole),
        )  # fmt: skip
        run = Judged(bench, trained, judge, pause=20.0)
        run._planned()
        plan = json.loads((tmp_path / "plan.json").read_text())
        assert run.course.trained.recipe.batch_size == plan["rows"]
        again = Judged(bench, trained, judge, pause=20.0)
        assert (again.run.total, again.trained.recipe) == (plan["total"], run.trained.recipe)
        return plan

    return make


def test_with_time_for_everything_steps_are_whole(planned):
    plan = planned(1000, 1e6)
    assert (plan["rows"], plan["total"]) == (16, round(3 * 1000 / 16))


@pytest.mark.parametrize(("seconds", "rows", "steps"), [(60, 16, 33), (32, 8, 36), (16, 4, 36)])
def test_little_time_makes_steps_small_before_it_makes_them_few(planned, seconds, rows, steps):
    plan = planned(1000, seconds)
    assert (plan["rows"], plan["total"]) == (rows, steps)
    assert plan["forecast"] == pytest.approx(steps * rows * 0.1)
    assert plan["forecast"] <= seconds


def test_few_rows_make_steps_small_too(planned):
    assert planned(50, 1e6) == {
        "total": round(3 * 50 / 4),
        "rows": 4,
        "watches": 3,
        "watched": 256,
        "forecast": pytest.approx(15.2),
    }


def test_reading_development_rows_is_part_of_the_plan(planned):
    without, withal = planned(1000, 60), planned(1000, 60, dev=200)
    assert withal["forecast"] + 0.05 * 2 * 200 <= 54 < without["forecast"] + 2


@pytest.mark.parametrize(("seconds", "watches"), [(41, 1), (90, 2), (120, 3), (1e6, 3)])
def test_short_runs_are_watched_less_and_trained_the_more(planned, seconds, watches):
    plan = planned(1000, seconds, dev=256, only=())  # reading 256 rows four times takes 51 s
    assert plan["watches"] == watches and plan["total"] >= 28


@pytest.mark.parametrize(
    ("seconds", "watched"), [(57, 256), (56, 128), (42, 64), (35, 32), (20, 32)]
)
def test_where_rows_are_slow_a_run_is_watched_by_fewer_of_them(planned, seconds, watched):
    plan = planned(1000, seconds, dev=256, only=())  # reading 256 rows twice takes 25.6 s
    assert (plan["watches"], plan["watched"]) == (1, watched)
    assert plan["forecast"] >= 0.1 * (0.9 * seconds - 0.05 * (256 + watched)) - 0.4


def test_a_share_that_is_too_little_becomes_the_whole(planned):
    assert planned(1000, 2.0, only=(), whole=20.0)["total"] == 45
    assert planned(1000, 16.0, only=(), whole=20.0)["total"] == 36  # it was enough


def test_passes_that_were_asked_for_are_made_whatever_the_time(planned):
    plan = planned(1000, 1.0, epochs=2.0)
    assert (plan["rows"], plan["total"], plan["forecast"]) == (16, 125, None)


def test_a_run_that_could_learn_nothing_is_not_begun_beside_others(planned):
    with pytest.raises(Stopped, match=r"too little time \(2 s left\)"):
        planned(1000, 2.0, only=())
    assert planned(1000, 2.0)["total"] == FEWEST_STEPS  # it was asked for by name
