"""From raw label scores to the in-context table: every bias fitted, every interval drawn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from _icl_cells import Cell, read
from numpy.typing import NDArray

Arrays = Mapping[str, Any]
Right = NDArray[np.float64]  # (seeds, queries): 1 where the answer is right

# What `sapwood.readouts.bias.BIASES` reads -> the array of a cell that holds it.
READS = {
    "nothing": "known",
    "content-free inputs": "free",
    "premise": "premise",
    "domain inputs": "domain",
    "generated inputs": "generated",
    "unlabelled rows": "known",
    "labelled rows": "known",
}
ALONE = "premise-alone"  # the answer stem without the context: PMI_DC as first described
CHOSEN = "chosen"  # the estimator with the least cross-validated log loss on the labelled rows
SCORERS = ("direct", "direct-tokens", "direct-bytes", "channel")
FITTED = ("probe", "tf-idf")
RESAMPLES = 2000


def seeds_of(folder: Path, cells: Sequence[Cell]) -> dict[tuple[str, str, int, str], list[Arrays]]:
    """Return the arrays of all seeds by (set, base, shots, scorer), of cells that have a file.

    Rows added later (`part`) are merged in; without demonstrations all seeds share the test rows.
    """
    found: dict[tuple[str, str, int, str], list[Arrays]] = {}
    for cell in cells:
        if cell.part != "scores" or not cell.path(folder).is_file():
            continue
        arrays, about = read(cell.path(folder))
        for extra in folder.glob(cell.path(folder).name.replace("--scores.", "--*.")):
            more, _ = read(extra)
            arrays |= {name: more[name] for name in more if name not in arrays}
        arrays["about"] = about
        found.setdefault((cell.data, cell.base, cell.shots, cell.scorer), []).append(arrays)
    for cell, several in found.items():
        first = next((arrays["test"] for arrays in several if "test" in arrays), None)
        kept = [arrays for arrays in several if "test" in arrays or first is not None]
        found[cell] = [{"test": first, **arrays} for arrays in kept]
    return {key: several for key, several in found.items() if several}


def scaled(arrays: Arrays, scorer: str) -> Arrays:
    """Return the arrays with scores as `scorer` reads them: divided by label lengths or not."""
    if scorer not in ("direct-tokens", "direct-bytes"):
        return arrays
    by = arrays["label_tokens" if scorer == "direct-tokens" else "label_bytes"]
    names = {*READS.values(), "premise_alone", "test"}
    return {name: value / by if name in names else value for name, value in arrays.items()}


def biases(arrays: Arrays) -> dict[str, Any]:
    """Return every bias that the cell has the inputs for, by name."""
    from sapwood.readouts.bias import BIASES, choose_bias, premise

    gold = arrays["known_gold"]
    found = {
        name: estimator.fit(arrays[READS[estimator.reads]], gold, None)
        for name, estimator in BIASES.items()
        if READS.get(estimator.reads) in arrays
    }
    if "premise_alone" in arrays:
        found[ALONE] = premise(arrays["premise_alone"])
    scores = {reads: arrays[name] for reads, name in READS.items() if name in arrays}
    found[CHOSEN], _ = choose_bias({k: v for k, v in scores.items() if k != "nothing"}, gold)
    return found


def common_rows(several: Sequence[Arrays]) -> int:
    """Return how many test rows all seeds have; the first ones are the same."""
    return min(len(arrays[name]) for arrays in several for name in ("test", "test_gold"))


def fitted(several: Sequence[Arrays]) -> dict[str, Right]:
    """Return which answers of a probe and of TF-IDF are right, (seeds, queries)."""
    from sapwood.readouts.probe import Probe

    # Classes of one row each look like a regression to scikit-learn.
    warnings.filterwarnings("ignore", message="The number of unique classes")
    found: dict[str, list[Any]] = {name: [] for name in FITTED}
    count = common_rows(several)
    for arrays in several:
        gold, known = arrays["test_gold"][:count], arrays["known_gold"]
        labels = [str(n) for n in range(int(max(gold.max(), known.max())) + 1)]
        probe = Probe.fit(
            arrays["known"].astype(np.float32), [str(n) for n in known], labels=labels
        )
        said = probe.probabilities(arrays["test"][:count].astype(np.float32)).argmax(1)
        found["probe"].append((said == gold).astype(np.float64))
        found["tf-idf"].append((arrays["tfidf"][:count] == gold).astype(np.float64))
    return {name: np.stack(rows) for name, rows in found.items()}


def answers(several: Sequence[Arrays], scorer: str) -> dict[str, Right]:
    """Return which answers are right under every bias, (seeds, queries)."""
    found: dict[str, list[Any]] = {}
    count = common_rows(several)
    for raw in several:
        arrays = scaled(raw, scorer)
        gold = arrays["test_gold"][:count]
        for name, bias in biases(arrays).items():
            right = bias.apply(arrays["test"][:count]).argmax(1) == gold
            found.setdefault(name, []).append(right.astype(np.float64))
    return {name: np.stack(rows) for name, rows in found.items() if len(rows) == len(several)}


def resampled(right: Right, seed: int = 0) -> NDArray[np.float64]:
    """Return the means of draws of seeds and of queries, both with replacement, (resamples,)."""
    rng = np.random.default_rng(seed)
    seeds, queries = right.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    by_query = rng.multinomial(queries, np.full(queries, 1 / queries), RESAMPLES)
    return np.asarray(((by_seed @ right) * by_query).sum(1) / (seeds * queries), np.float64)


def interval(right: Right) -> tuple[float, float]:
    """Return the 95 % interval of the mean; one seed alone gets Wilson's."""
    from sapwood.metrics import bootstrap_interval

    if len(right) == 1 or bool((right == right[0]).all()):
        score = bootstrap_interval(right[0])
        return score.low, score.high
    low, high = np.percentile(resampled(right), (2.5, 97.5))
    return float(low), float(high)


