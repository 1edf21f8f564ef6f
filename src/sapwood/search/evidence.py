"""The end of a run: the test rows, read once, and everything the report shows."""

from __future__ import annotations

import platform
import time
from collections.abc import Generator, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from sapwood.adaptation import copy
from sapwood.config import VERSION
from sapwood.evaluation import CHUNK, asking
from sapwood.files import write_json, write_text
from sapwood.interfaces import Event, Example, Floats
from sapwood.metrics import (
    accuracy,
    calibration_bins,
    confusion,
    expected_calibration_error,
    per_class,
)
from sapwood.pages.verdict import verdict
from sapwood.search.answered import answered_details
from sapwood.search.deciding import decision_details
from sapwood.search.job import Material
from sapwood.search.marks import joined_said
from sapwood.search.own_context import context_details
from sapwood.search.shown import rendered_examples, worst_errors
from sapwood.search.workbench import Workbench
from sapwood.tally import paired
from sapwood.tasks.card import data_card

SCHEMA = "sapwood.report/1"
BASELINES = ("tf-idf", "dictionary", "n-gram", "majority")
# Seconds of test reading that are granted even when the budget is spent: a report that lacks the
# cheap alternatives would not answer the question.
CHEAP_TEST = 10.0
# Within half a point on the development rows the cheaper candidate is recommended: less than the
# standard error of any development set up to 10,000 rows.
TIE = 0.005
# With fewer development rows accuracy moves in steps of more than a point, and many candidates tie;
# their log loss, to which every row's probability adds, then tells them apart.
COARSE = 100


def choose(bench: Workbench) -> str | None:
    """Return the candidate that the development rows recommend.

    Of near ties the cheapest, or with few development rows the one with the lowest log loss.
    """
    able = [n for n, r in bench.results.items() if r["status"] == "finished"]
    if not able:
        return None
    value = {n: bench.results[n]["dev"]["value"] for n in able}
    best = max(value.values())
    tied = [n for n in able if value[n] >= best - TIE]

    rows = bench.splits.dev
    if len(rows) < COARSE:
        return min(tied, key=lambda n: bench.marks.loss(rows, bench.dev[n]))

    def price(name: str) -> tuple[float, float]:
        return bench.results[name]["ms_per_query"], bench.results[name]["fit_seconds"]

    return min(tied, key=price)


def read_test(bench: Workbench, recommended: str) -> Generator[Event, None, dict[str, Any]]:
    """Return what is said of the test rows (see `marks`), by candidate.

    The recommended and the baselines come first, others while time lasts. Each result is kept on
    disk, so that a rerun reads no test row twice.
    """
    rows = bench.splits.test
    order = [recommended, *(b for b in BASELINES if b in bench.finished)]
    rest = sorted(
        (n for n in bench.finished if bench.results[n]["status"] == "finished" and n not in order),
        key=lambda n: (bench.results[n]["read_ms"], n),
    )
    found: dict[str, Any] = {}
    if not rows:
        return found
    for name in dict.fromkeys([*order, *rest]):
        folder = bench.candidate_folder(name)
        path = folder / f"test.{bench.marks.suffix}"
        if path.exists():
            found[name] = bench.marks.recall(path)
            continue
        needed = bench.results[name]["read_ms"] * len(rows) / 1000
        if name in rest and needed > max(bench.clock.left, CHEAP_TEST):
            continue
        said, seconds, tokens = yield from _asked(bench, name, rows)
        result = bench.results[name]
        # beside the development figures, not over them: those decide, and a rerun decides the same;
        # texts are only scored here, and what writing one takes was measured before
        result["scored" if bench.task.family == "generation" else "served"] = {
            "ms_per_query": 1000 * seconds / len(rows),
            "tokens_per_query": tokens / len(rows),
        }
        write_json(folder / "result.json", result)
        bench.marks.keep(path, said)
        bench.clock.save()
        found[name] = said
    return found


def _asked(
    bench: Workbench, name: str, rows: Sequence[Example]
) -> Generator[Event, None, tuple[Any, float, int]]:
    parts: list[Any] = []
    bench.bases.forget()  # a rerun must read the same
    with asking(bench.finished[name], bench.bases) as asked:
        asked.said(rows[:1])  # encodes the context, which all queries share
        asked.tokens, started = 0, time.perf_counter()
        for start in range(0, len(rows), CHUNK):
            parts.append(asked.said(rows[start : start + CHUNK]))
            done = min(len(parts) * CHUNK, len(rows))
            yield Event(
                kind="progress", candidate=name, done=done, total=len(rows), note="test rows"
            )
        seconds = time.perf_counter() - started
        return joined_said(parts), seconds, asked.tokens


