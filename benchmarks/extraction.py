"""Named entities on a small encoder: adapter, prefix and LoRA beside full fine-tuning of it.

On each set every method trains for the same few epochs with three learning rates (a third, one and
three times its default; up to two more where an end of the range does best) and the macro F1 of the
development rows chooses; then every seed (start, order of the rows) trains with that rate, for
equal epochs again. The way of training is the product's own: tags of all words, valid transitions,
windows. Each run leaves a file under --cache: the same call goes on there.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _extraction_rows import ratios, row_of, table
from _noise import posted
from common import arguments, contention, finish, machine, say, settle, versions, wanted_folder

BASE = "minilm-l6"
WHERE = "ner/conll2003_en"
SETS = ("conll2003_en", "conll2003_en as posts")
METHODS = {
    "head": "",
    "adapter": "adapter",
    "prefix": "prefix",
    "lora": "lora",
    "full": "full",
    "adapter houlsby": "adapter(placement=houlsby, width=96, scale=4.0)",
    "lora r32": "lora(rank=32, alpha=64)",
    "prefix 60": "prefix(tokens=60)",
}
PARTS = ("train", "dev", "test")
FACTORS = (1.0, 1 / 3, 3.0)
MOST_RATES = 5
TEXT_TOKENS = 128
HEAD_RATE = 3e-3  # of the head, whatever the method below it, as `search.tagging` has it
MADE_UP = [
    {"tokens": ["this", "is", "good"], "ner_tags": ["O", "O", "B-X"]},
    {"tokens": ["the", "rest", "on", "it"], "ner_tags": ["B-X", "I-X", "O", "B-Y"]},
]


@dataclass(frozen=True, kw_only=True)
class Size:
    """Passes over the training rows of a search and of a final run, rows a step, seeds, rows."""

    search: float = 4.0
    epochs: float = 4.0
    batch: int = 16
    seeds: int = 3
    rows: tuple[int, int, int] = (2500, 500, 1500)


WHOLE = Size()
QUICK = Size(search=1.0, epochs=2.0, seeds=2, rows=(300, 100, 200))
SMOKE = Size(search=0.5, epochs=1.0, batch=4, seeds=2, rows=(8, 4, 4))


class Bench:
    """One set over its base: trains a method and scores it."""

    def __init__(self, name: str, size: Size, options: Any) -> None:
        from sapwood.tasks.structured import schema_of
        from sapwood.training.tagging import choose_scheme

        self.name, self.size = name, size
        self.parts = {
            part: self._read(part, rows, options)
            for part, rows in zip(PARTS, size.rows, strict=True)
        }
        self.encoders: dict[str, Any] = {}
        self.options, self.runs = options, 0
        train, tokenizer = self.parts["train"], self.load("auto")[1]
        self.scheme = choose_scheme(tokenizer, train, schema_of(train), max_length=TEXT_TOKENS)

    def load(self, dtype: str) -> Any:
        """Load the base in a number format; the last one stays in memory."""
        from sapwood.launch import choose_runtime
        from sapwood.models.encoder import Encoder
        from sapwood.models.load import load_base

        if dtype not in self.encoders:
            self.encoders.clear()
            found = load_base(self.options.model, choose_runtime(self.options.device, dtype))
            self.encoders[dtype] = Encoder(found.net), found.tokenizer, str(found.net.dtype)
        return self.encoders[dtype]

    def _read(self, part: str, rows: int, options: Any) -> list[Any]:
        """Return the examples of a part, written as posts where the set is."""
        from sapwood.tasks.structured import read_task

        if options.smoke:
            records: list[dict[str, Any]] = MADE_UP * 4
        else:
            folder = wanted_folder(WHERE)
            lines = (Path(folder) / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
            records = [json.loads(line) for line in lines]
        file = options.cache / self.name.replace(" ", "-") / f"{part}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        made = []
        for record in records[:rows]:
            tokens, tags = record["tokens"], record.get("ner_tags") or record.get("tags")
            if self.name.endswith("posts"):
                tokens, tags = posted(tokens, tags)
            made.append(json.dumps({"tokens": tokens, "ner_tags": tags}) + "\n")
        file.write_text("".join(made), encoding="utf-8")
        return list(read_task(file, "entities").examples)

    def run(self, method: str, rate: float, seed: int | None) -> dict[str, Any]:
        """Train one method and score test rows; without a seed shortly, and development rows."""
        from sapwood.evaluation.tagger import Tagger
        from sapwood.methods import parts
        from sapwood.methods.defaults import times as scales
        from sapwood.methods.together import parse
        from sapwood.readouts.tags import Tags
        from sapwood.training import Recipe, fit, head_weights, scaled_optimiser, started
        from sapwood.training.tagging import TaggingSupervision, TrainedTags, tagging_rows

        # small steps on all weights would round to nothing in bfloat16
        encoder, tokenizer, dtype = self.load("float32" if method == "full" else "auto")
        net, first = encoder.net, seed or 0
        chosen = parse(METHODS[method]) if METHODS[method] else None
        part = "dev" if seed is None else "test"
        try:
            if chosen is not None:
                chosen.attach(net, seed=first)
            rows = tagging_rows(
                tokenizer, self.parts["train"], self.scheme, max_length=TEXT_TOKENS, seed=first
            ).rows
            start = Tags.start(self.scheme, net.config.hidden_size, seed=first)
            head = TrainedTags(start, device=encoder.device)
            weights = head_weights(net, head)
            recipe = Recipe(
                learning_rate=rate,
                batch_size=self.size.batch,
                epochs=self.size.search if seed is None else self.size.epochs,
                seed=first,
            )
            times = dict.fromkeys(head.weights(), HEAD_RATE / rate)
            if chosen is not None:
                times |= scales(net, chosen, encoder=True)
            supervision = TaggingSupervision(encoder, rows, head)
            started(net, supervision)
            optimiser = scaled_optimiser(weights, recipe, times)
            began = time.perf_counter()
            total = recipe.steps(len(rows))
            losses = [step.loss for step in fit(supervision, optimiser, recipe, total=total)]
            seconds = time.perf_counter() - began
            net.eval()
            tagger = Tagger(encoder, tokenizer, head.readout(), max_length=TEXT_TOKENS)
            return {
                "method": method, "rate": rate, "seed": seed, "steps": total,
                part: self._scored(part, tagger),
                "loss": float(np.mean(losses[-20:])), "seconds": seconds,
                "trained": sum(t.numel() for t in weights.values()),
                "device": str(encoder.device), "dtype": dtype,
            }  # fmt: skip
        finally:
            net.eval()
            parts.detach(net)

    def _scored(self, part: str, reader: Any) -> dict[str, Any]:
        """Return the scores of a part, and (right, wanted, said) of each row and type."""
        from sapwood.tasks import matching
        from sapwood.tasks.scoring import details

        gold = self.parts[part]
        said = reader.answers([e.text for e in gold])
        types, counts = matching.count_by_type(gold, said, matching.entity)
        found = details("entities", gold, said)
        return {
            "types": list(types), "counts": counts.astype(int).tolist(),
            "macro": found["macro"]["f1"], "micro": found["strict"]["f1"],
            "partial": found["partial"]["f1"], "errors": found["errors"],
        }  # fmt: skip

    def floor(self) -> dict[str, Any]:
        """Return the scores of a dictionary of the training rows' names."""
        from sapwood.readouts.dictionary import Dictionary

        return self._scored("test", Dictionary.fit(self.parts["train"]))


