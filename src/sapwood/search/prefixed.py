"""A candidate that trains: the best few-shot context compressed into a prefix, and tuned there.

With few labels nothing measured came near it on a base that reads the language well
(docs/benchmarks.md, the data curve): it starts from what the prompt already does.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from sapwood.adaptation import Adaptation
from sapwood.bridges.compress import Compression, compress
from sapwood.errors import ConfigError
from sapwood.evaluation import Predictor
from sapwood.interfaces import Event, Floats
from sapwood.search.contexts import best_prompted
from sapwood.search.workbench import Made, Making, Stopped, Workbench, chunks
from sapwood.training import Recipe

TOKENS = 32  # 64 gained nothing on the sets tried, 16 lost a little
RATE = 5e-3
LEAST_STEPS, MOST_EPOCHS, FEWEST_EPOCHS = 48, 24.0, 3.0
SHARE = 0.35  # of the time that is left
BACKWARD = 3.0  # a training step costs about three times what reading its rows does


def compressed(bench: Workbench, name: str) -> Making:
    """Make the prefix that the best few-shot candidate becomes when it trains on all rows."""
    if bench.job.tuning.engine != "torch":
        raise Stopped(f"the engine '{bench.job.tuning.engine}' does not compress contexts")
    teacher = best_prompted(bench)
    if teacher is None:
        raise Stopped("no few-shot candidate finished, so there is no context to compress")
    recipe = _recipe(bench)
    folder = bench.candidate_folder(name)
    settings = Compression(tokens=TOKENS, recipe=recipe)
    try:
        made = yield from _named(
            compress(bench.bases, teacher, bench.splits.train, settings=settings, folder=folder),
            name,
        )
    except ConfigError as error:
        raise Stopped(error.what) from None
    dev, seconds, tokens = yield from _read(bench, name, made)
    assert made.prefix is not None
    return Made(
        adaptation=replace(made, evidence={}),  # times in it would make equal runs differ
        dev=dev,
        trainable=made.prefix.tensor.numel(),
        query_seconds=seconds,
        query_tokens=tokens,
        curve={**made.evidence["compressed"]["curve"], "dev_step": [], "dev": []},
    )


def _recipe(bench: Workbench) -> Recipe:
    """Return how it trains: some epochs over few rows, as few as fit the time over many."""
    settings, rows = bench.job.tuning, len(bench.splits.train)
    batch = min(settings.batch_size, rows)
    wanted = settings.epochs or min(max(FEWEST_EPOCHS, LEAST_STEPS * batch / rows), MOST_EPOCHS)
    if bench.tokens_per_second and settings.epochs is None:
        a_row = BACKWARD * bench.query_tokens / bench.tokens_per_second
        free = max(bench.clock.left - bench.reserve("compressed"), 0.0)
        fits = SHARE * free / a_row  # rows, with repeats
        if fits < min(LEAST_STEPS * batch, rows):
            raise Stopped(
                f"training it would take about {a_row * rows:.0f} s an epoch; "
                f"{max(bench.clock.left, 0):.0f} s are left"
            )
        wanted = min(wanted, fits / rows)
    return Recipe(learning_rate=RATE, batch_size=batch, epochs=wanted, seed=bench.job.seed)


def _named(
    events: Generator[Event, None, Adaptation], name: str
) -> Generator[Event, None, Adaptation]:
    """Pass on what a bridge does under the candidate's name."""
    try:
        while True:
            event = next(events)
            if event.kind == "progress":
                yield Event(
                    kind="progress", candidate=name, done=event.done, total=event.total,
                    note=event.note,
                )  # fmt: skip
    except StopIteration as end:
        made: Adaptation = end.value
        return made
    finally:
        events.close()


def _read(
    bench: Workbench, name: str, made: Adaptation
) -> Generator[Event, None, tuple[Floats, float, float]]:
    """Return (development probabilities, seconds a query, tokens a query)."""
    dev = bench.splits.dev
    texts: Sequence[str] = [e.text for e in dev]
    found: list[Floats] = []
    with Predictor(made, bench.bases) as predictor:
        predictor.probabilities(texts[:1])  # what all queries share is encoded here
        started, before = time.perf_counter(), predictor.tokens
        for done, chunk in chunks(texts):
            found.append(predictor.probabilities(chunk))
            yield Event(kind="progress", candidate=name, done=done, total=len(texts))
        seconds = time.perf_counter() - started
    spent = (predictor.tokens - before) / len(texts)
    return np.concatenate(found), seconds / len(texts), spent
