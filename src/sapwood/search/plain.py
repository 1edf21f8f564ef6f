"""Candidates without prompting or training a net: baselines, and readouts on frozen features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapwood.adaptation import Adaptation, BaseRef
from sapwood.context.prompter import Context
from sapwood.interfaces import Event, Floats
from sapwood.readouts import READOUTS
from sapwood.registry import resolve
from sapwood.search.contexts import best_context
from sapwood.search.workbench import Made, Making, Stopped, Workbench


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


def of_encoder(bench: Workbench, name: str, readout: str, encoder: str) -> Making:
    """Make `knn` or `probe` on the features of an encoder."""
    train, dev = bench.splits.train, bench.splits.dev
    yield Event(kind="progress", candidate=name, done=0, total=1)
    known, _ = bench.embed(encoder, "train", train)
    asked, seconds = bench.embed(encoder, "dev", dev)
    read = Rows(known=known, gold=bench.gold(train), asked=asked, seconds=seconds)
    return _read_by(bench, readout, read, base=bench.bases.reference(encoder))


def of_decoder(bench: Workbench, name: str, readout: str, *, under_context: bool = False) -> Making:
    """Make `knn` or `probe` on the features of the job's base, after the instruction or a context.

    With `under_context` the base reads the demonstrations of the best few-shot candidate first, as
    kNN prompting (Xu et al. 2023) and PALP (Cho et al. 2023) do. Neighbours are compared by their
    hidden states: on SST-2 that was as good as the paper's whole next-token distributions and 7
    points better than the distributions over the label words (SmolLM2-135M, 256 anchors).
    """
    dev = bench.splits.dev
    context = best_context(bench) if under_context else bench.context()
    if context is None:
        raise Stopped("no few-shot candidate finished, so there is no context to read under")
    reader = bench.reader(context)
    key = context.describe() or "zero"
    shown = {e.row for e in context.demonstrations}
    rows = [e for e in bench.shuffled if e.row not in shown]
    most = affordable(bench, len(reader.prompter.prefix), len(reader.trie.tokens) - 1)
    first = yield from bench.read(reader, rows[:most], name=name, key=f"{key}/train", scored=False)
    second = yield from bench.read(reader, dev, name=name, key=f"{key}/dev", scored=False)
    each = len(dev) / len(first.features)  # development rows may have been read with scores
    read = Rows(
        known=first.features,
        gold=bench.gold(rows[: len(first.features)]),  # perhaps read when more was affordable
        asked=second.features,
        seconds=first.seconds * each,
        tokens=first.tokens * each,
    )
    return _read_by(
        bench, readout, read, base=bench.bases.reference(bench.job.model), context=context
    )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a readout learns from and is asked: (rows, width) each, and what asking cost."""

    known: Floats
    gold: Sequence[str]
    asked: Floats
    seconds: float
    tokens: float = 0


def _read_by(
    bench: Workbench,
    readout: str,
    rows: Rows,
    *,
    base: BaseRef,
    context: Context | None = None,
) -> Made:
    """Fit a readout and return the candidate."""
    fitted = resolve("readout", READOUTS, readout).fit(
        rows.known, rows.gold, labels=bench.labels, seed=bench.job.seed
    )
    made = Adaptation(
        labels=bench.labels, readout_name=readout, readout=fitted, base=base, context=context,
        facts=bench.facts if context is not None else None,
        max_text_tokens=bench.job.max_length if base.kind == "encoder" else None,
    )  # fmt: skip
    queries = max(1, len(rows.asked))
    return Made(
        adaptation=made,
        dev=fitted.probabilities(rows.asked),
        query_seconds=rows.seconds / queries,
        query_tokens=rows.tokens / queries,
        trainable=_trainable(made.readout),
    )


def _trainable(readout: Any) -> int:
    """Return the number of weights a probe trained; stored neighbours are no weights."""
    logistic = getattr(readout, "logistic", None)
    if logistic is None:
        return 0
    return sum(int(array.size) for array in logistic.state()[1].values())


def affordable(bench: Workbench, prefix: int = 0, labels: int = 0) -> int:
    """Return how many training rows a sixth of the time left can read, 200 at least.

    `prefix`: tokens encoded once for all of them; `labels`: tokens of labels that queries read so
    far had, and these have not.
    """
    if not bench.query_tokens:
        return len(bench.shuffled)
    tokens = bench.tokens_per_second * max(bench.clock.left, 0.0) / 6 - prefix
    return max(200, int(tokens / max(1, bench.query_tokens - labels)))
