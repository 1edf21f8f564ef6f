"""What development rows decide of a finished candidate, and what test rows say of that.

Only for tasks with one label a text: the temperature of the probabilities, the thresholds by
coverage, and the label that means none of the others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sapwood.interfaces import Floats
from sapwood.metrics import bootstrap_interval, expected_calibration_error, log_loss
from sapwood.readouts.decision import Decision, fit_decision
from sapwood.search.workbench import Made, Workbench
from sapwood.tasks.coverage import (
    COVERAGES,
    answered_above,
    coverage_details,
    outside_details,
    outside_threshold,
)


def decided(bench: Workbench, made: Made) -> Made:
    """Return a candidate with its task, and its decision fitted on the development rows.

    What it says of them is at its temperature afterwards: what the saved adaptation says.
    """
    if bench.written:
        return made
    adaptation, before = made.adaptation, made.adaptation.decision
    # one made from another candidate has its temperature already: the two together are one
    raw = made.dev if before is None else before.undo(made.dev)
    decision = fit_decision(raw, bench.index(bench.splits.dev), seed=bench.job.seed)
    return replace(
        made,
        adaptation=replace(adaptation, decision=decision, task=bench.task.name),
        dev=decision.apply(raw),
        notes={**made.notes, "temperature": _told(decision)},
    )


def _told(decision: Decision) -> dict[str, Any]:
    return {"value": decision.temperature, "losses": list(decision.losses)}


def decision_details(bench: Workbench, name: str, probabilities: Floats) -> dict[str, Any]:
    """Return, of the candidate `name` and its test rows, what its confidence is good for.

    macro F1 with its interval, calibration with and without the temperature, accuracy against
    coverage, and rows outside all labels told apart; JSON-ready parts of the report.
    """
    rows, dev = bench.splits.test, bench.splits.dev
    gold, said = bench.gold(rows), bench.marks.words(probabilities)
    decision = bench.finished[name].decision or Decision()
    right = np.array([float(one == other) for one, other in zip(gold, said, strict=True)])
    confidence = np.asarray(probabilities).max(1)
    macro = bootstrap_interval((gold, said), "macro_f1", seed=bench.job.seed)
    found: dict[str, Any] = {
        "macro_f1": {"value": macro.value, "low": macro.low, "high": macro.high},
        "temperature": _temperature(bench, decision, probabilities),
        "coverage": {
            **coverage_details(confidence, right),
            "at": [
                {"wanted": share, **answered_above(confidence, right, decision.threshold(share))}
                for share in COVERAGES
                if decision.quantiles
            ],
        },
    }
    label = bench.outside
    if label is None or label not in gold:
        return found
    known = bench.dev[name]
    threshold = outside_threshold(
        bench.gold(dev), bench.marks.words(known), np.asarray(known).max(1), label
    )
    rule = None
    if threshold:
        rule = {
            "threshold": threshold,
            **outside_details(gold, said, label, confidence < threshold),
        }
    found["outside"] = {"label": label, **outside_details(gold, said, label), "rule": rule}
    return found


def _temperature(bench: Workbench, decision: Decision, probabilities: Floats) -> dict[str, Any]:
    """Return what the temperature changes on the test rows; ece and log loss before and after."""
    index = bench.index(bench.splits.test)
    known = index >= 0
    told: dict[str, Any] = {**_told(decision), "rows": len(bench.splits.dev)}
    for key, said in (("before", decision.undo(probabilities)), ("after", probabilities)):
        told[key] = {"ece": expected_calibration_error(said, index)}
        if known.any():
            told[key]["log_loss"] = log_loss(said[known], index[known])
    return told
