"""What comes before the first token: an adaptation loaded, a context read; and what each keeps."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

from _serving_sides import Heard, Work, ask, open_one, resident_bytes, wait
from common import median, say, sentiment_rows, shuffled


def first_ms(pool: Any, model: str, ids: Any) -> float:
    """Return milliseconds to the first token of one request."""
    return 1000 * wait(ask(pool, model, ids, 1)).first


def cold_row(work: Work, repeats: int) -> dict[str, Any]:
    """Return times to the first token of adaptations that are in memory and that are not."""
    one, other = work.names[:2]
    pool = open_one(work, (one, other), resident=1)
    cold, warm = [], []
    prompt = work.prompts[0]
    try:
        for _ in range(repeats):
            for name in (one, other):
                cold.append(first_ms(pool, name, prompt))
                warm.append(first_ms(pool, name, prompt))
    finally:
        pool.stop(1)
    found = {"cold_first_token_ms": median(cold), "resident_first_token_ms": median(warm)}
    load = found["cold_first_token_ms"] - found["resident_first_token_ms"]
    return {"row": "cold_load", "prompt_tokens": len(prompt), **found, "load_ms": load}


def with_context(work: Work, folder: Path, length: int, *, smoke: bool) -> Any:
    """Save an adaptation that is demonstrations of about `length` tokens; return its prompter."""
    from sapwood.adaptation import Adaptation, save
    from sapwood.context.prompter import Context, Prompter
    from sapwood.context.template import default_template
    from sapwood.evaluation import sealed
    from sapwood.readouts import bias
    from sapwood.readouts.verbalizer import Verbalizer

    data = sentiment_rows(smoke=smoke)
    rows = shuffled(data.train)
    template = default_template(data.labels, [row.text for row in rows[:200]])
    tokenizer = work.bases.get(work.base).tokenizer
    shown = 4
    while True:
        context = Context(
            template=template, demonstrations=tuple(rows[:shown]), selection="given", shots=shown
        )
        prompter = Prompter(tokenizer, context)
        if len(prompter.prefix) >= length or shown >= len(rows) - 1:
            break
        shown += 1
    made = Adaptation(
        labels=data.labels, readout_name="verbalizer",
        readout=Verbalizer(
            labels=data.labels, bias=bias.none(len(data.labels)), normalise="trie"
        ),
        base=work.bases.reference(work.base), context=context,
    )  # fmt: skip
    save(sealed(made, work.bases, rows[-1:]), folder)
    return prompter


def context_row(work: Work, root: Path, size: Any, *, smoke: bool) -> dict[str, Any]:
    """Return times to the first token behind a served context and with the same tokens sent."""
    from sapwood.models.choosing import Sampling
    from sapwood.pool.wish import Wish

    prompter = with_context(work, root / "context", size.context, smoke=smoke)
    pool = open_one(work, (), resident=2, tokens=4096)
    hit, miss, cached = [], [], 0
    try:
        pool.open("context", root / "context")
        for number in range(2 * size.repeats):
            text = f"review number {number}, a fine film"
            (rest,) = prompter.rest([text])
            miss.append(first_ms(pool, work.base, (*prompter.prefix, *rest)))
            heard = Heard(time.perf_counter())
            pool.write(Wish(model="context", text=text, sampling=Sampling(tokens=1)), heard)
            hit.append(1000 * wait(heard).first)
            cached = heard.cached
    finally:
        pool.stop(1)
    return {
        "row": "context", "context_tokens": len(prompter.prefix), "cached_tokens": cached,
        "hit_first_token_ms": median(hit), "miss_first_token_ms": median(miss),
    }  # fmt: skip


def memory_row(work: Work) -> dict[str, Any]:
    """Return bytes of a resident adaptation: what it says, and what the process grew by."""
    warm, *names = work.names
    pool = open_one(work, (warm,), resident=len(names) + 1)
    try:
        gc.collect()
        before = resident_bytes()
        for name in names:
            pool.open(name, work.folders[name])
        gc.collect()
        grown = resident_bytes() - before
        said = [about.bytes for about in pool.models() if about.parent]
        assert all(about.resident for about in pool.models())
    finally:
        pool.stop(1)
    say(f"  {len(names)} adaptations: {grown / len(names) / 2**20:.1f} MiB each")
    return {
        "row": "memory", "adaptations": len(names), "own_bytes": median(said),
        "resident_growth_bytes_each": grown / len(names),
    }  # fmt: skip
