"""Candidates without prompting or training a net: baselines, and readouts on frozen features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sapwood.adaptation import Adaptation
from sapwood.context.prompter import Context
from sapwood.interfaces import Example
from sapwood.readouts import READOUTS
from sapwood.registry import resolve
from sapwood.search.workbench import Event, Made, Making, Workbench


def of_texts(bench: Workbench, name: str, readout: str) -> Making:
    """Make `majority` or `tf-idf`."""
    train, dev = bench.splits.train, bench.splits.dev
    yield Event(kind="progress", candidate=name, done=0, total=1)
    member = resolve("readout", READOUTS, readout)
    fitted = member.fit(
        [e.text for e in train], bench.gold(train), labels=bench.labels, seed=bench.job.seed
    )
    started = time.perf_counter()
    probabilities = fitted.probabilities([e.text for e in dev])
    seconds = time.perf_counter() - started
    made = Adaptation(labels=bench.labels, readout_name=readout, readout=fitted)
    return Made(adaptation=made, dev=probabilities, query_seconds=seconds / max(1, len(dev)))


def of_features(bench: Workbench, name: str, readout: str, encoder: str = "") -> Making:
    """Make `knn` or `probe` on the job's base under the instruction, or on an encoder."""
    train, dev = bench.splits.train, bench.splits.dev
    context: Context | None = None
    tokens = 0.0
    if encoder:
        yield Event(kind="progress", candidate=name, done=0, total=1)
        known, _ = bench.embed(encoder, "train", train)
        rows: Sequence[Example] = train
        asked, seconds = bench.embed(encoder, "dev", dev)
        base = bench.bases.reference(encoder)
    else:
        context = bench.context()
        reader = bench.reader(context)
        first = yield from bench.read(reader, _affordable(bench), name=name, key="zero/train")
        rows = bench.shuffled[: len(first.features)]
        second = yield from bench.read(reader, dev, name=name, key="zero/dev")
        known, asked = first.features, second.features
        seconds, tokens = second.seconds, second.tokens / max(1, len(dev))
        base = bench.bases.reference(bench.job.model)
    member = resolve("readout", READOUTS, readout)
    fitted = member.fit(known, bench.gold(rows), labels=bench.labels, seed=bench.job.seed)
    made = Adaptation(
        labels=bench.labels, readout_name=readout, readout=fitted, base=base, context=context
    )
    return Made(
        adaptation=made,
        dev=made.readout.probabilities(asked),
        query_seconds=seconds / max(1, len(dev)),
        query_tokens=tokens,
        trainable=_trainable(made.readout),
    )


def _trainable(readout: Any) -> int:
    """Return the number of weights a probe trained; stored neighbours are no weights."""
    logistic = getattr(readout, "logistic", None)
    if logistic is None:
        return 0
    return sum(int(array.size) for array in logistic.state()[1].values())


def _affordable(bench: Workbench) -> Sequence[Example]:
    """Return the training rows, or as many of them as a sixth of the time left can read."""
    train = bench.shuffled
    if not bench.query_tokens:
        return train
    tokens = bench.tokens_per_second * max(bench.clock.left, 0.0) / 6
    return train[: max(200, int(tokens / bench.query_tokens))]
