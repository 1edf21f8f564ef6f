"""Growing contexts: from 16 to 1,024 demonstrations, encoded exactly or in blocks, and stored.

Measured are the seconds to encode a context, the seconds a query under it, and the bytes of its
keys and values; a line fitted to their logarithms says how they grow with the tokens (1: linear).
Exact contexts end where the base's window does. A stored context is opened by a process of its
own, and so is one that is encoded, so that both start cold; the file may be in the page cache.
Times are medians of interleaved repeats.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _contexts import Prompts, make_prompts
from common import (
    arguments,
    contention,
    finish,
    machine,
    median,
    say,
    sentiment_rows,
    settle,
    timed,
    versions,
)

KEPT = ("prefill_seconds", "seconds_per_query", "bytes")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured; `stored`: demonstrations of the context that is stored."""

    shots: tuple[int, ...] = (16, 64, 256, 1024)
    queries: int = 64
    repeats: int = 3
    stored: int = 256


QUICK = Size(shots=(16, 64, 256), queries=16, repeats=1, stored=64)
SMOKE = Size(shots=(2, 4, 8), queries=3, repeats=1, stored=4)


def encode(decoder: Any, prompts: Prompts, shots: int, way: str) -> Any:
    """Return the context of the first `shots` demonstrations, from nothing kept before."""
    from sapwood.models.blocks import Blocks
    from sapwood.models.decoder import Decoder

    fresh = Decoder(decoder.net)
    if way == "exact":
        return fresh.encode(prompts.exact(shots))
    return Blocks(fresh, prompts.head).prefix(prompts.blocks[:shots])


def fits(decoder: Any, prompts: Prompts, shots: int, way: str) -> bool:
    """Tell whether the base reads so long a context with the longest query."""
    limit = getattr(decoder.net.config, "max_position_embeddings", None) or 1 << 62
    longest = max(len(query) for query in prompts.queries) + len(prompts.trie.tokens)
    return way == "blocks" or len(prompts.exact(shots)) + longest <= limit


