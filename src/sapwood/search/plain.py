"""Candidates without prompting or training a net: baselines, and readouts on frozen features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sapwood.adaptation import Adaptation, BaseRef
from sapwood.context.prompter import Context
from sapwood.interfaces import Example, Floats
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
        asked, seconds = bench.embed(encoder, "dev", dev)
        base = bench.bases.reference(encoder)
    else:
        context = bench.context()
        reader = bench.reader(context)
        _afford(bench, context, [*train, *dev])
        first = yield from bench.read(reader, train, name=name, key="zero/train")
        second = yield from bench.read(reader, dev, name=name, key="zero/dev")
        known, asked = first.features, second.features
        seconds, tokens = second.seconds, second.tokens / max(1, len(dev))
        base = bench.bases.reference(bench.job.model)
    made = _fitted(bench, readout, known, base, context)
    return Made(
        adaptation=made,
        dev=made.readout.probabilities(asked),
        query_seconds=seconds / max(1, len(dev)),
        query_tokens=tokens,
        trainable=_trainable(made.readout),
    )


def _fitted(
    bench: Workbench, readout: str, features: Floats, base: BaseRef, context: Context | None
) -> Adaptation:
    member = resolve("readout", READOUTS, readout)
    gold = bench.gold(bench.splits.train)
    fitted = member.fit(features, gold, labels=bench.labels, seed=bench.job.seed)
    return Adaptation(
        labels=bench.labels, readout_name=readout, readout=fitted, base=base, context=context
    )


def _trainable(readout: Any) -> int:
    """Return the number of weights a probe trained; stored neighbours are no weights."""
    logistic = getattr(readout, "logistic", None)
    if logistic is None:
        return 0
    return sum(int(array.size) for array in logistic.state()[1].values())


def _afford(bench: Workbench, context: Context, examples: Sequence[Example]) -> None:
    characters = sum(min(len(e.text), 4 * bench.job.max_length) for e in examples)
    bench.afford(characters / 2, share=0.5, what=f"reading {len(examples):,} rows")
