"""Every method tuned under an equal budget, with seeds and intervals: what it scores and costs.

For each method three learning rates (a third, one and three times its default; up to two more
where an end of the range does best) train for the same few steps and the development loss chooses;
then five seeds (start and order of the rows) train with that rate. On one set all methods see the
same rows, steps and batches. Each run leaves a file under --cache: the same call goes on there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _methods_sets import Entities, Labelled, Rows
from common import arguments, clock, contention, finish, machine, say, settle, versions

SETS = {
    "sst2_en": (Labelled, "sentiment/sst2_en", "smollm2-135m"),
    "agnews_en": (Labelled, "topic/agnews_en", "smollm2-135m"),
    "conll2003_en": (Entities, "ner/conll2003_en", "minilm-l6"),
}
# Texts for `together.parse`, or "text" for a start from the words of the prompt; the head alone
# trains on encoders only, where it is the floor.
METHODS = {
    "head": "",
    "bitfit": "bitfit",
    "layernorm": "layernorm",
    "ia3": "ia3",
    "lora": "lora",
    "lora rslora r64": "lora(rank=64, rslora=True)",
    "lora+ 16": "lora(plus=16)",
    "lora pissa": "lora(start=pissa)",
    "dora": "dora",
    "vera": "vera",
    "adapter pfeiffer": "adapter",
    "adapter houlsby": "adapter(placement=houlsby)",
    "adapter parallel": "adapter(placement=parallel)",
    "compacter": "compacter",
    "reft": "reft",
    "prefix random": "prefix(start=random)",
    "prefix mlp": "prefix(start=random, width=256)",
    "prefix vocabulary": "prefix",
    "prefix text": "prefix(start=text)",
    "prompt": "prompt",
    "prompt text": "prompt(start=text)",
    "p-tuning": "p_tuning",
    "prefix + lora": "prefix+lora",
    "full": "full",
}
FACTORS = (1 / 3, 1.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Optimiser steps of a search and of a final run, rows a step, seeds."""

    search: int = 8
    steps: int = 32
    batch: int = 8
    seeds: int = 5
    rows: Rows = Rows(train=256, dev=100, test=200)  # noqa: RUF009


# A decoder reads a few hundred rows in the minutes that an encoder reads thousands.
SIZES = {
    Labelled: Size(),
    Entities: Size(search=60, steps=150, batch=16, rows=Rows(train=2400)),
}
QUICK = Size(search=4, steps=8, seeds=2, rows=Rows(train=128, dev=40, test=60))
SMOKE = Size(search=2, steps=3, batch=4, seeds=2)


class Bench:
    """One set with its base: runs a method and scores it."""

    def __init__(self, name: str, size: Size, options: Any) -> None:
        kind, where, base = SETS[name]
        self.name, self.size = name, size
        self.base = options.model if options.smoke else base
        self.device = options.device
        self.make = lambda: kind(where, size.rows, smoke=options.smoke, device=options.device)
        self.dtype = "float32" if options.smoke else "auto"
        self.sides: dict[str, Any] = {}

    def side(self, dtype: str) -> Any:
        """Return the set over its base in a number format; the last one stays loaded."""
        if dtype not in self.sides:
            self.sides.clear()  # so that no other net counts in the peak
            self.sides[dtype] = self.make()
            self.sides[dtype].load(self.base, dtype)
        return self.sides[dtype]

    def run(self, method: str, rate: float, seed: int, steps: int, part: str) -> dict[str, Any]:
        """Train one method and score `part`; return what it gave and took."""
        from sapwood.methods import parts
        from sapwood.training import Recipe, fit, scaled_optimiser

        side = self.side("float32" if method == "full" else self.dtype)
        chosen = self.method(method, side)
        net = side.net
        try:
            if chosen is not None:
                chosen.attach(net, seed=seed)
            lossy, head = side.supervision(seed)
            weights = {**parts.weights(net), **head}
            recipe = Recipe(learning_rate=rate, batch_size=self.size.batch, seed=seed)
            times = {n: chosen.rate(n) for n in parts.weights(net)} if chosen else {}
            times |= dict.fromkeys(head, HEAD_RATE / rate)
            optimiser = scaled_optimiser(weights, recipe, times)
            net.train()
            _reset_peak(self.device)
            wall, cpu = clock()
            losses = [s.loss for s in fit(lossy, optimiser, recipe, total=steps)]
            end, spent = clock()
            seconds, peak = end - wall, _peak_bytes(self.device)
            net.eval()
            right, loss = side.right(part)
            kept = parts.stored(net)
            return {
                "method": method, "rate": rate, "seed": seed, "steps": steps, "part": part,
                "right": right.tolist(), "score": side.score(right), "loss": loss,
                "losses": losses, "seconds": seconds, "cpu_seconds": spent - cpu,
                "peak_bytes": peak,
                "trained": sum(t.numel() for t in weights.values()),
                "bytes": sum(4 * t.numel() for t in kept.values())
                + sum(4 * t.numel() for t in head.values()),
            }  # fmt: skip
        finally:
            net.eval()
            parts.detach(net)

    def method(self, name: str, side: Any) -> Any:
        """Return the method object of a name, or None for the head alone."""
        from sapwood.methods.together import parse

        text = METHODS[name]
        if "start=text" in text:
            made = parse(text.replace("start=text", "start=vocabulary"))
            return replace(made, start="text", text_ids=side.words)
        return parse(text) if text else None


