"""The scores of every task: one headline with an interval, and all that a report can show.

`tally` gives the headline metric of a task as summed counts, which the search races, compares and
draws intervals from; `details` gives the rest as a JSON-ready object. Both take the wanted rows and
the answers in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sapwood.errors import ConfigError, DataError
from sapwood.interfaces import Answer, Example, Floats, Frame
from sapwood.tally import Tally, f1, f1_of_types, share
from sapwood.tasks import matching
from sapwood.tasks.kinds import WRITTEN
from sapwood.tasks.written import NONE

# Names under which data sets keep "no relation between these two", which is not a relation.
NEGATIVE = frozenset(
    [
        "other",
        "unknown",
        "na",
        "n/a",
        "none",
        "no_relation",
        "no relation",
        "no-relation",
        "norelation",
        "无关系",
        "無關係",
        "没有关系",
        "无",
        "未知",
        "其他",
        "其它",
    ]
)
DIRECTION = re.compile(r"\s*\((e1,\s*e2|e2,\s*e1)\)$")  # SemEval-2010 task 8 writes it in the name
SEPARATOR = re.compile(r"\s*[;；]\s*")  # between several labels written in one field
Rows = Sequence[Example]
Answers = Sequence[Answer]


def tally(task: str, gold: Rows, answers: Answers) -> Tally:
    """Return the headline score of a task over these rows.

    classification: accuracy; multi-label: micro F1; pairs: macro F1 over relations without the
    negative class; entities: strict span F1; relations: F1 of name and both ends; events: F1 of
    typed triggers and of arguments with role together; dialogue, story, poetry: bits a byte.

    Raises ConfigError (E-CONFIG-115) on an unknown task, DataError (E-DATA-061) on unequal rows and
    (E-DATA-112) where a written answer has no likelihood.
    """
    _check(task, gold, answers)
    if task in WRITTEN:
        from sapwood.tasks.texts import likelihood

        return likelihood(answers)
    return HEADLINES[task](gold, answers)


def details(task: str, gold: Rows, answers: Answers) -> dict[str, Any]:
    """Return every score of a task as a JSON-ready object; errors as `tally` raises them."""
    _check(task, gold, answers)
    if task in WRITTEN:
        from sapwood.tasks.texts import measure

        return measure(task, gold, answers)
    cut = sum(not answer.stopped for answer in answers)  # written, and ended by the limit
    about = {"task": task, "rows": len(gold), **({"unfinished": cut} if cut else {})}
    return {**about, **DETAILS[task](gold, answers)}


def macro_of_labels(gold: Rows, answers: Answers) -> Tally:
    """Return the macro F1 of texts with any number of labels: every label counts the same."""
    wanted, said = _with_labels(gold, answers)
    return f1_of_types("macro_f1", matching.count_by_type(wanted, said, matching.label_key)[1])


def negatives(labels: Sequence[str]) -> tuple[str, ...]:
    """Return those labels that say that two words are in no relation.

    >>> negatives(["Other", "Cause-Effect(e1,e2)", "unknown"])
    ('Other', 'unknown')
    """
    return tuple(label for label in labels if label.strip().casefold() in NEGATIVE)


def pair_counts(gold: Rows, answers: Answers) -> tuple[tuple[str, ...], Floats]:
    """Return (relations, counts (rows, 3 relations)) of given pairs without the negative class.

    As the official scorer of SemEval-2010 task 8 (Hendrickx et al. 2010) counts: the two directions
    of a relation are one class, and an answer is right only with the right direction.
    """
    names = [
        (example.label or "", answer.words) for example, answer in zip(gold, answers, strict=True)
    ]
    outside = set(negatives(sorted({name for pair in names for name in pair})))
    relations = sorted(
        {_without_direction(name) for pair in names for name in pair if name not in outside} - {""}
    )
    place = {name: 3 * index for index, name in enumerate(relations)}
    counts = np.zeros((len(names), 3 * max(len(relations), 1)))
    for row, (wanted, said) in enumerate(names):
        for column, name in ((1, wanted), (2, said)):
            if name and name not in outside:
                counts[row, place[_without_direction(name)] + column] = 1
        if wanted == said and wanted and wanted not in outside:
            counts[row, place[_without_direction(wanted)]] = 1
    return tuple(relations), counts


def labels_of(words: str | None, frames: Sequence[Frame]) -> tuple[str, ...]:
    """Return the different labels of a text, from frames or from "a; b", in alphabetical order.

    The word that stands for no label at all is none.

    >>> labels_of("sport; politics", ()), labels_of("none", ())
    (('politics', 'sport'), ())
    """
    spelt = (words or "").strip()
    if spelt == NONE and not frames:
        return ()
    named = [frame.label for frame in frames] or SEPARATOR.split(spelt)
    return tuple(sorted({name for name in named if name}))


def _check(task: str, gold: Rows, answers: Answers) -> None:
    if task not in HEADLINES and task not in WRITTEN:
        raise ConfigError(
            "E-CONFIG-115",
            f"There are no scores for a task '{task}'.",
            fix=f"use one of: {', '.join(sorted((*HEADLINES, *WRITTEN)))}",
        )
    if not gold or len(gold) != len(answers):
        raise DataError(
            "E-DATA-061",
            f"A score needs equally many rows on both sides and at least 1, got {len(gold)} and "
            f"{len(answers)}.",
        )


def _without_direction(name: str) -> str:
    return DIRECTION.sub("", name)


def _with_labels(gold: Rows, answers: Answers) -> tuple[Rows, Answers]:
    """Return rows whose frames are the labels of each text."""
    return (
        [
            Example(text=e.text, frames=tuple(Frame(label=x) for x in labels_of(e.label, e.frames)))
            for e in gold
        ],
        [
            Answer(frames=tuple(Frame(label=x) for x in labels_of(a.words, a.frames)))
            for a in answers
        ],
    )


def _accuracy(gold: Rows, answers: Answers) -> Tally:
    right = [float(e.label == a.words) for e, a in zip(gold, answers, strict=True)]
    return share("accuracy", np.array(right))


def _labels(gold: Rows, answers: Answers) -> Tally:
    return f1("micro_f1", matching.count(*_with_labels(gold, answers), matching.label_key))


def _relations_of_pairs(gold: Rows, answers: Answers) -> Tally:
    return f1_of_types("macro_f1", pair_counts(gold, answers)[1])


def _spans(metric: str, keys: matching.Keys) -> Callable[[Rows, Answers], Tally]:
    return lambda gold, answers: f1(metric, matching.count(gold, answers, keys))


def _classification_details(gold: Rows, answers: Answers) -> dict[str, Any]:
    from sapwood.metrics import per_class

    wanted, said = [e.label or "" for e in gold], [a.words for a in answers]
    labels = sorted({*wanted, *said})
    counts = _one_hot(wanted, said, labels)
    return {
        "accuracy": _scored(_accuracy(gold, answers)),
        "macro_f1": _scored(f1_of_types("macro_f1", counts)),
        "by_type": [
            {"label": c.label, "precision": c.precision, "recall": c.recall, "f1": c.f1,
             "support": c.support}
            for c in per_class(wanted, said, labels)
        ],
    }  # fmt: skip


def _label_details(gold: Rows, answers: Answers) -> dict[str, Any]:
    wanted, said = _with_labels(gold, answers)
    types, counts = matching.count_by_type(wanted, said, matching.label_key)
    same = [float(set(e.frames) == set(a.frames)) for e, a in zip(wanted, said, strict=True)]
    return {
        "micro": matching.summary(matching.count(wanted, said, matching.label_key)),
        "macro": matching.macro(counts),
        "all_labels_right": _scored(share("subset_accuracy", np.array(same))),
        "by_type": matching.by_type(types, counts),
    }


def _pair_details(gold: Rows, answers: Answers) -> dict[str, Any]:
    types, counts = pair_counts(gold, answers)
    sums = counts.reshape(len(gold), -1, 3).sum(1)
    names = sorted({e.label or "" for e in gold} | {a.words for a in answers})
    directed = any(DIRECTION.search(name) for name in names)
    everything = _one_hot([e.label or "" for e in gold], [a.words for a in answers], names)
    return {
        "left_out": list(negatives(names)),
        "direction": "counted" if directed else "not in the names",
        "macro": matching.macro(counts),
        "micro": matching.summary(sums),
        "macro_with_every_label": matching.macro(everything),
        "accuracy": _scored(_accuracy(gold, answers)),
        "by_type": matching.by_type(types, counts),
    }


def _entity_details(gold: Rows, answers: Answers) -> dict[str, Any]:
    types, counts = matching.count_by_type(gold, answers, matching.entity)
    return {
        "strict": matching.summary(matching.count(gold, answers, matching.entity)),
        "macro": matching.macro(counts),
        "partial": matching.summary(matching.overlapping(gold, answers)),
        "untyped": matching.summary(matching.count(gold, answers, matching.untyped)),
        "by_type": matching.by_type(types, counts, matching.overlapping_by_type(gold, answers)[1]),
        "errors": matching.errors(gold, answers),
    }


def _relation_details(gold: Rows, answers: Answers) -> dict[str, Any]:
    types, counts = matching.count_by_type(gold, answers, matching.relation)
    return {
        "ends": matching.summary(matching.count(gold, answers, matching.relation)),
        "ends_with_types": matching.summary(matching.count(gold, answers, matching.typed_relation)),
        "macro": matching.macro(counts),
        "by_type": matching.by_type(types, counts),
    }


def _event_details(gold: Rows, answers: Answers) -> dict[str, Any]:
    triggers = any(frame.head is not None for e in gold for frame in e.frames)
    types, counts = matching.count_by_type(gold, answers, matching.event_type)
    partial = None
    found: dict[str, Any] = {
        "parts": matching.summary(matching.count(gold, answers, matching.event_part)),
        "types_of_the_text": matching.summary(matching.count(gold, answers, matching.event_type)),
        "trigger_identification": None,
        "trigger_classification": None,
        "trigger_partial": None,
        "argument_identification": matching.summary(
            matching.count(gold, answers, matching.argument_place)
        ),
        "argument_classification": matching.summary(
            matching.count(gold, answers, matching.argument)
        ),
    }
    if triggers:
        found["trigger_identification"] = matching.summary(
            matching.count(gold, answers, matching.untyped)
        )
        found["trigger_classification"] = matching.summary(
            matching.count(gold, answers, matching.entity)
        )
        types, counts = matching.count_by_type(gold, answers, matching.entity)
        partial = matching.overlapping_by_type(gold, answers)[1]
        found["trigger_partial"] = matching.summary(matching.overlapping(gold, answers))
        found["errors"] = matching.errors(gold, answers)
    roles, by_role = matching.count_by_type(gold, answers, _role_first)
    found["by_type"] = matching.by_type(types, counts, partial)
    found["by_role"] = matching.by_type(roles, by_role)
    return found


def _role_first(frame: Frame) -> list[matching.Key]:
    return [(key[-1], *key) for key in matching.argument(frame)]


def _one_hot(wanted: Sequence[str], said: Sequence[str], labels: Sequence[str]) -> Floats:
    """Return (right, wanted, answered) a label for one label a row, shape (rows, 3 labels)."""
    place = {label: index for index, label in enumerate(labels)}
    counts = np.zeros((len(wanted), len(labels), 3))
    for row, (one, other) in enumerate(zip(wanted, said, strict=True)):
        counts[row, place[one], 0] = one == other
        counts[row, place[one], 1] = counts[row, place[other], 2] = 1
    return counts.reshape(len(wanted), -1)


def _scored(found: Tally) -> dict[str, float]:
    score = found.interval()
    return {"value": score.value, "low": score.low, "high": score.high}


HEADLINES: dict[str, Callable[[Rows, Answers], Tally]] = {
    "classification": _accuracy,
    "multi-label": _labels,
    "pairs": _relations_of_pairs,
    "entities": _spans("span_f1", matching.entity),
    "relations": _spans("relation_f1", matching.relation),
    "events": _spans("event_f1", matching.event_part),
}
DETAILS: dict[str, Callable[[Rows, Answers], dict[str, Any]]] = {
    "classification": _classification_details,
    "multi-label": _label_details,
    "pairs": _pair_details,
    "entities": _entity_details,
    "relations": _relation_details,
    "events": _event_details,
}