def grow(
    decoder: Any, prompts: Prompts, size: Size, name: str, about: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return one row for each way and number of demonstrations of one base."""
    import numpy as np

    arms = [(way, n) for n in size.shots for way in ("exact", "blocks")]
    arms = [(way, n) for way, n in arms if fits(decoder, prompts, n, way)]
    seen: dict[Any, dict[str, list[float]]] = {arm: {k: [] for k in KEPT} for arm in arms}
    facts: dict[Any, dict[str, Any]] = {}
    decoder.label_scores(prompts.queries, prompts.trie, encode(decoder, prompts, 2, "exact"))
    for number in range(size.repeats):
        for way, shots in arms:
            with contention(about):
                prefix, prefill, _ = timed(lambda w=way, s=shots: encode(decoder, prompts, s, w))
                before = decoder.tokens_run
                scores, spent, _ = timed(
                    lambda p=prefix: decoder.label_scores(prompts.queries, prompts.trie, p)
                )
            found = (prefill, spent / len(prompts.queries), float(prefix.bytes))
            for key, value in zip(KEPT, found, strict=True):
                seen[way, shots][key].append(value)
            facts[way, shots] = {
                "tokens": len(prefix.ids),
                "next_position": prefix.next_position,
                "tokens_per_query": (decoder.tokens_run - before) / len(prompts.queries),
                "accuracy": float(np.mean(scores.argmax(1) == np.array(prompts.gold))),
            }
            say(f"  {name} {number + 1}/{size.repeats} {way} {shots}: {prefill:.2f} s to encode, "
                f"{found[1]:.4f} s a query, {prefix.bytes / 1e6:.1f} MB")  # fmt: skip
    return [
        {"row": "growth", "base": name, "way": way, "demonstrations": shots}
        | facts[way, shots]
        | {key: median(values) for key, values in seen[way, shots].items()}
        | {f"{key}_repeats": values for key, values in seen[way, shots].items() if key != "bytes"}
        for way, shots in arms
    ]


def fitted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each base and way the exponents of a power of the context's tokens.

    Seconds a query have a part that no context changes, so their exponent stays below 1; the
    `marginal` one is of what a query takes above the smallest context, where three are left.
    """
    found = []
    for base, way in dict.fromkeys((row["base"], row["way"]) for row in rows):
        some = [r for r in rows if (r["base"], r["way"]) == (base, way)]
        line: dict[str, Any] = {"row": "exponents", "base": base, "way": way, "points": len(some)}
        if len(some) > 1:
            for key in KEPT:
                line[key] = slope([r["tokens"] for r in some], [r[key] for r in some])
            first = some[0]
            rest = [
                (r["tokens"] - first["tokens"], r["seconds_per_query"] - first["seconds_per_query"])
                for r in some[1:]
            ]
            if len(rest) > 1 and all(gain > 0 for _, gain in rest):
                line["marginal_seconds_per_query"] = slope(*zip(*rest, strict=True))
        found.append(line)
    return found


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent of a power law through the points, by least squares of logarithms.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    left, right = [math.log(v) for v in x], [math.log(v) for v in y]
    mean, level = sum(left) / len(left), sum(right) / len(right)
    top = sum((a - mean) * (b - level) for a, b in zip(left, right, strict=True))
    return top / sum((a - mean) ** 2 for a in left)


def start(asked: dict[str, Any]) -> dict[str, Any]:
    """Load a base and answer one query under a context that is encoded or opened; one process."""
    from sapwood.launch import raise_malloc_thresholds

    raise_malloc_thresholds()
    decoder, tokenizer = load(asked["model"], asked["dtype"], asked["store"])
    rows = sentiment_rows(smoke=asked["smoke"])
    prompts = make_prompts(tokenizer, rows, asked["shots"], 1, short=True)
    decoder.label_scores(prompts.queries, prompts.trie)  # warm, but for the context
    before = private_memory()
    begun = time.perf_counter()
    prefix = decoder.encode(prompts.exact(asked["shots"]), stored=bool(asked["store"]))
    ready = time.perf_counter()
    scores = decoder.label_scores(prompts.queries, prompts.trie, prefix)
    done = time.perf_counter()
    return {
        "row": "start",
        "way": "stored" if decoder.tokens_reused else "encoded",
        "demonstrations": asked["shots"],
        "tokens": len(prefix.ids),
        "seconds_until_ready": ready - begun,
        "seconds_until_first_answer": done - begun,
        "private_memory_growth_bytes": private_memory() - before,
        "file_bytes": decoder.store.bytes() if asked["store"] else 0,
        "scores": scores.tolist(),
    }


def private_memory() -> int:
    """Return the bytes of this process that no file backs, 0 where /proc is missing."""
    try:
        words = Path("/proc/self/status").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return 1024 * int(words[words.index("RssAnon:") + 1])


def starts(options: Any, dtype: str, size: Size, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a start costs with the context encoded, first stored, and opened."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stored in (False, True, True):
            asked = {
                "model": options.model, "dtype": dtype, "shots": size.stored,
                "store": folder if stored else "", "smoke": options.smoke,
            }  # fmt: skip
            command = [sys.executable, __file__, "--threads", str(options.threads),
                       "--start", json.dumps(asked)]  # fmt: skip
            with contention(about):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                say(done.stderr[-3000:])
                raise SystemExit("a process of the stored context failed")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            say(f"  {rows[-1]['way']}: {rows[-1]['seconds_until_first_answer']:.3f} s to an answer")
    rows[1]["way"] = "encoded and stored"
    answers = [row.pop("scores") for row in rows]
    for row, answer in zip(rows, answers, strict=True):
        row["scores_equal"] = answer == answers[0]
    return rows


def load(model: str, dtype: str, store: str = "") -> tuple[Any, Any]:
    """Return (decoder, tokenizer)."""
    from sapwood.launch import choose_runtime
    from sapwood.models.decoder import Decoder
    from sapwood.models.load import load_base
    from sapwood.models.stored import ContextStore

    base = load_base(model, choose_runtime("cpu", dtype))
    folder = ContextStore(Path(store), 1 << 40) if store else None
    return Decoder(base.net, weights_key=lambda: base.sha256, store=folder), base.tokenizer


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    from sapwood.launch import choose_runtime, raise_malloc_thresholds

    size = SMOKE if options.smoke else QUICK if options.quick else Size()
    raised = raise_malloc_thresholds()
    about = machine(options.threads) | {"malloc_thresholds_raised": raised}
    dtype = "float32" if options.smoke else choose_runtime("cpu").dtype
    about["dtype"] = dtype
    data = sentiment_rows(smoke=options.smoke)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys((options.model, options.long_model or options.model)):
        decoder, tokenizer = load(name, dtype)
        prompts = make_prompts(tokenizer, data, max(size.shots), size.queries, short=True)
        rows += grow(decoder, prompts, size, Path(name).name, about)
        del decoder
    rows += fitted(rows)
    opened = starts(options, dtype, size, about)
    return {
        "claim": (
            f"With {size.stored} demonstrations, seconds to the first answer of a process that "
            "encodes the context, divided by those of one that opens it stored; and at the most "
            "demonstrations that both ways reach, seconds to encode exactly, divided by blocks"
        ),
        "machine": about,
        "versions": versions(),
        "data": data.source,
        "rows": rows + opened,
        "ratios": ratios(rows, opened),
    }


def ratios(rows: Sequence[dict[str, Any]], opened: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how many times faster a stored context starts, and blocks encode."""
    firsts = [row["seconds_until_first_answer"] for row in opened]
    found = {"stored_context_vs_encoding": firsts[0] / firsts[2]}
    for base in dict.fromkeys(row["base"] for row in rows):
        spent = {
            (row["way"], row["demonstrations"]): row["prefill_seconds"]
            for row in rows
            if row["row"] == "growth" and row["base"] == base
        }
        most = max((n for way, n in spent if way == "exact"), default=None)
        if most is not None:
            found[f"{base}_blocks_vs_exact_encoding"] = spent["exact", most] / spent["blocks", most]
    return found


def main() -> None:
    """Measure and print."""
    import argparse

    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--long-model", default="", help="a second base, such as gemma3-270m")
    parser.add_argument("--start", default="", help=argparse.SUPPRESS)  # one process of `starts`
    options = parser.parse_args()
    settle(options.threads)
    if options.start:
        print(json.dumps(start(json.loads(options.start))), flush=True)
        return
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
