"""What more labels buy: every way to use them, at 8 to 1,024 labels, with its cost.

For each set and number of labels `adapt` runs on exactly these labelled rows (its splits come out
of them) and reads the same test rows; then its few-shot candidate is compressed into a prefix that
trains on them, and taught to a LoRA without a context by unlabelled rows. Finished cells are kept
under --cache: the same call goes on there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import (
    arguments,
    contention,
    finish,
    machine,
    made_up,
    say,
    settle,
    shared_folder,
    shuffled,
    versions,
)

# A set's folder, and the base that reads its language.
SETS = {
    "sst2_en": ("sentiment/sst2_en", "smollm2-135m"),
    "agnews_en": ("topic/agnews_en", "smollm2-135m"),
    "chnsenticorp_zh": ("sentiment/chnsenticorp_zh", "gemma3-270m"),
}
SIZES = (8, 32, 128, 512, 1024)
TEST_ROWS, UNLABELLED, PREFIX_TOKENS, TEXT_TOKENS = 200, 256, 32, 96
SHOWN = "few-shot-16"
FAMILIES = ("tf-idf", "zero-shot", "few-shot", "knn", "probe", "lora", "lora+context")


def labelled(rows: Sequence[Any], count: int) -> list[Any]:
    """Return `count` rows, the labels in turn: smaller sets lie in larger ones."""
    piles: dict[str, list[Any]] = {}
    for row in shuffled(rows):
        piles.setdefault(row.label, []).append(row)
    deepest = max(map(len, piles.values()))
    turns = [pile[n] for n in range(deepest) for pile in piles.values() if n < len(pile)]
    return turns[:count]


def write(path: Path, rows: Sequence[Any]) -> None:
    """Write rows as JSON lines."""
    lines = [json.dumps({"text": r.text, "label": r.label}, ensure_ascii=False) for r in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def drain(events: Iterator[Any]) -> Any:
    """Run a generator to its end and return what it returns."""
    try:
        while True:
            next(events)
    except StopIteration as end:
        return end.value


def adapted(
    folder: Path, model: str, options: Any, runtime: Any, only: tuple[str, ...] = FAMILIES
) -> dict[str, Any]:
    """Return the report of `adapt` on the rows beside `folder`; a run that was cut off goes on."""
    from sapwood.report import model_card
    from sapwood.search.adapt import adapt
    from sapwood.search.job import Job, Prompting

    job = Job(
        data=str(folder.parent / "train.jsonl"), test=str(folder.parent / "test.jsonl"),
        out=folder, model=model, encoder=options.encoder, seconds=options.seconds,
        max_length=TEXT_TOKENS, only=only, prompting=Prompting(shots=(16,)),
    )  # fmt: skip
    report: dict[str, Any] = drain(adapt(job, runtime, card=model_card))
    return report


def bridged(folder: Path, data: dict[str, Any], runtime: Any) -> dict[str, dict[str, Any]]:
    """Return the scores and costs of the compressed and the distilled few-shot candidate."""
    from sapwood.adaptation import load, save, size_on_disk
    from sapwood.bridges.compress import Compression, compress
    from sapwood.bridges.distil import Distillation, distil
    from sapwood.evaluation import Bases
    from sapwood.training import Recipe

    teacher = load(folder / "run" / "candidates" / SHOWN / "adaptation")
    bases = Bases(runtime)
    steps = max(3.0, 48 * 16 / max(1, len(data["train"])))  # at least 48 steps, or 3 epochs
    prefix = Compression(
        tokens=PREFIX_TOKENS, recipe=Recipe(learning_rate=5e-3, epochs=min(steps, 24.0))
    )
    makers = {
        "compressed prefix": lambda: compress(bases, teacher, data["train"], settings=prefix),
        "distilled": lambda: distil(
            bases, teacher, [row.text for row in data["unlabelled"]],
            settings=Distillation(recipe=Recipe(learning_rate=5e-4, epochs=2.0)),
        ),
    }  # fmt: skip
    found = {}
    for name, make in makers.items():
        started = time.perf_counter()
        made = drain(make())
        seconds = time.perf_counter() - started
        place = folder / name.replace(" ", "-")
        save(made, place)
        found[name] = {
            **tested(bases, made, data["test"]),
            "fit_seconds": seconds,
            "bytes": size_on_disk(place),
        }
    return found


def tested(bases: Any, made: Any, rows: Sequence[Any]) -> dict[str, float]:
    """Return accuracy with its interval, and milliseconds a query."""
    import numpy as np

    from sapwood.evaluation import Predictor
    from sapwood.metrics import bootstrap_interval

    texts = [row.text for row in rows]
    with Predictor(made, bases) as predictor:
        predictor.probabilities(texts[:1])  # encodes what all queries share
        started = time.perf_counter()
        found = np.concatenate(list(predictor.stream(texts)))
        seconds = time.perf_counter() - started
    said = [made.labels[n] for n in found.argmax(1)]
    score = bootstrap_interval(([row.label for row in rows], said))
    return {
        "accuracy": score.value, "low": score.low, "high": score.high,
        "ms_per_query": 1000 * seconds / len(rows),
    }  # fmt: skip


def cell(name: str, size: int, options: Any, runtime: Any) -> list[dict[str, Any]]:
    """Return one row for each way of using `size` labels of a set, measured or kept from before."""
    from sapwood.tasks.readers import read_folder

    where, base = SETS[name]
    model = options.model if options.smoke else base
    folder = options.cache / f"{name}-{model}-{size}"
    kept = folder / "rows.json"
    if kept.exists():
        return list(json.loads(kept.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    place = shared_folder(where) if not options.smoke else None
    if place is not None:
        tables = read_folder(place)
        train, test = tables["train"].examples, shuffled(tables["test"].examples)[:TEST_ROWS]
    else:
        rows = made_up(("bad", "good"))
        train, test = rows.train[:28], rows.train[28:]
    chosen = labelled(train, size)
    used = {row.row for row in chosen}
    spare = [row for row in shuffled(train) if row.row not in used][:UNLABELLED]
    data = {"train": chosen, "test": test, "unlabelled": spare or chosen}
    for part in ("train", "test"):
        write(folder / f"{part}.jsonl", data[part])
    out = folder / "adapt"
    candidates = adapted(out, model, options, runtime)["candidates"]
    if not any(c["name"] == SHOWN and c["test"] for c in candidates):
        # it was stopped for being clearly behind another; alone it has no rival
        out = folder / "alone"
        again = adapted(out, model, options, runtime, only=("few-shot",))["candidates"]
        candidates = [c for c in candidates if c["name"] != SHOWN] + again
    found = {}
    for candidate in candidates:
        score, cost = candidate["test"], candidate["cost"]
        if score:
            found[candidate["name"]] = {
                "accuracy": score["value"], "low": score["low"], "high": score["high"],
                "ms_per_query": cost["ms_per_query"], "fit_seconds": cost["fit_seconds"],
                "bytes": cost["artifact_bytes"],
            }  # fmt: skip
        else:
            say(f"  {candidate['name']} {candidate['status']}: {candidate['why']}")
    if (out / "run" / "candidates" / SHOWN / "adaptation").exists():
        found |= bridged(out, data, runtime)
    rows_out = [{"set": name, "labels": size, "way": way, **row} for way, row in found.items()]
    kept.write_text(json.dumps(rows_out, indent=1))
    for row in rows_out:
        say(f"  {name} {size} {row['way']}: {row['accuracy']:.3f}, {row['fit_seconds']:.0f} s")
    return rows_out


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one Markdown table a set: accuracy by number of labels, then the cost at the most."""
    out = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        sizes = sorted({row["labels"] for row in own})
        head = ["way", *map(str, sizes), "fit s", "ms a query", "bytes"]
        out += [f"**{name}**", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for way in dict.fromkeys(row["way"] for row in own):
            by = {row["labels"]: row for row in own if row["way"] == way}
            last = by[max(by)]
            cells = [f"{100 * by[n]['accuracy']:.1f}" if n in by else "" for n in sizes]
            cells += [f"{last['fit_seconds']:.0f}", f"{last['ms_per_query']:.1f}"]
            out.append("| " + " | ".join([way, *cells, f"{last['bytes']:,}"]) + " |")
        out.append("")
    return "\n".join(out)


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    from sapwood.launch import choose_runtime, raise_malloc_thresholds

    raised = raise_malloc_thresholds()
    runtime = choose_runtime("cpu", "float32" if options.smoke else "auto")
    about = machine(options.threads) | {"malloc_thresholds_raised": raised, "dtype": runtime.dtype}
    names = list(SETS)[:1] if options.smoke or options.quick else options.sets
    sizes = (24,) if options.smoke else (32, 128) if options.quick else options.sizes
    rows = []
    for size in sizes:
        for name in names:
            say(f"{name}, {size} labels")
            with contention(about):
                rows += cell(name, size, options, runtime)
            if options.markdown:
                options.markdown.write_text(table(rows))
    best = max(rows, key=lambda row: (row["labels"], row["accuracy"]))
    base = [r for r in rows if r["way"] == "tf-idf" and (r["set"], r["labels"]) ==
            (best["set"], best["labels"])]  # fmt: skip
    return {
        "claim": (
            "Accuracy on the same test rows, seconds to fit, milliseconds a query and bytes of "
            "each way to use so many labelled rows; one draw of rows, intervals over test rows"
        ),
        "machine": about,
        "versions": versions(),
        "rows": rows,
        "ratios": {"best_accuracy_vs_tf_idf": best["accuracy"] / max(base[0]["accuracy"], 1e-9)}
        if base
        else {},
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, default=Path("data_curve"), help="finished cells")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=420.0, help="budget of one `adapt`")
    parser.add_argument("--encoder", default=None, help="an encoder for probes beside the base")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
