"""The soak drill: many registered adaptations, few in memory, every answer compared.

Each adaptation has marks: what it says greedily after fixed prompts, found with its method attached
to the base alone and one plain pass over the whole, before any pool exists. Marks that hang on a
near tie of two tokens are not taken, since rounding may decide those either way.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _serving_sides import (
    Work,
    ask,
    move,
    open_one,
    percentiles,
    resident_bytes,
    wait,
    zipf_weights,
)
from common import say

TOKENS = 8
CLEAR = 2e-3  # least distance of the two best logits that counts as no tie
SCALE = 0.5  # far: hundreds of adaptations must say different things
SAMPLE = 1.0  # seconds between looks at the memory
Marks = dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Drill:
    """How long, how many adaptations, how many of them in memory, how many clients ask."""

    minutes: float
    registered: int
    resident: int
    clients: int = 4
    exponent: float = 1.1


@dataclass
class Seen:
    """What the clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def _mark(net: Any, decoder: Any, prompts: Any, ends: Any) -> list[list[int]] | None:
    """Return what a net says after each prompt; None near a tie of two tokens, or at an end."""
    import torch

    from sapwood.models.choosing import Sampling
    from sapwood.models.generate import generate

    said = generate(decoder, prompts, sampling=Sampling(tokens=TOKENS))
    found = [list(own.ids) for (own,) in said]
    for prompt, ids in zip(prompts, found, strict=True):
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        best = logits.float().topk(2)
        tied = best.indices[:, 0].tolist() != ids or best.values.diff().abs().min() < CLEAR
        if tied or set(ids) & set(ends):
            return None
    return found


def marked(work: Work, root: Path, count: int, method: Any) -> tuple[Work, Marks, int]:
    """Write so many adaptations; return them, their marks, and draws that were not taken."""
    from sapwood.context.turns import end_ids
    from sapwood.methods import parts
    from sapwood.methods.folder import write_method

    base, decoder = work.bases.get(work.base), work.bases.decoder(work.base)
    ends = end_ids(base.tokenizer, base.net.generation_config.eos_token_id)
    folders: dict[str, Path] = {}
    marks: Marks = {}
    seed = 0
    while len(folders) < count:
        seed += 1
        assert seed < 40 * count + 40, "the marks of this base hang on near ties"
        method.attach(base.net, seed=seed)
        move(base.net, seed, SCALE)
        said = _mark(base.net, decoder, [list(prompt) for prompt in work.prompts], ends)
        if said is not None:
            name = f"lora-{len(folders)}"
            folders[name] = root / name
            write_method(
                parts.stored(base.net), method, folders[name], base=work.base, transposed=False
            )
            show = base.tokenizer.decode
            marks[name] = tuple(show(ids, skip_special_tokens=True) for ids in said)
        parts.detach(base.net)
    made = Work(
        bases=work.bases, base=work.base, folders=folders, prompts=work.prompts, tokens=TOKENS
    )
    return made, marks, seed - count


def _client(pool: Any, work: Work, drill: Drill, marks: Marks, until: float, seen: Seen) -> None:
    """Ask by chance until the end and compare."""
    rng = random.Random(threading.get_ident())
    weights = zipf_weights(drill.registered, drill.exponent)
    while time.monotonic() < until:
        (name,) = rng.choices(work.names, cum_weights=weights)
        which = rng.randrange(len(work.prompts))
        heard = wait(ask(pool, name, work.prompts[which], TOKENS))
        with seen.lock:
            seen.answers[name] += 1
            seen.first.append(heard.first)
            if heard.text != marks[name][which] or len(heard.endings) != 1:
                seen.wrong.append(f"{name}: {heard.text!r}, not {marks[name][which]!r}")


def _watched(threads: list[threading.Thread], until: float) -> list[int]:
    """Return the resident memory, sampled while the threads run."""
    found = []
    while any(thread.is_alive() for thread in threads):
        if time.monotonic() < until:
            found.append(resident_bytes())
        time.sleep(min(SAMPLE, max(0.05, (until - time.monotonic()) / 60)))
    return found


def soak_row(work: Work, root: Path, drill: Drill, method: Any) -> dict[str, Any]:
    """Register, ask for so many minutes, compare; return what was seen."""
    begun = time.monotonic()
    work, marks, ties = marked(work, root, drill.registered, method)
    say(f"  {drill.registered} adaptations written in {time.monotonic() - begun:.0f} s")
    begun = time.monotonic()
    pool = open_one(work, work.names, resident=drill.resident, slots=8)
    say(f"  registered in {time.monotonic() - begun:.0f} s")
    seen = Seen()
    loads = _counted_loads(pool)
    until = time.monotonic() + 60 * drill.minutes
    threads = [
        threading.Thread(target=_client, args=(pool, work, drill, marks, until, seen), daemon=True)
        for _ in range(drill.clients)
    ]
    try:
        for thread in threads:
            thread.start()
        sampled = _watched(threads, until)
        here = sum(about.resident for about in pool.models() if about.parent)
    finally:
        lost = pool.stop(5)
    third = max(1, len(sampled) // 3)
    middle, last = sampled[third : 2 * third] or sampled, sampled[-third:]
    answers = sum(seen.answers.values())
    return {
        "row": "soak", "minutes": drill.minutes, "registered": drill.registered,
        "resident_at_most": drill.resident, "resident_at_the_end": here, "clients": drill.clients,
        "zipf": drill.exponent, "answers": answers, "wrong": len(seen.wrong),
        "first_wrong": seen.wrong[:3], "cancelled_at_the_end": lost,
        "adaptations_asked": len(seen.answers), "loads": loads[0],
        "distinct_marks": len(set(marks.values())), "draws_not_taken": ties,
        "answers_per_second": answers / (60 * drill.minutes),
        "first_token_ms": percentiles(seen.first or [0.0]),
        "memory_mb": [round(size / 2**20, 1) for size in sampled[:: max(1, len(sampled) // 20)]],
        "memory_mb_middle_third": sum(middle) / len(middle) / 2**20,
        "memory_mb_last_third": sum(last) / len(last) / 2**20,
        "memory_last_vs_middle": sum(last) * len(middle) / (sum(middle) * len(last)),
    }  # fmt: skip


def _counted_loads(pool: Any) -> list[int]:
    """Return a counter of the adaptations that are loaded from now on."""
    admit, count, lock = pool.shelf.memory.admit, [0], threading.Lock()

    def counting(resident: Any) -> None:
        with lock:
            count[0] += 1
        admit(resident)

    pool.shelf.memory.admit = counting
    return count