def default_rate(method: str) -> float:
    """Return the rate that the search starts from."""
    from sapwood.methods.defaults import learning_rate
    from sapwood.methods.together import parse

    return learning_rate(parse(METHODS[method]), encoder=True) if METHODS[method] else HEAD_RATE


def kept(path: Path, make: Any) -> dict[str, Any]:
    """Return what a file holds, or what `make` gives, written there."""
    from sapwood.files import write_json

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def collect(bench: Bench, method: str, folder: Path) -> list[dict[str, Any]]:
    """Return the runs of a method with the rate that did best, one a seed."""
    place = folder / bench.name.replace(" ", "-") / method.replace(" ", "-")

    def run(rate: float, seed: int | None = None) -> dict[str, Any]:
        name = "search" if seed is None else f"seed-{seed}"
        path = place / f"rate-{rate:.2e}-{name}.json"
        fresh = not path.is_file()
        if fresh and bench.runs == bench.options.runs:
            raise SystemExit("the runs of this call are made; the same call goes on")
        found = kept(path, lambda: one(bench, method, rate, seed))
        if fresh:
            bench.runs += 1
            score, seconds = found["dev" if seed is None else "test"]["macro"], found["seconds"]
            say(f"{bench.name} {method} {rate:.1e} {name}: {100 * score:.1f}, {seconds:.0f} s")
        return found

    middle = default_rate(method)
    scores: dict[float, float] = {}
    rates = [factor * middle for factor in FACTORS]
    while rates:
        rate = rates.pop(0)
        scores[rate] = run(rate)["dev"]["macro"]
        rates = rates or beyond(scores)
    best = max(scores, key=scores.__getitem__)
    return [run(best, seed) for seed in range(bench.size.seeds)]


