"""What counts as found: answers of extraction matched with what was wanted, row by row.

A thing is found where an answer has the same key; keys are tuples, and a key answered twice counts
once, as in seqeval (Nakayama 2018) and the scorers of CoNLL. Counts are (right, wanted, answered).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sapwood.interfaces import Answer, Example, Floats, Frame, Span
from sapwood.tally import f1, f1_of_types

Key = tuple[Any, ...]
Keys = Callable[[Frame], Sequence[Key]]  # a frame -> its keys; the first part of one is its type
Pair = tuple[Span, Span]

ERRORS = ("boundary", "type", "boundary and type", "missed", "spurious")


def entity(frame: Frame) -> Sequence[Key]:
    """Return the key of an entity or trigger: its type and exact characters."""
    return [] if frame.head is None else [(frame.label, *_place(frame.head))]


def untyped(frame: Frame) -> Sequence[Key]:
    """Return the key of an entity or trigger found at all: its exact characters."""
    return [] if frame.head is None else [("", *_place(frame.head))]


def relation(frame: Frame) -> Sequence[Key]:
    """Return the keys of a relation: its name and the exact characters of its two ends."""
    return [
        (frame.label, *_place(frame.head), *_place(tail))
        for tail in frame.arguments
        if frame.head is not None
    ]


def typed_relation(frame: Frame) -> Sequence[Key]:
    """Return the keys of a relation with the types of its two ends as well."""
    return [
        (frame.label, *_place(frame.head), frame.head.label, *_place(tail), tail.label)
        for tail in frame.arguments
        if frame.head is not None
    ]


def event_type(frame: Frame) -> Sequence[Key]:
    """Return the key of an event of a text, wherever its trigger is."""
    return [(frame.label,)]


def argument_place(frame: Frame) -> Sequence[Key]:
    """Return the keys of arguments found: the type of the event and the exact characters."""
    return [(frame.label, *_place(span)) for span in frame.arguments]


def argument(frame: Frame) -> Sequence[Key]:
    """Return the keys of arguments: the type of the event, the exact characters and the role."""
    return [(frame.label, *_place(span), span.label) for span in frame.arguments]


def event_part(frame: Frame) -> Sequence[Key]:
    """Return the keys of all that an event says: its trigger (or itself) and its arguments."""
    trigger = entity(frame) or [(frame.label,)]
    return [*((*key, "trigger") for key in trigger), *((*k, "argument") for k in argument(frame))]


def label_key(frame: Frame) -> Sequence[Key]:
    """Return the key of one of several labels of a text."""
    return [(frame.label,)]


def count(gold: Sequence[Example], answers: Sequence[Answer], keys: Keys) -> Floats:
    """Return (right, wanted, answered) of every row, shape (rows, 3)."""
    rows = []
    for example, answer in zip(gold, answers, strict=True):
        wanted, said = keys_of(example.frames, keys), keys_of(answer.frames, keys)
        rows.append((len(wanted & said), len(wanted), len(said)))
    return np.array(rows, np.float64).reshape(-1, 3)


def count_by_type(
    gold: Sequence[Example], answers: Sequence[Answer], keys: Keys
) -> tuple[tuple[str, ...], Floats]:
    """Return (types, counts of every row, shape (rows, 3 types)); types in alphabetical order."""
    rows = [
        (keys_of(example.frames, keys), keys_of(answer.frames, keys))
        for example, answer in zip(gold, answers, strict=True)
    ]
    types = sorted({str(key[0]) for pair in rows for side in pair for key in side})
    place = {label: 3 * index for index, label in enumerate(types)}
    counts = np.zeros((len(rows), 3 * max(len(types), 1)))
    for row, (wanted, said) in enumerate(rows):
        for column, side in enumerate((wanted & said, wanted, said)):
            for label, times in Counter(str(key[0]) for key in side).items():
                counts[row, place[label] + column] = times
    return tuple(types), counts


def keys_of(frames: Sequence[Frame], keys: Keys) -> set[Key]:
    """Return the different keys of some frames."""
    return {key for frame in frames for key in keys(frame)}


def summary(counts: Floats, seed: int = 0) -> dict[str, float | int]:
    """Return precision, recall, F1 with its interval, and support; `counts`: (rows, 3)."""
    right, wanted, said = (float(x) for x in counts.sum(0))
    score = f1("f1", counts).interval(seed)
    return {
        "precision": right / said if said else 0.0,
        "recall": right / wanted if wanted else 0.0,
        "f1": score.value,
        "low": score.low,
        "high": score.high,
        "support": round(wanted),
        "answered": round(said),
    }


def by_type(
    types: Sequence[str], counts: Floats, partial: Floats | None = None
) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each type; `counts`: (rows, 3 types).

    `partial`: the same of spans that only overlap; its F1 is added where it is given.
    """
    sums = counts.sum(0).reshape(-1, 3)
    loose = None if partial is None else partial.sum(0).reshape(-1, 3)
    found = []
    for place, label in enumerate(types):
        right, wanted, said = map(float, sums[place])
        row = {
            "label": label,
            "precision": right / said if said else 0.0,
            "recall": right / wanted if wanted else 0.0,
            "f1": 2 * right / (wanted + said) if wanted + said else 0.0,
            "support": round(wanted),
            "answered": round(said),
        }
        if loose is not None:
            row["partial"] = 2 * float(loose[place, 0]) / ((wanted + said) or 1.0)
        found.append(row)
    return found


