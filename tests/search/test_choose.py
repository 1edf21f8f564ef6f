"""Which candidate the development rows recommend."""

from types import SimpleNamespace

import numpy as np
import pytest

from sapwood.interfaces import Example
from sapwood.search.evidence import choose
from sapwood.search.marks import LabelMarks


def bench(rows, **candidates):
    """A bench of `rows` gold-0 rows; candidates: (probability of the gold label, ms a query)."""
    dev = tuple(Example(text=f"row {n}", label="a") for n in range(rows))
    probabilities = {n: np.array([[p, 1 - p]] * rows) for n, (p, _) in candidates.items()}
    results = {
        name: {
            "status": "finished",
            "dev": {"value": float(p > 0.5)},
            "ms_per_query": ms,
            "fit_seconds": 1.0,
        }
        for name, (p, ms) in candidates.items()
    }
    return SimpleNamespace(
        results=results,
        dev=probabilities,
        splits=SimpleNamespace(dev=dev),
        marks=LabelMarks(labels=("a", "b")),
    )


@pytest.mark.parametrize(("rows", "chosen"), [(8, "sure"), (99, "sure"), (100, "cheap")])
def test_few_rows_tie_often_and_then_log_loss_decides_not_the_price(rows, chosen):
    assert choose(bench(rows, cheap=(0.6, 0.1), sure=(0.9, 50.0), wrong=(0.2, 0.01))) == chosen


def test_nothing_finished_recommends_nothing():
    assert choose(SimpleNamespace(results={"a": {"status": "failed"}})) is None