def build_report(
    bench: Workbench, material: Material, tests: dict[str, Any], recommended: str | None
) -> dict[str, Any]:
    """Return report.json. `tests`: what is said of test rows, by candidate."""
    job, splits = bench.job, bench.splits
    tokenizer = bench.bases.get(job.model).tokenizer
    card = data_card(
        material.tables["train"],
        splits,
        lambda texts: [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]],
        dev=material.tables.get("dev"),
        test=material.tables.get("test"),
        limit=job.max_length,
        labels_of=bench.task.labels,
    )
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "task": job.task,
        "splits": {
            "train": len(splits.train),
            "dev": len(splits.dev),
            "test": len(splits.test),
            "dropped": [{"reason": d.reason, "count": len(d.rows)} for d in splits.dropped],
        },
        "candidates": [_candidate(bench, name, tests) for name in bench.results],
        "recommended": recommended,
        "budget": {
            "seconds": job.seconds,
            "spent": round(bench.clock.spent, 1),
            "max_bytes": job.max_bytes,
            "max_ms_per_query": job.max_ms,
        },
        "environment": _environment(bench),
        "metric": _metric(bench),
        "language": _language(card),
        "data": {
            "path": job.data,
            "sha256": material.tables["train"].sha256,
            "columns": _columns(material),
        },
        "data_card": card,
        "comparisons": list(_comparisons(bench, tests, recommended)),
        "curves": {n: r["curve"] for n, r in bench.results.items() if r.get("curve")},
        "forecast": _forecasts(bench),
        "reproduce": {
            "command": job.command,
            "seed": job.seed,
            "hashes": {name: t.sha256 for name, t in material.tables.items()},
        },
    }
    if recommended is not None:
        if not bench.written:
            report["examples"] = rendered_examples(bench, recommended)
        if recommended in tests:
            report |= _details(bench, recommended, tests[recommended])
    sentence, separable = verdict(report, report["language"])
    return {**report, "verdict": sentence, "separable": separable}


def _details(bench: Workbench, name: str, said: Any) -> dict[str, Any]:
    """Return what the report shows of the recommended candidate's test rows."""
    if not bench.written:
        return {**_test_details(bench, said), **decision_details(bench, name, said)}
    found, result = answered_details(bench, said), bench.results[name]
    seconds = result.get("scored", result)["ms_per_query"] / 1000
    found["panel"] |= context_details(bench, name, said, seconds)
    return found


def _metric(bench: Workbench) -> str:
    known = (r["dev"]["metric"] for r in bench.results.values() if r.get("dev"))
    return str(next(known, bench.task.metric))


def _forecasts(bench: Workbench) -> list[dict[str, Any]]:
    """Return forecast and actual training seconds of the candidates that had a forecast."""
    return [
        {
            "candidate": name,
            "forecast_seconds": result["forecast_seconds"],
            "actual_seconds": sum(result["curve"]["seconds"]),
        }
        for name, result in bench.results.items()
        if result.get("forecast_seconds")
    ]


def _candidate(bench: Workbench, name: str, tests: dict[str, Any]) -> dict[str, Any]:
    result = bench.results[name]
    empty = {"context": None, "prefix": None, "method": None, "readout": None}
    served = result.get("served", result)
    return {
        "name": name,
        "parts": result.get("parts", empty),
        "status": result["status"],
        "why": result["why"],
        "base": result.get("base"),
        "notes": result.get("notes") or {},
        "dev": result["dev"],
        "test": _test_score(bench, tests[name]) if name in tests else None,
        "cost": {
            "fit_seconds": result["fit_seconds"],
            "trainable_parameters": result.get("trainable_parameters", 0),
            "artifact_bytes": result.get("artifact_bytes", 0),
            "ms_per_query": served.get("ms_per_query"),
            "tokens_per_query": served.get("tokens_per_query"),
            "peak_bytes": result["peak_bytes"],
        },
    }