def _reset_peak(device: str) -> None:
    """Begin to count the peak anew: the device's, on the CPU the process's."""
    import torch

    from sapwood.search.memory import reset_peak

    if device == "cpu":
        reset_peak()
    else:
        torch.cuda.reset_peak_memory_stats()


def _peak_bytes(device: str) -> int:
    import torch

    from sapwood.search.memory import peak_bytes

    return peak_bytes() if device == "cpu" else torch.cuda.max_memory_allocated()


HEAD_RATE = 3e-3  # of the head on encoders, whatever the method below it


def default_rate(name: str, encoder: bool) -> float:
    """Return the rate that the search starts around."""
    from sapwood.methods.defaults import learning_rate
    from sapwood.methods.together import parse

    text = METHODS[name].replace("start=text", "start=vocabulary")
    return learning_rate(parse(text), encoder=encoder) if text else HEAD_RATE


def kept(path: Path, make: Any) -> dict[str, Any]:
    """Return what a file holds, or what `make` gives, written there."""
    from sapwood.files import write_json

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def collect(bench: Bench, method: str, folder: Path) -> list[dict[str, Any]]:
    """Return the final runs of a method, after its search; [] where it is refused."""
    from sapwood.errors import SapwoodError

    encoder = SETS[bench.name][0] is Entities
    if (method == "head" and not encoder) or ("text" in method and encoder):
        return []
    place = folder / bench.name / method.replace(" ", "-")
    middle = default_rate(method, encoder)
    found: dict[float, float] = {}
    rates = [factor * middle for factor in FACTORS]
    try:
        while rates:
            rate = rates.pop(0)
            found[rate] = kept(
                place / f"search-{rate:.2e}.json",
                lambda rate=rate: one(bench, method, rate, 0, bench.size.search, "dev"),
            )["loss"]
            rates = rates or beyond(found)
    except SapwoodError as error:
        say(f"{bench.name} {method}: {error.what}")
        return []
    best = min(found, key=found.__getitem__)
    say(f"{bench.name} {method}: rate {best:.1e}")
    runs = []
    for seed in range(bench.size.seeds):
        run = kept(
            place / f"seed-{seed}.json",
            lambda seed=seed: one(bench, method, best, seed, bench.size.steps, "test"),
        )
        say(f"  seed {seed}: {100 * run['score']:.1f}, {run['seconds']:.0f} s")
        runs.append(run)
    return runs


def beyond(losses: dict[float, float]) -> list[float]:
    """Return the next rate where an end of those tried does best, [] after five.

    >>> [round(rate, 3) for rate in beyond({0.01: 3.0, 0.03: 2.0, 0.1: 1.0})]
    [0.3]
    """
    best = min(losses, key=losses.__getitem__)
    if len(losses) >= 5 or min(losses) < best < max(losses):
        return []
    return [best * 3 if best == max(losses) else best / 3]


def one(bench: Bench, method: str, rate: float, seed: int, steps: int, part: str) -> dict[str, Any]:
    """Return a run; one that diverged has no score and an infinite loss."""
    from sapwood.errors import ModelError

    try:
        return bench.run(method, rate, seed, steps, part)
    except ModelError as error:
        if error.code != "E-MODEL-032":
            raise
        return {"method": method, "rate": rate, "seed": seed, "steps": steps, "score": 0.0,
                "loss": 1e9, "right": None, "seconds": 0.0, "cpu_seconds": 0.0,
                "why": error.what}  # fmt: skip


