"""Load on a pool: clients that wait for their answers, arrivals that wait for nobody."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

from _serving_sides import Heard, Work, ask, drawn, percentiles, wait


def capacity(pool: Any, work: Work, clients: int, seconds: float) -> dict[str, float]:
    """Return requests and tokens a second of so many clients that ask without a pause."""
    until = time.perf_counter() + seconds
    models = drawn(work.names, "zipf", 4096)
    done: list[Heard] = []

    def client(number: int) -> None:
        turn = number
        while time.perf_counter() < until:
            prompt = work.prompts[turn % len(work.prompts)]
            done.append(wait(ask(pool, models[turn % len(models)], prompt, work.tokens)))
            turn += clients

    begun = time.perf_counter()
    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    return {
        "requests_per_second": len(done) / took,
        "tokens_per_second": sum(heard.tokens for heard in done) / took,
    }


def offered(pool: Any, work: Work, rate: float, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Let requests arrive by chance, `rate` a second (Poisson), whether there is room or not.

    Latencies count from the arrival that was planned, so that a late sender hides nothing.
    """
    from sapwood.pool.wish import Busy

    rng = random.Random(seed)
    models = drawn(work.names, "zipf", 4096, seed)
    taken: list[Heard] = []
    sent = refused = 0
    begun = time.perf_counter()
    due = begun + rng.expovariate(rate)
    while due < begun + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))
        prompt = work.prompts[sent % len(work.prompts)]
        try:
            taken.append(ask(pool, models[sent % len(models)], prompt, work.tokens, due))
        except Busy:
            refused += 1
        sent += 1
        due += rng.expovariate(rate)
    for heard in taken:
        heard.ended.wait(600)
    took = time.perf_counter() - begun
    time.sleep(0.2)  # a second ending, if there were one, would come now
    whole = [h for h in taken if h.endings in (["stop"], ["length"])]
    found: dict[str, Any] = {
        "requests_offered_per_second": rate, "seconds": seconds, "sent": sent,
        "refused_busy": refused, "accepted": len(taken), "answered_once": len(whole),
        "lost_or_twice": len(taken) - len(whole),
        "goodput_tokens_per_second": sum(h.tokens for h in whole) / took,
    }  # fmt: skip
    if whole:
        found["first_token_ms"] = percentiles([h.first for h in whole])
        found["between_tokens_ms"] = percentiles([b for h in whole for b in h.between] or [0.0])
    return found


def load_rows(pool: Any, tight: Any, work: Work, seconds: float) -> list[dict[str, Any]]:
    """Return rows at 0.3, 0.6, 0.9 of the measured capacity, and at twice as much as there is.

    `tight`: a pool of the same whose queue is short, so that what comes too much is refused.
    """
    most = capacity(pool, work, pool.batch.count, seconds)
    rows: list[dict[str, Any]] = [{"row": "capacity", "clients": pool.batch.count, **most}]
    for share in (0.3, 0.6, 0.9):
        found = offered(pool, work, share * most["requests_per_second"], seconds)
        rows.append({"row": "open_loop", "share_of_capacity": share, **found})
    found = offered(tight, work, 2 * most["requests_per_second"], seconds)
    rows.append({"row": "saturation", "share_of_capacity": 2.0, "queue": tight.queue, **found})
    return rows