def beyond(scores: dict[float, float]) -> list[float]:
    """Return the next rate where an end of those tried does best, [] after MOST_RATES.

    >>> beyond({1.0: 0.5, 2.0: 0.6, 4.0: 0.7}), beyond({1.0: 0.5, 2.0: 0.8, 4.0: 0.7})
    ([12.0], [])
    """
    best = max(scores, key=scores.__getitem__)
    if len(scores) >= MOST_RATES or min(scores) < best < max(scores):
        return []
    return [best * 3 if best == max(scores) else best / 3]


def one(bench: Bench, method: str, rate: float, seed: int | None) -> dict[str, Any]:
    """Return a run; one that diverged finds nothing."""
    from sapwood.errors import ModelError

    try:
        return bench.run(method, rate, seed)
    except ModelError as error:
        if error.code != "E-MODEL-032":
            raise
        nothing = {"types": [], "counts": None, "macro": 0.0, "micro": 0.0}
        return {"method": method, "rate": rate, "seed": seed, "dev": nothing, "test": nothing,
                "seconds": 0.0, "why": error.what}  # fmt: skip


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    from sapwood.launch import raise_malloc_thresholds

    raise_malloc_thresholds()
    size = SMOKE if options.smoke else QUICK if options.quick else WHOLE
    if options.seeds:
        size = replace(size, seeds=options.seeds)
    about = machine(options.threads)
    rows: list[dict[str, Any]] = []
    floors = {}
    for name in options.sets:
        bench = Bench(name, size, options)
        floors[name] = bench.floor()["macro"]
        every: dict[str, list[Any]] = {}
        for method in sorted(options.methods, key=lambda method: method != "full"):
            with contention(about):
                every[method] = collect(bench, method, options.cache)
        rows += [
            row_of(name, method, runs, every.get("full", []))
            for method, runs in every.items()
            if all(run["test"]["counts"] is not None for run in runs)
        ]
        if options.markdown:
            options.markdown.write_text(table(rows, floors), encoding="utf-8")
    return {
        "claim": (
            "Span F1 averaged over entity types on the same test rows, of each method after a "
            "search over three to five rates and equal epochs; mean and worst of the seeds, 95 % "
            "intervals, also of the difference to full fine-tuning, from draws of seeds and rows"
        ),
        "machine": about,
        "versions": versions(),
        "size": {
            "search": size.search,
            "epochs": size.epochs,
            "batch": size.batch,
            "rows": list(size.rows),
        },
        "floors": floors,
        "rows": rows,
        "ratios": ratios(rows),
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, help="finished runs")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, help="runs of each method (default 3)")
    parser.add_argument("--runs", type=int, help="stop after so many new runs")
    parser.add_argument("--device", default="cpu", help="where to train (default cpu)")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    parser.set_defaults(model=BASE)
    options = parser.parse_args()
    settle(options.threads)
    from sapwood.config import home

    part = "smoke" if options.smoke else "quick" if options.quick else "whole"
    options.cache = options.cache or home() / "benchmarks" / "extraction" / part
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
