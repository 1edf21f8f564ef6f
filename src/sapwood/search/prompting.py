"""Candidates that prompt the frozen base: a context, a scorer and a fitted bias."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from sapwood.adaptation import Adaptation
from sapwood.evaluation import Reader, Reading
from sapwood.interfaces import Event, Example, Floats
from sapwood.readouts import bias
from sapwood.readouts.inputs import content_free_inputs, domain_inputs
from sapwood.readouts.verbalizer import SCORERS, Verbalizer, divided, label_lengths
from sapwood.search.contexts import Draft, Prompt, drafted, unshown
from sapwood.search.workbench import (
    Made,
    Making,
    Stopped,
    Workbench,
    afford,
    chunks,
    joined,
    race,
)

# Training rows the bias is fitted on: the shift of a class has a standard error of about 0.15 nats
# with 200 rows, small beside the 1 to 3 nats by which small models lean to one label.
BIAS_ROWS = 192
DEAR_BIAS_ROWS = 96  # where each row pays for a context of its own, or for every label
DOMAIN_INPUTS = 8  # the mean over 8 random texts differs from that over 20 by about 0.1 nats


def prompted(bench: Workbench, name: str, prompt: Prompt) -> Making:
    """Make one prompting candidate: find its context, fit its bias, read the development rows."""
    draft = yield from drafted(bench, name, prompt)
    reader = bench.reader(draft.context, scorer="channel" if prompt.channel else "direct")
    dear = prompt.channel or draft.context.sharing == "query"
    most = DEAR_BIAS_ROWS if dear else BIAS_ROWS
    if dear or draft.context.groups:
        _afford(bench, reader, most)
    rows, known = yield from _labelled(bench, name, reader, draft, most)
    scores = yield from _answers(bench, name, reader, known)
    readout, losses = _fitted(bench, prompt, reader, scores, bench.index(rows))
    if prompt == Prompt():  # what readouts on features will read too
        asked = yield from bench.read(reader, bench.splits.dev, name=name, key="zero/dev")
    else:
        asked = yield from _raced(bench, name, reader, readout)
    return _made(bench, draft, readout, asked, {**draft.notes, "bias": losses})


def _raced(
    bench: Workbench, name: str, reader: Reader, readout: Verbalizer
) -> Generator[Event, None, Reading]:
    """Read the development rows, or stop where they show the candidate to be clearly behind."""
    parts: list[Reading] = []
    for done, chunk in chunks([e.text for e in bench.splits.dev]):
        parts.append(reader.read(chunk))
        yield Event(kind="progress", candidate=name, done=done, total=len(bench.splits.dev))
        found = readout.probabilities(joined(parts).scores)
        race(bench, found)
        if bench.clock.left < 0:
            raise Stopped("the budget was spent", found)
    return joined(parts)


def _labelled(
    bench: Workbench, name: str, reader: Reader, draft: Draft, most: int
) -> Generator[Event, None, tuple[list[Example], Reading]]:
    """Return labelled rows that the context does not show, and what was read of them."""
    shown = [draft.context.demonstrations] if draft.context.sharing != "query" else []
    if draft.reading is None:
        rows = unshown(bench, shown)[:most]
        rows = rows if len(rows) >= 8 else list(bench.shuffled[:most])
        return rows, (yield from bench.read(reader, rows, name=name))
    more = unshown(bench, [*shown, draft.rows])[: max(0, most - len(draft.rows))]
    if not more:
        return list(draft.rows), draft.reading
    extra = yield from bench.read(reader, more, name=name)
    return [*draft.rows, *more], joined([draft.reading, extra])


def _answers(
    bench: Workbench, name: str, reader: Reader, known: Reading
) -> Generator[Event, None, dict[str, Floats]]:
    """Return the scores of everything that some estimator of the bias reads."""
    found = {"labelled rows": known.scores}
    empty = [text for text in content_free_inputs() if text or reader.scorer == "direct"]
    found["content-free inputs"] = reader.read(empty).scores
    yield Event(kind="progress", candidate=name, done=0, total=1)
    if reader.context.sharing == "query":
        return found  # inputs like these have no demonstrations of their own
    texts = [e.text for e in bench.splits.train]
    drawn = domain_inputs(texts, DOMAIN_INPUTS, seed=bench.job.seed)
    found["domain inputs"] = reader.read(drawn).scores
    if reader.scorer == "direct" and reader.context.sharing == "all":
        found["premise"] = reader.premise()
    return found


def _fitted(
    bench: Workbench, prompt: Prompt, reader: Reader, scores: dict[str, Floats], gold: Any
) -> tuple[Verbalizer, dict[str, float]]:
    """Return the scorer and bias with the lowest cross-validated loss, and each bias's loss."""
    prior = np.bincount(bench.index(bench.splits.train), minlength=len(bench.labels)) + 1.0
    allowed = bench.job.prompting.bias or tuple(bias.BIASES)
    names = [prompt.scorer] if prompt.scorer else [n for n, s in SCORERS.items() if not s.channel]
    words = [reader.context.template.words[label] for label in bench.labels]
    tokens = [[token for _, token in path] for path in reader.trie.paths]
    best: tuple[float, Verbalizer, dict[str, float]] | None = None
    for scorer in names:
        divisor = label_lengths(words, tokens, SCORERS[scorer].length)
        made = {need: divided(found, divisor) for need, found in scores.items()}
        chosen, losses = bias.choose_bias(made, gold, prior, allowed=allowed)
        loss = min(losses.values(), default=np.inf)
        if best is None or loss < best[0] - 1e-9:
            readout = Verbalizer(
                labels=bench.labels, bias=chosen, scorer=scorer,
                length=SCORERS[scorer].length, divisor=divisor,
            )  # fmt: skip
            best = (loss, readout, losses)
    assert best is not None
    return best[1], {name: round(loss, 4) for name, loss in best[2].items()}