def macro(counts: Floats, seed: int = 0) -> dict[str, float]:
    """Return the mean F1 over types with its interval; `counts`: (rows, 3 types)."""
    score = f1_of_types("macro_f1", counts).interval(seed)
    return {"f1": score.value, "low": score.low, "high": score.high}


def overlapping(gold: Sequence[Example], answers: Sequence[Answer]) -> Floats:
    """Return (right, wanted, answered) where a span of the right type that overlaps is right.

    Every span is used at most once, exact ones first and then those that share most characters.
    Shape (rows, 3).
    """
    _, counts = overlapping_by_type(gold, answers)
    sums: Floats = counts.reshape(len(gold), -1, 3).sum(1)
    return sums


def overlapping_by_type(
    gold: Sequence[Example], answers: Sequence[Answer]
) -> tuple[tuple[str, ...], Floats]:
    """Return (types, counts of every row, shape (rows, 3 types)), counted as in `overlapping`."""
    types, counts = count_by_type(gold, answers, entity)
    place = {label: 3 * index for index, label in enumerate(types)}
    for row, (example, answer) in enumerate(zip(gold, answers, strict=True)):
        counts[row, ::3] = 0
        wanted, said = heads(example.frames), heads(answer.frames)
        for one, _ in _pairs(wanted, said, lambda one, other: one.label == other.label):
            counts[row, place[one.label]] += 1
    return types, counts


def errors(gold: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return how often each kind of error occurs, and which types are taken for which.

    A wanted span that is not found exactly is answered with the right characters and a wrong type
    ("type"), with overlapping characters and the right type ("boundary") or a wrong one ("boundary
    and type"), or not at all ("missed"); an answer left over is "spurious". Each span counts once.
    """
    totals = dict.fromkeys(ERRORS, 0)
    confused: Counter[tuple[str, str]] = Counter()
    for example, answer in zip(gold, answers, strict=True):
        wanted, said = set(heads(example.frames)), set(heads(answer.frames))
        wanted, said = wanted - said, said - wanted
        rules: tuple[tuple[str, Callable[[Span, Span], bool]], ...] = (
            ("type", lambda one, other: _place(one) == _place(other)),
            ("boundary", lambda one, other: one.label == other.label),
            ("boundary and type", lambda one, other: True),
        )
        for name, rule in rules:
            for one, other in _pairs(sorted(wanted), sorted(said), rule):
                totals[name] += 1
                wanted.discard(one)
                said.discard(other)
                if one.label != other.label:
                    confused[one.label, other.label] += 1
        totals["missed"] += len(wanted)
        totals["spurious"] += len(said)
    return {
        **totals,
        "confused": [
            {"label": label, "answered": other, "count": times}
            for (label, other), times in confused.most_common(20)
        ],
    }


def heads(frames: Sequence[Frame]) -> list[Span]:
    """Return the different heads of frames as spans labelled with the frame's type, in order."""
    return sorted(
        {
            Span(start=f.head.start, end=f.head.end, label=f.label)
            for f in frames
            if f.head is not None
        }
    )


def _place(span: Span) -> tuple[int, int]:
    return span.start, span.end


def _pairs(
    wanted: Sequence[Span], said: Sequence[Span], rule: Callable[[Span, Span], bool]
) -> list[Pair]:
    """Return pairs that overlap and obey `rule`, each span once, the closest pairs first."""
    close = []
    for i, one in enumerate(wanted):
        for j, other in enumerate(said):
            shared = min(one.end, other.end) - max(one.start, other.start)
            if shared > 0 and rule(one, other):
                close.append((_place(one) != _place(other), -shared, i, j))
    left, right = set(range(len(wanted))), set(range(len(said)))
    found = []
    for _, _, i, j in sorted(close):
        if i in left and j in right:
            left.discard(i)
            right.discard(j)
            found.append((wanted[i], said[j]))
    return found
