"""How long a step takes is found without making one."""

import pytest
import torch

from sapwood.training import Recipe, make_optimiser
from sapwood.training.pace import FEW, MANY, OF_SLOW, Pace, paced


class Sums:
    """Rows whose loss draws on the random state, as dropout does."""

    def __init__(self, rows):
        self.weight, self.rows, self.read = torch.nn.Parameter(torch.tensor([1.0, 0.0])), rows, []

    def __len__(self):
        return self.rows

    def supervised(self, numbers):
        return len(numbers)

    def losses(self, numbers, budget):
        self.read += numbers
        for number in numbers:
            yield (self.weight * torch.rand(2) * (number + 1)).sum(), 1


def optimiser_of(made):
    return make_optimiser([made.weight], Recipe(weight_decay=0.1))


def test_nothing_is_changed_by_it():
    made = Sums(40)
    optimiser, before = optimiser_of(made), torch.random.get_rng_state()
    found = paced(made, optimiser, Recipe())
    assert made.weight.tolist() == [1.0, 0.0] and made.weight.grad is None
    assert not optimiser.state and torch.equal(torch.random.get_rng_state(), before)
    assert len(made.read) == 2 * FEW + MANY == len(set(made.read))
    assert found.row > 0 and found.besides > 0


def test_few_rows_are_enough():
    made = Sums(3)
    assert paced(made, optimiser_of(made), Recipe()).row > 0
    assert set(made.read) == {0, 1, 2}


# A pace of hours would be found in minutes with as many rows as a pace of seconds wants.
@pytest.mark.parametrize(("token", "read"), [(0.01, 2 * FEW + MANY), (1.0, FEW + sum(OF_SLOW))])
def test_rows_and_what_a_step_takes_besides_are_told_apart(monkeypatch, token, read):
    # `token` seconds a token and 30 ms besides; rows of 3 tokens
    class Timed(Sums):
        def losses(self, numbers, budget):
            clock[0] += 0.03 + token * 3 * len(numbers)
            for loss, _ in super().losses(numbers, budget):
                yield loss, 3

    clock, made = [0.0], Timed(40)
    monkeypatch.setattr("sapwood.training.pace.time.perf_counter", lambda: clock[0])
    found = paced(made, optimiser_of(made), Recipe())
    assert (found.row, found.besides) == (pytest.approx(3 * token), pytest.approx(0.03))
    assert len(made.read) == read


def test_a_step_costs_its_rows_and_what_it_takes_besides():
    assert Pace(row=0.5, besides=2.0).step(8) == 6.0
