"""Runs side by side: their recommended candidates, and paired differences where rows agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sapwood.pages.candidates import Report, find, score, shown
from sapwood.pages.terminal import aligned, wrapped, written
from sapwood.pages.words import ABSENT, Words
from sapwood.tally import Tally, bits_saved, paired, share
from sapwood.tasks.kinds import SEVERAL, WRITTEN

Predictions = Sequence[Mapping[str, Any]] | str
Named = tuple[str, Predictions]


def run_row(folder: str, report: Report) -> dict[str, Any]:
    """Return what is shown of one run: its recommended candidate, score, cost and data."""
    winner = find(report, report.get("recommended"))
    data = report.get("data") or {}
    return {
        "run": folder,
        "recommended": report.get("recommended"),
        "task": report.get("task"),
        "metric": report.get("metric"),
        "test": score(winner, "test"),
        "dev": score(winner, "dev"),
        "rows": (report.get("splits") or {}).get("test"),
        "cost": (winner or {}).get("cost") or {},
        "data": data.get("path"),
        "data_sha256": data.get("sha256"),
        "separable": report.get("separable"),
    }


def difference(
    run: Named, against: Named, words: Words, task: str = "classification"
) -> dict[str, Any]:
    """Return the paired difference in rows answered exactly right, or why there is none.

    The rows of both are matched by text, whatever their order. The answer always has `run`,
    `against`, `comparable` and `sentence`; when comparable also `difference`, `low`, `high` and
    `count`, the interval from a paired bootstrap over rows (Koehn 2004). `task`: answers that are
    written freely are never exactly right, so runs of such a task are compared in bits saved, and
    not at all where a run does not hold them.
    """
    names = {"run": run[0], "against": against[0]}
    pair = _paired(run[1], against[1], words)
    tallies = pair if isinstance(pair, str) else _tallies(task, *pair)
    if tallies is None or isinstance(tallies, str):
        why = tallies or words("why_written")
        sentence = words("compare_not", **names, why=why)
        return {**names, "comparable": False, "sentence": sentence}
    mean, low, high = paired(*tallies)
    key = "compare_better" if low > 0 else "compare_worse" if high < 0 else "compare_within"
    turn = -1 if key == "compare_worse" else 1
    ends = sorted((turn * low, turn * high))
    sentence = words(
        key,
        **names,
        metric=words(f"metric_{tallies[0].metric}"),
        count=words.number(len(pair[0])),
        difference=words.points(turn * mean),
        low=words.bare(ends[0]),
        high=words.bare(ends[1]),
    )
    numbers = {"difference": mean, "low": low, "high": high, "count": len(pair[0])}
    return {**names, "comparable": True, "sentence": sentence, **numbers}


Rows = list[Mapping[str, Any]]


def _paired(left: Predictions, right: Predictions, words: Words) -> tuple[Rows, Rows] | str:
    """Return the rows of both in the same order, or why they are not the same."""
    for predictions in (left, right):
        if isinstance(predictions, str):
            return words("why_no_file", path=predictions)
    if not left or not right or isinstance(left, str) or isinstance(right, str):
        return words("why_no_rows", path="predictions.json")
    keyed, others = _keyed(left), _keyed(right)
    if keyed.keys() != others.keys():
        shared = len(keyed.keys() & others.keys())
        counts = {"shared": shared, "left": len(keyed), "right": len(others)}
        return words("why_other_texts", **counts)
    unlike = [key for key, row in keyed.items() if row["label"] != others[key]["label"]]
    if unlike:
        return words("why_other_labels", count=len(unlike), text=repr(unlike[0][0][:60]))
    return list(keyed.values()), [others[key] for key in keyed]


def _tallies(task: str, left: Rows, right: Rows) -> tuple[Tally, Tally] | None:
    """Return what is compared of both: rows answered right, or bits; None without these."""
    if task not in WRITTEN:
        metric = "exact" if task in SEVERAL else "accuracy"
        return _hits(metric, left), _hits(metric, right)
    if any(row.get(key) is None for row in (*left, *right) for key in ("nats", "bytes")):
        return None
    return _bits(left), _bits(right)


def _keyed(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Return rows by (text, how often it was seen before), so that repeated texts pair up."""
    seen: Counter[str] = Counter()
    keyed = {}
    for row in rows:
        keyed[(str(row["text"]), seen[str(row["text"])])] = row
        seen[str(row["text"])] += 1
    return keyed


def _hits(metric: str, rows: Rows) -> Tally:
    return share(metric, np.array([float(row["label"] == row["predicted"]) for row in rows]))


def _bits(rows: Rows) -> Tally:
    return bits_saved(np.array([[row["nats"], row["bytes"]] for row in rows], np.float64))


def comparing_table(
    rows: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Any]],
    words: Words,
    *,
    encoding: str = "utf-8",
    width: int = 80,
) -> str:
    """Return the runs as a plain table, then a sentence for each difference."""
    keys = (
        "col_run",
        "col_candidate",
        "col_test",
        "col_interval",
        "col_fit",
        "col_query",
        "col_size",
    )
    table = [[words(key) for key in keys]]
    for row in rows:
        test, cost = row["test"] or {}, row["cost"]
        table.append(
            [
                row["run"],
                shown(row["recommended"] or ABSENT),
                words.percent(test.get("value")),
                words.span(test["low"], test["high"]) if test.get("low") is not None else ABSENT,
                words.seconds(cost.get("fit_seconds")),
                words.milliseconds(cost.get("ms_per_query")),
                words.size(cost.get("artifact_bytes")),
            ]
        )
    lines = aligned(table, width, left=2)
    for found in differences:
        lines += ["", *wrapped(found["sentence"], width)]
    return written("\n".join(lines), width, encoding)