def _made(
    bench: Workbench, draft: Draft, readout: Verbalizer, asked: Reading, notes: dict[str, Any]
) -> Made:
    rows = max(1, len(bench.splits.dev))
    embedder = bench.embedder(draft.context)
    return Made(
        adaptation=Adaptation(
            labels=bench.labels,
            readout_name="verbalizer",
            readout=readout,
            base=bench.bases.reference(bench.job.model),
            context=draft.context,
            embedder=bench.bases.reference(embedder) if embedder else None,
            facts=bench.facts,
        ),
        dev=readout.probabilities(asked.scores),
        query_seconds=asked.seconds / rows,
        query_tokens=asked.tokens / rows,
        notes=notes,
    )


def _afford(bench: Workbench, reader: Reader, bias_rows: int) -> None:
    """Stop before starting when the rows to be read do not fit the budget at their price."""
    texts = [e.text for e in bench.splits.dev[:4]]
    rows = bias_rows + len(bench.splits.dev) + len(bench.splits.test)
    if reader.scorer == "channel":
        # the head runs at every token of a text, for every label: about a pass again
        each = 2 * bench.query_tokens * len(bench.labels)
        what = f"reading {rows:,} texts once for each of {len(bench.labels)} labels"
    elif reader.context.sharing == "query":
        prompts = [prompt for shard in reader.shards(texts) for prompt in shard.prompts]
        each = sum(map(len, prompts)) / max(1, len(prompts))
        what = f"{reader.context.shots} demonstrations chosen for each of {rows:,} rows"
    else:
        groups = reader.context.groups
        size = sum(map(len, reader.prompter.rest(texts))) / len(texts)
        each = size * (1 + reader.context.shots * len(groups) / rows)
        what = f"{len(groups)} contexts of {reader.context.shots}"
    afford(bench, each * rows, share=0.25, what=what)
