"""What benchmarks/extraction.py says of its runs: means, intervals, tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

DRAWS = 1000
HEADER = (
    "| method | rate | macro F1, mean (worst) | 95 % | against full | micro F1 | partial F1 "
    "| trained | s |"
)


def macro(counts: Any) -> float:
    """Return the mean over types of F1; `counts`: (rows, 3 types)."""
    right, wanted, said = np.asarray(counts).sum(0).reshape(-1, 3).T
    return float(np.mean(2 * right / np.maximum(wanted + said, 1)))


def interval(runs: Sequence[Any], against: Sequence[Any] = ()) -> tuple[float, float]:
    """Return the 95 % interval of the mean macro F1, or of its difference to other runs.

    From draws of seeds and of rows, the same rows on both sides.
    """
    rng = np.random.default_rng(0)
    sides = [np.array([run["test"]["counts"] for run in side]) for side in (runs, against) if side]
    draws = []
    for _ in range(DRAWS):
        at = rng.integers(0, sides[0].shape[1], sides[0].shape[1])
        means = [
            np.mean([macro(side[n][at]) for n in rng.integers(0, len(side), len(side))])
            for side in sides
        ]
        draws.append(means[0] - means[1] if len(means) > 1 else means[0])
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def row_of(name: str, method: str, runs: Sequence[Any], whole: Sequence[Any]) -> dict[str, Any]:
    """Return the result of a method; `whole`: the runs of full fine-tuning, [] before it ran."""
    scores = [run["test"]["macro"] for run in runs]
    low, high = interval(runs)
    found = {
        "set": name, "method": method, "rate": runs[0]["rate"], "macro_f1": np.mean(scores),
        "worst": min(scores), "low": low, "high": high, "seeds": len(runs),
        "micro_f1": np.mean([run["test"]["micro"] for run in runs]),
        "partial_f1": np.mean([run["test"]["partial"] for run in runs]),
        "errors": {
            name: float(np.mean([run["test"]["errors"][name] for run in runs]))
            for name in ("boundary", "type", "boundary and type", "missed", "spurious")
        },
        "seconds": float(np.median([run["seconds"] for run in runs])),
        "trained": runs[0]["trained"], "steps": runs[0]["steps"],
    }  # fmt: skip
    if whole and method != "full":
        gap = found["macro_f1"] - np.mean([run["test"]["macro"] for run in whole])
        found["against_full"] = dict(
            zip(("value", "low", "high"), (float(gap), *interval(runs, whole)), strict=True)
        )
    return found


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return each method's score as a share of full fine-tuning's, where that was run."""
    whole = {row["set"]: row["macro_f1"] for row in rows if row["method"] == "full"}
    return {
        f"{row['set']} {row['method']} vs full": float(row["macro_f1"] / whole[row["set"]])
        for row in rows
        if whole.get(row["set"]) and row["method"] != "full" and row["macro_f1"]
    }


def table(rows: Sequence[dict[str, Any]], floors: dict[str, float]) -> str:
    """Return one Markdown table a set."""
    out = []
    for name in dict.fromkeys(row["set"] for row in rows):
        out += [
            f"**{name}** (dictionary of the training rows: {100 * floors[name]:.1f})", "",
            HEADER, "|---" * 9 + "|",
        ]  # fmt: skip
        for row in rows:
            if row["set"] == name:
                gap = row.get("against_full")
                told = "" if gap is None else (
                    f"{100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} to "
                    f"{100 * gap['high']:+.1f})"
                )  # fmt: skip
                out.append(
                    f"| {row['method']} | {row['rate']:.1e} | {100 * row['macro_f1']:.1f} "
                    f"({100 * row['worst']:.1f}) | {100 * row['low']:.1f} to "
                    f"{100 * row['high']:.1f} | {told} | {100 * row['micro_f1']:.1f} | "
                    f"{100 * row['partial_f1']:.1f} | {row['trained']:,} | {row['seconds']:.0f} |"
                )
        out.append("")
    return "\n".join(out)
