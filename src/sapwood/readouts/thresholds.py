"""From a probability a label to the labels a text gets: thresholds chosen on rows for micro F1.

One threshold for all labels is best where the probabilities are calibrated (Lipton, Elkan and
Naryanaswamy 2014, arXiv 1402.1892); one a label mends those that are not. Which of the two these
rows support is told by rows held out of the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Answer, Floats, Frame
from sapwood.tasks.written import write

Float64 = NDArray[np.float64]
Wanted = NDArray[np.bool_]

FOLDS = 5
SWEEPS = 3  # over all labels; a second one moves few thresholds, a third hardly any
# Rows that need to have a label before it gets a threshold of its own; the F1 of a label with ten
# rows is known to about fifteen points either way.
LEAST_OWN = 10
MIDDLE = 0.5


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What rows chose: `thresholds` (labels,), and whether each label has its `own`.

    `crossed`: (rows, labels), the labels each row gets by thresholds chosen on the other rows.
    """

    thresholds: Float64
    own: bool
    crossed: Wanted


def choose_thresholds(probabilities: Floats, wanted: Wanted, *, seed: int = 0) -> Chosen:
    """Return the thresholds of the best micro F1 on these rows; both arguments (rows, labels)."""
    said = np.asarray(probabilities, np.float64)
    fold = np.random.default_rng(seed).permutation(len(said)) % FOLDS
    crossed = {False: np.zeros(wanted.shape, bool), True: np.zeros(wanted.shape, bool)}
    for number in range(min(FOLDS, len(said))):
        held = fold == number
        for own, found in crossed.items():
            found[held] = said[held] >= fitted(said[~held], wanted[~held], own=own)
    own = micro(crossed[True], wanted) > micro(crossed[False], wanted)
    return Chosen(thresholds=fitted(said, wanted, own=own), own=own, crossed=crossed[own])


def fitted(said: Float64, wanted: Wanted, *, own: bool) -> Float64:
    """Return thresholds (labels,) of the highest micro F1 on these rows."""
    labels = said.shape[1]
    if not wanted.any():
        return np.full(labels, MIDDLE)
    shared = _best(said.ravel(), wanted.ravel(), 0, 0, 0)
    thresholds = np.full(labels, shared)
    if not own:
        return thresholds
    total, able = int(wanted.sum()), np.flatnonzero(wanted.sum(0) >= LEAST_OWN)
    for _ in range(SWEEPS if len(able) else 0):
        for label in able:
            others = np.arange(labels) != label
            told = said[:, others] >= thresholds[others]
            right = int((told & wanted[:, others]).sum())
            missed = total - int(wanted[:, label].sum())
            thresholds[label] = _best(
                said[:, label], wanted[:, label], right, int(told.sum()), missed
            )
    return thresholds


def micro(told: Wanted, wanted: Wanted) -> float:
    """Return micro F1 of labels told and wanted, (rows, labels) each; 0 where there are none."""
    both = int(told.sum() + wanted.sum())
    return 2 * float((told & wanted).sum()) / both if both else 0.0


def labelled(labels: Sequence[str], told: Wanted) -> list[Answer]:
    """Return the labels of each row, told (rows, labels), as answers."""
    answers = []
    for row in told:
        frames = tuple(Frame(label=label) for label, yes in zip(labels, row, strict=True) if yes)
        answers.append(Answer(words=write("multi-label", "", frames), frames=frames))
    return answers


def _best(said: Float64, wanted: Wanted, right: int, told: int, elsewhere: int) -> float:
    """Return the threshold of the highest F1, given what other labels add to its counts.

    `right`, `told`: of other labels, labels told rightly and told at all; `elsewhere`: wanted.
    """
    order = np.argsort(-said, kind="stable")
    sure, hits = said[order], np.concatenate([[0], np.cumsum(wanted[order])])
    ends = np.concatenate([[True], sure[1:] < sure[:-1], [True]])  # equal ones go together
    count = np.arange(len(said) + 1)
    below = told + count + elsewhere + int(wanted.sum())
    scores = np.where(ends & (below > 0), 2 * (right + hits) / np.maximum(below, 1), -1.0)
    place = int(np.argmax(scores))
    if place == 0:
        return float(np.nextafter(1.0, 2.0))
    return (
        float(sure[place - 1]) if place == len(sure) else float(sure[place - 1 : place + 1].mean())
    )