def _test_score(bench: Workbench, said: Any) -> dict[str, Any]:
    rows = bench.splits.test
    score = bench.marks.tally(rows, said).interval(bench.job.seed)
    return {
        "metric": score.metric, "value": score.value, "low": score.low, "high": score.high,
        **bench.marks.further(rows, said),
    }  # fmt: skip


def _comparisons(
    bench: Workbench, tests: dict[str, Any], recommended: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the paired difference of every candidate with the best cheap baseline, on test."""
    base = next((b for b in BASELINES if b in tests), None)
    marked = {n: bench.marks.tally(bench.splits.test, said) for n, said in tests.items()}
    pairs = [(n, base) for n in tests if base and n != base]
    pairs += [(recommended, n) for n in tests if recommended in tests and n not in
              (recommended, base)]  # fmt: skip
    for one, other in pairs:
        assert one is not None and other is not None
        difference, low, high = paired(marked[one], marked[other], seed=bench.job.seed)
        yield {
            "candidate": one, "against": other, "difference": difference, "low": low,
            "high": high, "split": "test",
        }  # fmt: skip


def _test_details(bench: Workbench, probabilities: Floats) -> dict[str, Any]:
    rows = bench.splits.test
    gold, said = bench.gold(rows), bench.marks.words(probabilities)
    labels = sorted({*bench.labels, *gold})
    index = bench.index(rows)
    bins = calibration_bins(probabilities, index)
    return {
        "confusion": {"labels": labels, "counts": confusion(gold, said, labels).tolist()},
        "per_class": [
            {"label": c.label, "precision": c.precision, "recall": c.recall, "f1": c.f1,
             "support": c.support} for c in per_class(gold, said, labels)
        ],
        "calibration": {
            "bins": [
                {"confidence": b.confidence, "accuracy": b.accuracy, "count": b.count}
                for b in bins
            ],
            "ece": expected_calibration_error(probabilities, index),
        },
        "errors": worst_errors(bench, rows, probabilities, said),
        "test_accuracy": accuracy(gold, said),
    }  # fmt: skip


def predictions(bench: Workbench, said: Any) -> list[dict[str, Any]]:
    """Return the recommended candidate's test predictions, for `sapwood compare`.

    Where answers are written freely, with what the wanted ones cost: `nats` and `bytes`.
    """
    rows = bench.splits.test
    found: list[dict[str, Any]] = [
        {"text": e.text, "label": str(e.label), "predicted": words}
        for e, words in zip(rows, bench.marks.words(said), strict=True)
    ]
    if bench.task.family == "generation":
        for row, answer in zip(found, said, strict=True):
            row |= {"nats": answer.nats, "bytes": answer.bytes}
    return found


def hand_over(bench: Workbench, report: dict[str, Any], card: str) -> None:
    """Copy the recommended candidate to OUT/adaptation with its evidence and model card."""
    name = report["recommended"]
    target = bench.job.out / "adaptation"
    chosen = next(c for c in report["candidates"] if c["name"] == name)
    evidence = {
        "candidate": name,
        "verdict": report["verdict"],
        "dev": chosen["dev"],
        "test": chosen["test"],
        "cost": chosen["cost"],
        "splits": report["splits"],
        "data": report["data"],
        "seed": bench.job.seed,
        "environment": report["environment"],
    }
    copy(bench.candidate_folder(name) / "adaptation", target, {"evidence": evidence})
    write_text(target / "README.md", card)


def _environment(bench: Workbench) -> dict[str, Any]:
    runtime = bench.bases.runtime
    names = [n for n in (bench.job.model, bench.job.encoder) if n]
    bases = [bench.bases.get(name) for name in names]
    return {
        "sapwood": VERSION,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "machine": f"{platform.system()} {platform.machine()}",
        "engine": bench.job.tuning.engine,
        "device": runtime.device,
        "threads": runtime.threads,
        "dtype": runtime.dtype,
        "bases": [
            {"name": b.name, "sha256": b.sha256, "license": b.licence, "hub_id": b.upstream}
            for b in bases
        ],
    }


def _language(card: dict[str, Any]) -> str:
    shares = card.get("languages") or {}
    return "zh" if max(shares, key=lambda k: shares[k], default="en") == "zh" else "en"


def _columns(material: Material) -> dict[str, Any]:
    columns = material.tables["train"].columns
    return {"text": columns.text, "label": columns.label}
