"""A training run: events, checkpoints, and going on to the same end; on a line to be fitted."""

import pytest
import torch

from sapwood.training import Recipe, make_optimiser
from sapwood.training.course import Course, Losses, Trained, completed, digest

RECIPE = Recipe(learning_rate=1e-2, batch_size=4, epochs=3.0, seed=3)


class Line:
    """Squared error of points on a line, with dropout on what is read."""

    def __init__(self, weight):
        self.weight, self.points = weight, torch.linspace(-1, 1, 12)

    def __len__(self):
        return len(self.points)

    def supervised(self, numbers):
        return len(numbers)

    def losses(self, numbers, budget):
        points = self.points[list(numbers)]
        read = torch.nn.functional.dropout(points, 0.3)
        yield ((self.weight * read - 2 * points) ** 2).sum(), len(numbers)


def trained(identity=None, recipe=RECIPE):
    weight = torch.zeros(1, requires_grad=True)
    return Trained(
        name="line", supervised=Line(weight), weights={"weight": weight},
        optimiser=make_optimiser([weight], recipe), recipe=recipe, identity=identity,
    )  # fmt: skip


def drained(generator):
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return events, end.value


def test_every_step_is_an_event_and_a_point_of_the_curve():
    run = trained()
    events, curve = drained(completed(run))
    assert [(e.candidate, e.done, e.total) for e in events] == [
        ("line", n, 9) for n in range(1, 10)
    ]
    assert curve["step"] == list(range(1, 10)) and len(curve["loss"]) == 9
    assert max(curve["lr"]) == pytest.approx(RECIPE.learning_rate)
    assert float(run.weights["weight"].detach()) > 0
    assert "loss " in events[-1].note and "tokens/s" in events[-1].note


@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, stop):
    whole = trained()
    _, expected = drained(completed(whole))
    events = completed(trained("a"), tmp_path)
    while next(events).done < stop:
        pass
    events.close()
    assert (tmp_path / f"checkpoint-{stop}").is_dir()
    torch.manual_seed(99)  # what ran between decides nothing
    again = trained("a")
    rest, curve = drained(completed(again, tmp_path))
    assert [e.done for e in rest] == list(range(stop + 1, 10))
    assert torch.equal(again.weights["weight"], whole.weights["weight"])
    assert curve["loss"] == expected["loss"]


@pytest.mark.parametrize(
    "other", [{"identity": "b"}, {"recipe": Recipe(batch_size=4, epochs=3.0, seed=4)}]
)
def test_checkpoints_of_another_run_are_removed_not_resumed(tmp_path, other):
    drained(completed(trained("a"), tmp_path))
    events, _ = drained(completed(trained(**{"identity": "a", **other}), tmp_path))
    assert [e.done for e in events] == list(range(1, 10))


def test_what_ends_a_run_is_asked_before_it_is_saved(tmp_path):
    run, asked = trained(), []
    course = Course(run, tmp_path, Losses(), pause=0.0, saved=lambda: asked.append("saved"))

    def ends(number):
        asked.append(number)
        course.kept = {"best": torch.tensor([float(number)])}
        return number == 3

    events, _ = drained(course.steps(9, ends=ends))
    assert [e.done for e in events] == [1, 2, 3]
    assert asked == [1, "saved", 2, "saved", 3, "saved"]
    again = Course(trained(), tmp_path, Losses())
    assert again.number == 3 and again.kept["best"].item() == 3.0
    assert again.memory.curve["step"] == [1, 2, 3]
    rest, _ = drained(again.steps(9, last=5))
    assert [(e.done, e.total) for e in rest] == [(4, 9), (5, 9)]
    assert drained(again.steps(9, last=5))[0] == []  # it is there already


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    events = completed(trained("a"))
    next(events)
    events.close()
    assert not list(tmp_path.iterdir())


def test_a_digest_says_what_differs():
    assert digest([1, {"a": 2}]) == digest([1, {"a": 2}]) != digest([1, {"a": 3}])