def means(bench: Bench, runs: Sequence[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Return 500 draws of the mean score, over seeds and rows: the same rows for every method."""
    rng, rows = np.random.default_rng(0), np.random.default_rng(1)
    right = np.array([run["right"] for run in runs])  # (seeds, rows, ...)
    score = bench.make().score
    draws = []
    for _ in range(500):
        some = right[rng.integers(0, len(right), len(right))]
        at = rows.integers(0, right.shape[1], right.shape[1])
        draws.append(np.mean([score(one[at]) for one in some]))
    return np.array(draws)


def interval(draws: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the 95 % interval of draws."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    from sapwood.launch import raise_malloc_thresholds

    raise_malloc_thresholds()
    names = options.sets[:1] if options.quick or options.smoke else options.sets
    about = machine(options.threads) | {"device": device_name(options.device)}
    rows = []
    for name in names:
        size = SMOKE if options.smoke else QUICK if options.quick else SIZES[SETS[name][0]]
        if options.steps:
            search, steps, batch = options.steps
            size = replace(size, search=search, steps=steps, batch=batch)
        bench = Bench(name, size, options)
        drawn: dict[str, np.ndarray[Any, Any]] = {}
        for method in options.methods:
            with contention(about):
                runs = collect(bench, method, options.cache)
            if not runs or any(run["right"] is None for run in runs):
                continue
            drawn[method] = means(bench, runs)
            low, high = interval(drawn[method])
            scores = [run["score"] for run in runs]
            rows.append({
                "set": name, "method": method, "rate": runs[0]["rate"], "mean": np.mean(scores),
                "worst": min(scores), "low": low, "high": high, "seeds": len(runs),
                "steps": size.steps, "batch": size.batch,
                "ms_per_row": 1000 * float(np.median([run["seconds"] for run in runs]))
                / (size.steps * size.batch),
                "cpu_ms_per_row": 1000 * float(np.median([run["cpu_seconds"] for run in runs]))
                / (size.steps * size.batch),
                "peak_bytes": max(run["peak_bytes"] for run in runs),
                "trained": runs[0]["trained"], "bytes": runs[0]["bytes"],
            })  # fmt: skip
        for row in (r for r in rows if r["set"] == name and "full" in drawn):
            row["against_full"] = interval(drawn[row["method"]] - drawn["full"])
    if options.markdown:
        options.markdown.write_text(table(rows), encoding="utf-8")
    return {
        "claim": (
            "Score on the same test rows (accuracy, or span F1 averaged over entity types) of each "
            "method after a search over three to five rates and equal steps; "
            "mean and worst of the seeds, 95 % intervals, also of the difference to full, from "
            "draws of seeds and of rows"
        ),
        "machine": about,
        "versions": versions(),
        "rows": rows,
        "ratios": ratios(rows),
    }


def device_name(device: str) -> str:
    """Return what runs ran on."""
    import torch

    return "cpu" if device == "cpu" else torch.cuda.get_device_name()


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return each method's score as a share of full fine-tuning's, where that was run."""
    whole = {row["set"]: row["mean"] for row in rows if row["method"] == "full"}
    return {
        f"{row['set']} {row['method']} vs full": float(row["mean"] / whole[row["set"]])
        for row in rows
        if row["set"] in whole and row["method"] != "full"
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one Markdown table a set, the best method first."""
    out = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        whole = next((row["mean"] for row in own if row["method"] == "full"), None)
        head = "| method | rate | mean (worst) | against full (95 %) | CPU ms a row | peak GB "
        out += [f"**{name}**", "", head + "| trained | MB |", "|---" * 8 + "|"]
        for row in sorted(own, key=lambda row: -row["mean"]):
            ahead = ""
            if whole is not None and row["method"] != "full":
                low, high = (100 * end for end in row["against_full"])
                ahead = f"{100 * (row['mean'] - whole):+.1f} ({low:.1f} to {high:.1f})"
            out.append(
                f"| {row['method']} | {row['rate']:.1e} | {100 * row['mean']:.1f} "
                f"({100 * row['worst']:.1f}) | {ahead} | {row['cpu_ms_per_row']:.0f} | "
                f"{row['peak_bytes'] / 2**30:.1f} | {row['trained']:,} | {row['bytes'] / 1e6:.2f} |"
            )
        out.append("")
    return "\n".join(out)


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=3,
        metavar=("SEARCH", "STEPS", "BATCH"),
        help="another equal budget: steps of a search and of a run, rows a step",
    )
    parser.add_argument("--cache", type=Path, help="finished runs")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    settle(options.threads)
    from sapwood.config import home

    part = "smoke" if options.smoke else "quick" if options.quick else "whole"
    options.cache = options.cache or home() / "benchmarks" / "methods" / part
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