def table(found: Mapping[tuple[str, str, int, str], list[Arrays]]) -> tuple[list[Any], Any]:
    """Return (one row for each set, base, shots, scorer and bias; the right answers of each)."""
    rows, right = [], {}
    for (data, base, shots, kept), several in found.items():
        if kept == "features":
            hits_by = {(name, "none"): hits for name, hits in fitted(several).items()}
        else:
            scorers = SCORERS[:3] if kept == "direct" else SCORERS[3:]
            hits_by = {
                (scorer, bias): hits
                for scorer in scorers
                for bias, hits in answers(several, scorer).items()
            }
        for (scorer, bias), hits in hits_by.items():
            each = hits.mean(1)
            low, high = interval(hits)
            right[data, base, shots, scorer, bias] = hits
            rows.append({
                "data": data, "base": base, "shots": shots, "scorer": scorer, "bias": bias,
                "seeds": len(hits), "queries": hits.shape[1],
                "labelled_rows": int(np.mean([len(a["known_gold"]) for a in several])),
                "accuracy": float(each.mean()), "worst": float(each.min()),
                "std": float(each.std()), "low": low, "high": high,
                "per_seed": each.round(4).tolist(), "ms_per_query": milliseconds(several),
            })  # fmt: skip
    return rows, right


def milliseconds(several: Sequence[Arrays]) -> float | None:
    """Return the mean milliseconds a test row, the encoding of the context left out, if timed."""
    timed = [1000 * a["test_seconds"] / len(a["test"]) for a in several if "test_seconds" in a]
    return round(float(np.mean(timed)), 1) if timed else None


def difference(pairs: Sequence[tuple[Right, Right]]) -> dict[str, Any]:
    """Return the mean over sets of right minus right, paired, with a 95 % interval."""
    gaps = []
    for left, other in pairs:
        seeds, queries = min(len(left), len(other)), min(left.shape[1], other.shape[1])
        gaps.append(left[:seeds, :queries] - other[:seeds, :queries])
    draws = np.mean([resampled(gap, seed) for seed, gap in enumerate(gaps)], axis=0)
    low, high = np.percentile(draws, (2.5, 97.5))
    mean = float(np.mean([gap.mean() for gap in gaps]))
    return {"difference": mean, "low": float(low), "high": float(high), "sets": len(gaps)}


def compared(right: Mapping[tuple[Any, ...], Right]) -> list[dict[str, Any]]:
    """Return means over the sets of a language: each bias against none, each scorer against direct.

    Both are paired on the same seeds and queries; sets that one side lacks are left out of both,
    and sets that lack one number of demonstrations out of all, so that columns compare. What is
    fitted on the labelled rows stands against the direct scorer with the bias chosen on them.
    """
    every = {key[2] for key in right}
    kinds = {(base, shots, scorer, bias) for _, base, shots, scorer, bias in right}
    rows = []
    for (base, shots, scorer, bias), language in product(sorted(kinds), ("en", "zh")):
        sets = [
            key[0]
            for key in right
            if key[1:] == (base, shots, scorer, bias) and key[0].endswith(language)
            if scorer in FITTED
            or all((key[0], base, other, scorer, bias) in right for other in every)
        ]
        if not sets:
            continue
        own = [right[data, base, shots, scorer, bias] for data in sets]
        none = [right[data, base, shots, scorer, "none"] for data in sets]
        row = {
            "base": base, "language": language, "shots": shots, "scorer": scorer, "bias": bias,
            "sets": sets, "accuracy": float(np.mean([hits.mean() for hits in own])),
            "worst": float(np.mean([hits.mean(1).min() for hits in own])),
            "std": float(np.mean([hits.mean(1).std() for hits in own])),
            "against_none": difference(list(zip(own, none, strict=True))),
        }  # fmt: skip
        other = CHOSEN if scorer in FITTED else bias
        direct = [(data, base, shots, "direct", other) for data in sets]
        both = [(hits, right[key]) for hits, key in zip(own, direct, strict=True) if key in right]
        if scorer != "direct" and both:
            row["against_direct"] = difference(both)
        rows.append(row)
    return rows
