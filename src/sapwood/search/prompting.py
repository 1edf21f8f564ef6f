"""Candidates that prompt the frozen base: zero-shot and few-shot, with a fitted bias."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from sapwood.adaptation import Adaptation
from sapwood.context.prompter import Context
from sapwood.context.select import SELECTORS
from sapwood.evaluation import Reader, Reading
from sapwood.interfaces import Example, Floats
from sapwood.metrics import log_loss
from sapwood.readouts import bias
from sapwood.readouts.bias import Bias
from sapwood.readouts.verbalizer import Verbalizer
from sapwood.registry import resolve
from sapwood.search.workbench import Event, Made, Making, Stopped, Workbench, chunks, joined

# Draws of demonstrations that are compared on training rows: the choice matters more than anything
# else at this size, and the gain flattens after a few draws.
DRAWS = 3
COMPARED_ROWS = 64
# Training rows the bias is fitted on: the shift of a class has a standard error of about 0.15 nats
# with 200 rows, small beside the 1 to 3 nats by which small models lean to one label.
BIAS_ROWS = 192
CONTENT_FREE = ("N/A", "", "[MASK]")


def zero_shot(bench: Workbench, name: str) -> Making:
    """Prompt with the instruction alone."""
    context = bench.context()
    reader = bench.reader(context)
    rows, dev = bench.shuffled[:BIAS_ROWS], bench.splits.dev
    known = yield from bench.read(reader, rows, name=name, key="zero/bias")
    fitted = yield from _bias(bench, reader, known.scores, rows, name)
    asked = yield from bench.read(reader, dev, name=name, key="zero/dev")
    return _made(bench, context, fitted, asked, len(dev))


def few_shot(bench: Workbench, name: str, shots: int, selection: str) -> Making:
    """Prompt with demonstrations from the training rows; of several draws the best is kept."""
    train, dev = bench.splits.train, bench.splits.dev
    shots = min(shots, len(train) // 2)
    selector = resolve("selector", SELECTORS, selection)()
    if selector.sharing == "query":
        context = bench.context(train, selection=selection, shots=shots, sharing="query")
        reader = bench.reader(context)
        _afford_per_query(bench, reader, shots)
        rows = list(bench.shuffled[: BIAS_ROWS // 2])
        known = yield from bench.read(reader, rows, name=name)
    else:
        context, rows, known = yield from _best_draw(bench, name, shots)
        reader = bench.reader(context)
        used = {e.row for e in (*context.demonstrations, *rows)}
        more = [e for e in bench.shuffled if e.row not in used]
        more = more[: BIAS_ROWS - len(rows)]
        if more:
            extra = yield from bench.read(reader, more, name=name)
            rows, known = [*rows, *more], joined([known, extra])
    fitted = yield from _bias(bench, reader, known.scores, rows, name)
    parts: list[Reading] = []
    for done, chunk in chunks([e.text for e in dev]):
        parts.append(reader.read(chunk))
        yield Event(kind="progress", candidate=name, done=done, total=len(dev))
        bench.race(np.exp(fitted.apply(joined(parts).scores)))
        if bench.clock.left < 0:
            raise Stopped("the budget was spent", np.exp(fitted.apply(joined(parts).scores)))
    return _made(bench, context, fitted, joined(parts), len(dev))


def _best_draw(
    bench: Workbench, name: str, shots: int
) -> Generator[Event, None, tuple[Context, list[Example], Reading]]:
    """Return the draw with the lowest calibrated log loss on training rows none of them shows."""
    train, job = bench.splits.train, bench.job
    selector = resolve("selector", SELECTORS, "stratified")()
    draws: list[tuple[Example, ...]] = []
    for draw in range(DRAWS):
        (numbers,) = selector.select(train, [], shots, job.seed + 1000 * draw, labels=bench.labels)
        draws.append(tuple(train[n] for n in numbers))
    shown = {e.row for draw in draws for e in draw}
    rows = [e for e in bench.shuffled if e.row not in shown][:COMPARED_ROWS]
    if len(rows) < 8:  # a tiny training set: nothing is left to compare draws on
        rows, draws = list(bench.shuffled[:COMPARED_ROWS]), draws[:1]
    found: list[tuple[float, Context, Reading]] = []
    for shown_now in draws:
        context = bench.context(shown_now, selection="stratified", shots=len(shown_now))
        reader = bench.reader(context)
        if not found:
            prefill = len(reader.prompter.prefix)
            bench.afford(DRAWS * prefill, share=0.3, what=f"encoding {shots} demonstrations")
        reading = yield from bench.read(reader, rows, name=name)
        loss = _crossed_loss(reading.scores, bench.index(rows))
        found.append((loss, context, reading))
    _, context, reading = min(found, key=lambda item: item[0])
    return context, rows, reading


def _bias(
    bench: Workbench, reader: Reader, scores: Floats, rows: Sequence[Example], name: str
) -> Generator[Event, None, Bias]:
    """Return the estimator with the lowest cross-validated log loss on training rows."""
    gold = bench.index(rows)
    free = reader.read(CONTENT_FREE).scores
    yield Event(kind="progress", candidate=name, done=0, total=1)
    prior = np.bincount(bench.index(bench.splits.train), minlength=len(bench.labels)) + 1.0
    makers: list[Any] = [
        lambda s, g: bias.none(len(bench.labels)),
        lambda s, g: bias.content_free(free),
        lambda s, g: bias.batch(s, prior=prior),
        bias.labels,
        lambda s, g: bias.labels(s, g, slope=True),
    ]
    losses = [_crossed_loss(scores, gold, make) for make in makers]
    chosen: Bias = makers[int(np.argmin(losses))](scores, gold)
    return chosen


def _crossed_loss(scores: Floats, gold: Any, make: Any = bias.labels, folds: int = 5) -> float:
    """Return the log loss of held-out rows, each fold's bias fitted on the others."""
    numbers = np.arange(len(scores))
    total = 0.0
    for fold in range(folds):
        held = numbers % folds == fold
        if not held.any() or held.all():
            continue
        fitted = make(scores[~held], gold[~held])
        total += log_loss(np.exp(fitted.apply(scores[held])), gold[held]) * held.sum()
    return total / max(1, len(scores))


def _made(bench: Workbench, context: Context, fitted: Bias, asked: Reading, rows: int) -> Made:
    readout = Verbalizer(labels=bench.labels, bias=fitted)
    return Made(
        adaptation=Adaptation(
            labels=bench.labels,
            readout_name="verbalizer",
            readout=readout,
            base=bench.bases.reference(bench.job.model),
            context=context,
            embedder=(
                bench.bases.reference(bench.job.encoder)
                if context.selection == "nearest" and bench.job.encoder
                else None
            ),
        ),
        dev=readout.probabilities(asked.scores),
        query_seconds=asked.seconds / max(1, rows),
        query_tokens=asked.tokens / max(1, rows),
    )


def _afford_per_query(bench: Workbench, reader: Reader, shots: int) -> None:
    """Stop before starting when prompts of their own for every row do not fit the budget."""
    sample = bench.splits.dev[:4]
    prompts, _ = reader.prompts([e.text for e in sample])
    length = sum(map(len, prompts)) / max(1, len(prompts))
    rows = BIAS_ROWS // 2 + len(bench.splits.dev) + len(bench.splits.test)
    bench.afford(
        length * rows, share=0.25, what=f"{shots} demonstrations chosen for each of {rows:,} rows"
    )
