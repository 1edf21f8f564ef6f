"""Which demonstrations to show and in which order: drawn, grown, ordered, or chosen per query."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sapwood.adaptation import Adaptation
from sapwood.context.bank import build_bank, compact
from sapwood.context.greedy import CANDIDATES, rounds
from sapwood.context.order import ORDERS, permutations, spread
from sapwood.context.prompter import Context
from sapwood.context.select import SELECTORS
from sapwood.evaluation import Reading
from sapwood.interfaces import Event, Example, Floats
from sapwood.readouts.bias import choose_bias
from sapwood.registry import resolve
from sapwood.search.workbench import Stopped, Workbench

# Draws of demonstrations that are compared on training rows: the choice matters more than anything
# else at this size, and the gain flattens after a few draws.
DRAWS = 3
# Orders that are compared: each costs an encoding of most of the context.
ORDERS_TRIED = 8
COMPARED_ROWS = 64
MOST_POOL = 2000  # rows a bank is built from, and a selector searches for each query


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One way to prompt: a rung of the ladder, or what the user asked for.

    `reuse`: take the best context found before instead of choosing one. `scorer` None: of the
    direct ones that which predicts training rows best.
    """

    shots: int = 0
    selection: str = "stratified"
    order: str = "given"
    scorer: str | None = None
    encoding: str = "exact"
    reuse: bool = False

    @property
    def channel(self) -> bool:
        """Return whether texts are scored given labels."""
        return self.scorer == "channel"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A context, with labelled rows that it does not show and what was read of them, if any.

    `notes`: what the search for it found, for the report.
    """

    context: Context
    rows: Sequence[Example] = ()
    reading: Reading | None = None
    notes: dict[str, Any] = field(default_factory=dict)


Drafting = Generator[Event, None, Draft]


def drafted(bench: Workbench, name: str, prompt: Prompt) -> Drafting:
    """Return the context of a prompt, searched for on training rows that it does not show."""
    if prompt.reuse:
        found = best_context(bench)
        if found is None:
            raise Stopped("no few-shot candidate finished, so there is no context to go on from")
        draft = Draft(context=found)
    elif not prompt.shots:
        draft = Draft(context=bench.context())
    else:
        draft = yield from _chosen(bench, name, prompt)
    if prompt.order != "given" and draft.context.sharing == "all":
        draft = yield from _ordered(bench, name, prompt, draft)
    return draft


def best_context(bench: Workbench) -> Context | None:
    """Return the context of the best few-shot candidate that all queries share, or None."""
    found = best_prompted(bench)
    return None if found is None else found.context


def best_prompted(bench: Workbench) -> Adaptation | None:
    """Return the best few-shot candidate whose context all queries share, or None."""
    found = {
        name: made
        for name, made in bench.finished.items()
        if made.context is not None
        and made.context.shots
        and made.context.sharing == "all"
        and made.method is None
        and made.prefix is None
        and made.readout_name == "verbalizer"
        and made.readout.state()[0].get("scorer") != "channel"
    }
    if not found:
        return None
    return found[max(found, key=bench.value)]


def _chosen(bench: Workbench, name: str, prompt: Prompt) -> Drafting:
    train = bench.splits.train
    shots = min(prompt.shots, max(1, len(train) // 2))
    settings = {"selection": prompt.selection, "shots": shots, "encoding": prompt.encoding}
    sharing = resolve("selector", SELECTORS, prompt.selection).sharing
    if sharing == "query":
        pool = bench.shuffled[:MOST_POOL]
        return Draft(context=bench.context(pool, sharing="query", **settings))
    if sharing == "group":
        return Draft(context=_bank(bench, shots, settings))
    if prompt.selection == "greedy":
        return (yield from _grown(bench, name, prompt, shots))
    return (yield from _best_draw(bench, name, prompt, shots))


def _bank(bench: Workbench, shots: int, settings: dict[str, Any]) -> Context:
    """Return a context of a few groups of demonstrations around medoids of the training rows."""
    pool = bench.shuffled[:MOST_POOL]
    embeddings = None
    if bench.job.encoder:
        embeddings, _ = bench.embed(bench.job.encoder, "bank", pool)
    groups = build_bank(
        pool, shots, bench.job.prompting.contexts, bench.job.seed,
        labels=bench.labels, embeddings=embeddings,
    )  # fmt: skip
    used, places = compact(groups)
    return bench.context([pool[n] for n in used], sharing="group", groups=places, **settings)


def _best_draw(bench: Workbench, name: str, prompt: Prompt, shots: int) -> Drafting:
    """Return the draw with the lowest calibrated log loss on training rows none of them shows."""
    train, job = bench.splits.train, bench.job
    selector = resolve("selector", SELECTORS, prompt.selection)()
    draws: list[tuple[Example, ...]] = []
    for draw in range(DRAWS):
        (numbers,) = selector.select(train, [], shots, job.seed + 1000 * draw, labels=bench.labels)
        draws.append(tuple(train[n] for n in numbers))
    rows = unshown(bench, draws)[:COMPARED_ROWS]
    if len(rows) < 8:  # a tiny training set: nothing is left to compare draws on
        rows, draws = list(bench.shuffled[:COMPARED_ROWS]), draws[:1]
    contexts = [
        bench.context(shown, selection=prompt.selection, shots=len(shown), encoding=prompt.encoding)
        for shown in draws
    ]
    contexts = contexts[: _fitting(bench, prompt, contexts[0], rows, len(contexts))]
    losses, readings = yield from _compared(bench, name, prompt, contexts, rows)
    best = int(np.argmin(losses))
    return Draft(context=contexts[best], rows=rows, reading=readings[best])


def _grown(bench: Workbench, name: str, prompt: Prompt, shots: int) -> Drafting:
    """Return the context that grew by the demonstration with the lowest loss, one at a time."""
    rows = list(bench.shuffled[: min(COMPARED_ROWS, len(bench.shuffled) // 2)])
    pool = list(bench.shuffled[len(rows) : MOST_POOL])
    shots = min(shots, len(pool))
    some = bench.context(pool[:shots], selection="greedy", shots=shots)
    if _fitting(bench, prompt, some, rows, shots * CANDIDATES) < shots * CANDIDATES:
        raise Stopped(f"growing a context by {shots} demonstrations does not fit the time left")
    growth = rounds(pool, shots, bench.job.seed, labels=bench.labels)
    found: Draft | None = None
    try:
        choices = next(growth)
        while True:
            contexts = [
                bench.context(
                    [pool[n] for n in choice], selection="greedy", shots=len(choice),
                    encoding=prompt.encoding,
                )
                for choice in choices
            ]  # fmt: skip
            losses, readings = yield from _compared(bench, name, prompt, contexts, rows)
            best = int(np.argmin(losses))
            found = Draft(context=contexts[best], rows=rows, reading=readings[best])
            choices = growth.send(losses)
    except StopIteration:
        pass
    if found is None:
        raise Stopped("there are no training rows left to grow a context from")
    return found


def _ordered(bench: Workbench, name: str, prompt: Prompt, draft: Draft) -> Drafting:
    """Return the context in another order, found by its texts or by what the model says."""
    rule = resolve("order", ORDERS, prompt.order)()
    if rule.judged:
        return (yield from _judged(bench, name, prompt, draft, rule))
    shown = draft.context.demonstrations
    rows = unshown(bench, [shown])[:COMPARED_ROWS]
    embedded: dict[str, Any] = {}
    if bench.job.encoder:
        for key, some in (("embeddings", shown), ("query_embeddings", rows)):
            texts = [e.text for e in some]
            limit = bench.job.max_length
            embedded[key] = bench.bases.embed(bench.job.encoder, texts, limit=limit)
    order = rule.arrange([e.text for e in shown], [e.text for e in rows], **embedded)
    return Draft(context=_arranged(draft.context, order, prompt.order), notes=draft.notes)


def _arranged(context: Context, order: Sequence[int], rule: str) -> Context:
    shown = tuple(context.demonstrations[n] for n in order)
    return replace(context, demonstrations=shown, order=rule)


def _judged(bench: Workbench, name: str, prompt: Prompt, draft: Draft, rule: Any) -> Drafting:
    """Return the context in the best of several orders, with the spread over all of them.

    The orders come sorted: those that begin alike follow each other and share what is encoded.
    """
    shown = draft.context.demonstrations
    rows = unshown(bench, [shown])[:COMPARED_ROWS]
    rows = rows if len(rows) >= 8 else list(bench.shuffled[:COMPARED_ROWS])
    count = _fitting(bench, prompt, draft.context, rows, ORDERS_TRIED)
    if count < 2:
        raise Stopped(f"there is no time to compare orders ({bench.clock.left:.0f} s are left)")
    tried = permutations(len(shown), count, bench.job.seed, stem=len(shown) // 2)
    contexts = [_arranged(draft.context, order, prompt.order) for order in tried]
    losses, readings = yield from _compared(bench, name, prompt, contexts, rows)
    gold = bench.index(rows)
    scores = np.stack([reading.scores for reading in readings])
    found = spread(prompt.order, tried, rule.values(scores, gold))
    best = tried.index(found.best)
    right = (scores.argmax(-1) == gold).mean(1)
    notes = {
        "orders": len(tried), "rule": prompt.order, "rows": len(rows),
        "accuracy": [float(right.min()), float(right.mean()), float(right.max())],
        "loss": [float(losses.min()), float(losses.mean()), float(losses.max())],
        "chosen": [float(right[best]), float(losses[best])],
    }  # fmt: skip
    return Draft(
        context=contexts[best], rows=rows, reading=readings[best],
        notes={**draft.notes, "spread": notes},
    )  # fmt: skip


def _compared(
    bench: Workbench, name: str, prompt: Prompt, contexts: Sequence[Context],
    rows: Sequence[Example],
) -> Generator[Event, None, tuple[Floats, list[Reading]]]:  # fmt: skip
    """Return each context's calibrated, cross-validated log loss on `rows`, and its reading."""
    losses: list[float] = []
    readings: list[Reading] = []
    gold = bench.index(rows)
    for context in contexts:
        reader = bench.reader(context, scorer="channel" if prompt.channel else "direct")
        reading = yield from bench.read(reader, rows, name=name)
        _, found = choose_bias({"labelled rows": reading.scores}, gold, allowed=("labels",))
        losses.append(found["labels"])
        readings.append(reading)
    return np.array(losses), readings


def _fitting(
    bench: Workbench, prompt: Prompt, context: Context, rows: Sequence[Example], most: int
) -> int:
    """Return how many such contexts a fifth of the time left can compare, 1 at least."""
    if not bench.tokens_per_second:
        return most
    reader = bench.reader(context)
    texts = [e.text for e in rows]
    queries = sum(map(len, reader.prompter.rest(texts)))
    if prompt.channel:
        queries *= 2 * len(bench.labels)  # and the head at every token of the text
    each = (len(reader.prompter.prefix) + queries) / bench.tokens_per_second
    return max(1, min(most, int(0.2 * max(bench.clock.left, 0.0) / each)))


def unshown(bench: Workbench, shown: Sequence[Sequence[Example]]) -> list[Example]:
    """Return the training rows, in seeded order, that none of the contexts shows."""
    used = {e.row for context in shown for e in context}
    return [e for e in bench.shuffled if e.row not in used]
