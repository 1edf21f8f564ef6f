"""Does a model read its demonstrations? Their order should not matter, their labels should.

The order's spread is what in-context tuning is said to cut (Chen et al. 2022, arXiv 2110.07814);
labels that are exchanged for one another tell following the demonstrations from knowing the task
(Wei et al. 2023, arXiv 2303.03846; Min et al. 2022, arXiv 2202.12837).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from sapwood.adaptation import Adaptation, classifier
from sapwood.bridges.answers import attached
from sapwood.evaluation import Bases, Reader
from sapwood.interfaces import Event, Example, Floats
from sapwood.metrics import label_indices

# (demonstrations in order, texts) -> class probabilities (texts, labels)
Predict = Callable[[Sequence[Example], Sequence[str]], Floats]


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Accuracies in [0, 1] under one set of demonstrations.

    `accuracy`: the mean over `orders` orders; `spread`: their standard deviation; `worst` of them.
    With every demonstration's label exchanged for the next one: `follows` is the accuracy against
    gold labels exchanged in the same way, `keeps` against the true ones.
    """

    accuracy: float
    spread: float
    worst: float
    follows: float
    keeps: float
    orders: int
    queries: int


def robustness(
    predict: Predict,
    demonstrations: Sequence[Example],
    queries: Sequence[Example],
    labels: Sequence[str],
    *,
    orders: int = 10,
    seed: int = 0,
) -> Generator[Event, None, Robustness]:
    """Measure how answers to labelled `queries` depend on the demonstrations' order and labels.

    The first order is the one given, the others are drawn from `seed`.
    """
    gold = label_indices([query.label for query in queries], labels)
    texts = [query.text for query in queries]
    rng = np.random.default_rng(seed)
    drawn = [list(range(len(demonstrations)))]
    drawn += [rng.permutation(len(demonstrations)).tolist() for _ in range(orders - 1)]
    found = []
    for number, order in enumerate(drawn):
        said = predict([demonstrations[n] for n in order], texts).argmax(1)
        found.append(float((said == gold).mean()))
        yield Event(kind="progress", candidate="orders", done=number + 1, total=orders + 1)
    following = {label: labels[(n + 1) % len(labels)] for n, label in enumerate(labels)}
    swapped = [replace(d, label=following[str(d.label)]) for d in demonstrations]
    said = predict(swapped, texts).argmax(1)
    yield Event(kind="progress", candidate="orders", done=orders + 1, total=orders + 1)
    return Robustness(
        accuracy=float(np.mean(found)),
        spread=float(np.std(found)),
        worst=min(found),
        follows=float((said == (gold + 1) % len(labels)).mean()),
        keeps=float((said == gold).mean()),
        orders=orders,
        queries=len(queries),
    )


@contextmanager
def answering(bases: Bases, made: Adaptation) -> Iterator[Predict]:
    """Yield a `Predict` of an adaptation's weights, template and readout, without its context."""
    assert made.base is not None and made.context is not None
    name, context = made.base.name, made.context
    normalise = str(made.readout.state()[0]["normalise"])

    def predict(demonstrations: Sequence[Example], texts: Sequence[str]) -> Floats:
        now = replace(
            context, demonstrations=tuple(demonstrations), shots=len(demonstrations),
            sharing="all", groups=(),
        )  # fmt: skip
        reader = Reader(bases, name, now, made.labels, scope=made.scope)
        return classifier(made).probabilities(reader.read(texts, normalise=normalise).scores)

    with attached(bases, made):
        yield predict
