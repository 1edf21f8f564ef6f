"""Whether answers are of their own prompt: how much less probable they are after another row's.

The wanted answers are scored again after what another row asks, and a dialogue's after its last
message alone. A base that ignores the conversation, or a story that any beginning would do for,
shows no difference. Rows are paired, so few of them tell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sapwood.evaluation import CHUNK, asking
from sapwood.evaluation.answerer import Answerer
from sapwood.files import write_json
from sapwood.interfaces import Answer, Example
from sapwood.search.workbench import Workbench
from sapwood.tally import Tally, bits_a_byte, paired, share

ROWS = 64  # of the test rows; a difference of a few hundredths of a bit is then told from none
FEWEST = 16  # with fewer the interval says nothing
SECONDS = 10.0  # granted even when the budget is spent


def context_details(
    bench: Workbench, name: str, own: Sequence[Answer], seconds: float
) -> dict[str, Any]:
    """Return `context` for the report's panel, or nothing where there is nothing to compare.

    `own`: what the candidate `name` says of the test rows; `seconds`: what scoring one takes. The
    result is kept, so that a rerun reads no test row again.
    """
    made, path = bench.finished[name], bench.candidate_folder(name) / "own_context.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    readings = 2 if any(row.turns for row in bench.splits.test) else 1
    room = max(bench.clock.left, SECONDS) / (readings * max(seconds, 1e-6))
    rows = bench.splits.test[: min(ROWS, int(room))]
    if bench.task.family != "generation" or made.base is None or len(rows) < FEWEST:
        return {}
    with asking(made, bench.bases) as asked:
        assert isinstance(asked, Answerer)
        found = {"context": context_use(asked, rows, own[: len(rows)], seed=bench.job.seed)}
    write_json(path, found)
    return found


def context_use(
    asked: Answerer, rows: Sequence[Example], own: Sequence[Answer], *, seed: int = 0
) -> dict[str, Any]:
    """Return how much the wanted answers owe to their context, JSON-ready.

    `own`: how probable they are after it. Differences are in bits a byte, above 0 where the context
    helps, with paired 95 % intervals; `nearer_to_its_own_context`: the share of rows whose answer
    is more probable after its own context than after another row's.
    """
    others = _scored(asked, exchanged(rows, seed))
    mine, theirs = _tally(own), _tally(others)
    nearer = np.array([a.nats < b.nats for a, b in zip(own, others, strict=True)], np.float64)
    found = {
        "rows": len(rows),
        "bits_with_its_own_context": _interval(mine),
        "bits_with_another_context": _interval(theirs),
        "bits_saved_by_the_context": _difference(mine, theirs, seed),
        "nearer_to_its_own_context": _interval(share("nearer", nearer)),
    }
    longer = [n for n, row in enumerate(rows) if len(row.turns) > len(last_exchange(row).turns)]
    if len(longer) >= FEWEST:
        short = _scored(asked, [last_exchange(rows[n]) for n in longer])
        whole = _tally([own[n] for n in longer])
        found["rows_with_earlier_turns"] = len(longer)
        found["bits_saved_by_earlier_turns"] = _difference(whole, _tally(short), seed)
    return found


def exchanged(rows: Sequence[Example], seed: int = 0) -> list[Example]:
    """Return the rows with their own answers, each after what another row asks.

    The rows stand in a seeded circle and each takes the next one's; a row that asks the same as the
    next takes that of the first further on that does not.
    """
    order = [int(n) for n in np.random.default_rng(seed).permutation(len(rows))]
    found = list(rows)
    for place, number in enumerate(order):
        row = rows[number]
        around = [rows[n] for n in (*order[place + 1 :], *order[:place])]
        other = next((one for one in around if one.text != row.text), row)
        turns = (*other.turns[:-1], *row.turns[-1:]) if row.turns and other.turns else row.turns
        found[number] = replace(row, text=other.text, turns=turns)
    return found


def last_exchange(row: Example) -> Example:
    """Return a conversation without what was said before its last message but the system's words.

    >>> from sapwood.interfaces import Turn
    >>> said = [Turn(role=r, content=r) for r in ("system", "user", "assistant", "user")]
    >>> short = last_exchange(Example(text="", turns=(*said, Turn(role="assistant", content="so"))))
    >>> [turn.role for turn in short.turns]
    ['system', 'user', 'assistant']
    """
    system = tuple(turn for turn in row.turns[:-2] if turn.role == "system")
    return replace(row, turns=(*system, *row.turns[-2:]))


def _scored(asked: Answerer, rows: Sequence[Example]) -> list[Answer]:
    return [
        answer
        for start in range(0, len(rows), CHUNK)
        for answer in asked.scored(rows[start : start + CHUNK])
    ]


def _tally(said: Sequence[Answer]) -> Tally:
    nats, sizes = [a.nats for a in said], [a.bytes for a in said]
    return bits_a_byte(np.array(nats, np.float64), np.array(sizes, np.float64))


def _interval(tally: Tally) -> dict[str, float]:
    score = tally.interval()
    return {"value": score.value, "low": score.low, "high": score.high}


def _difference(own: Tally, other: Tally, seed: int) -> dict[str, float]:
    value, low, high = paired(own, other, seed=seed)
    return {"value": value, "low": low, "high": high}
