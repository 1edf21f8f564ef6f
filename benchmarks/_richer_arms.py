"""What both parts of richer_contexts.py share: scoring under a context, rows of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import clock, say

READINGS = ("plain", "batch", "labels")  # no calibration; unlabelled queries; a few labelled rows


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured: queries, labelled rows for calibration, demonstrations, seeds, pool."""

    queries: int = 200
    fitted: int = 32
    shots: int = 8
    seeds: int = 3
    pool: int = 600


QUICK = Size(queries=60, fitted=16, seeds=1, pool=200)
SMOKE = Size(queries=6, fitted=4, shots=2, seeds=1, pool=12)


@dataclass(kw_only=True)
class Kept:
    """Raw results by name, written as they come, so that a run that was cut short goes on."""

    path: Path | None
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what is kept under `name`, else make and keep it."""
        if name not in self.found:
            self.found[name] = make()
            if self.path is not None:
                text = json.dumps(self.found, ensure_ascii=False, indent=1)
                self.path.write_text(text + "\n", encoding="utf-8")
        return self.found[name]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A loaded base and how much to measure."""

    decoder: Any
    tokenizer: Any
    size: Size


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Queries with their gold labels, the labelled rows for calibration first."""

    texts: tuple[str, ...]
    gold: tuple[str, ...]
    fitted: int
    labels: tuple[str, ...]


def load(model: str, size: Size) -> Bench:
    """Load a base in its fastest number format here."""
    from sapwood.launch import choose_runtime
    from sapwood.models.decoder import Decoder
    from sapwood.models.load import load_base

    base = load_base(model, choose_runtime("cpu"))
    return Bench(decoder=Decoder(base.net), tokenizer=base.tokenizer, size=size)


def score(
    bench: Bench,
    context: Any,
    asked: Asked,
    *,
    shown: Sequence[Sequence[Any]] | None = None,
    answers: Any = None,
) -> tuple[Any, tuple[float, float]]:
    """Return (log p (queries, labels), wall and CPU seconds) without encoding what is shared.

    `shown`: demonstrations of each query; `answers`: the context whose label words are scored,
    where it is another one.
    """
    from sapwood.context.prompter import Prompter
    from sapwood.models.trie import build_trie

    prompter = Prompter(bench.tokenizer, context)
    words = prompter if answers is None else Prompter(bench.tokenizer, answers)
    trie = build_trie(words.labels(asked.labels))
    if shown is None:
        prompter.rest(asked.texts[:3])  # settles where the shared prefix ends
        prefix = bench.decoder.encode(prompter.prefix)
        started = clock()
        prompts = prompter.rest(asked.texts)
    else:
        prefix = bench.decoder.encode(())
        started = clock()
        prompts = [prompter.whole(t, d) for t, d in zip(asked.texts, shown, strict=True)]
    scores = bench.decoder.label_scores(prompts, trie, prefix)
    return scores, since(started)


def since(started: tuple[float, float]) -> tuple[float, float]:
    """Return the wall and CPU seconds since `clock` gave `started`."""
    wall, cpu = clock()
    return wall - started[0], cpu - started[1]


def readings(scores: Any, seconds: tuple[float, float], asked: Asked) -> dict[str, Any]:
    """Return which queries were answered rightly under each calibration, and the time of one."""
    import numpy as np

    from sapwood.metrics import label_indices
    from sapwood.readouts import bias

    gold = label_indices(asked.gold, asked.labels)
    few, rest = scores[: asked.fitted], scores[asked.fitted :]
    ways = {
        "plain": bias.none(len(asked.labels)),
        "batch": bias.batch(rest),
        "labels": bias.labels(few, gold[: asked.fitted]),
    }
    right = {
        name: (np.argmax(way.apply(rest), 1) == gold[asked.fitted :]).astype(int).tolist()
        for name, way in ways.items()
    }
    wall, cpu = (1000 * spent / len(asked.texts) for spent in seconds)
    return {"right": right, "ms_per_query": wall, "cpu_ms_per_query": cpu}


def summary(part: str, arm: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one row of the table: mean accuracy over the seeds, with an interval over queries."""
    import numpy as np

    from sapwood.metrics import bootstrap_interval

    row: dict[str, Any] = {"part": part, "arm": arm, "seeds": len(runs)}
    for reading in READINGS:
        right = np.array([run["right"][reading] for run in runs], float)  # (seeds, queries)
        found = bootstrap_interval(right.mean(0))
        row["queries"] = right.shape[1]
        row[reading] = {
            "value": found.value, "low": found.low, "high": found.high,
            "worst_seed": float(right.mean(1).min()), "of_seeds": right.mean(1).tolist(),
        }  # fmt: skip
    for clock_name in ("ms_per_query", "cpu_ms_per_query"):
        row[clock_name] = float(np.median([run[clock_name] for run in runs]))
    best = row["labels"]
    say(
        f"  {part} / {arm}: plain {row['plain']['value']:.3f}, batch {row['batch']['value']:.3f}, "
        f"labels {best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}], "
        f"{row['cpu_ms_per_query']:.0f} ms of CPU"
    )
    return row


def difference(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], reading: str
) -> dict[str, float]:
    """Return the paired difference of two arms over queries, seeds averaged."""
    import numpy as np

    from sapwood.metrics import paired_difference

    a, b = (np.mean([run["right"][reading] for run in runs], axis=0) for runs in (first, second))
    value, low, high = paired_difference(a, b)
    return {"value": value, "low": low, "high": high}
