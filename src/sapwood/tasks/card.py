"""The data card of a report, whatever the task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from sapwood.interfaces import Example, Splits
from sapwood.tasks.check import histogram
from sapwood.tasks.duplicates import clusters
from sapwood.tasks.kinds import own_label
from sapwood.tasks.languages import languages
from sapwood.tasks.readers import Table

ROWS_SHOWN = 5


def data_card(
    train: Table,
    splits: Splits,
    count_tokens: Callable[[list[str]], list[int]] | None = None,
    *,
    dev: Table | None = None,
    test: Table | None = None,
    limit: int | None = None,
    labels_of: Callable[[Example], Sequence[str]] = own_label,
) -> dict[str, Any]:
    """Return the JSON-ready data card: rows, drops, labels by split, lengths, leakage, languages.

    `count_tokens` gives the length of each text in tokens; without it lengths are in characters.
    `limit` is the longest text the base takes; `labels_of` gives the labels that an example holds.
    `leakage` counts rows that were found on both sides and taken out of training before anything
    was fitted.
    """
    tables = [table for table in (train, dev, test) if table is not None]
    parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    counts = {
        name: Counter(label for example in part for label in labels_of(example))
        for name, part in parts.items()
    }
    texts = [example.text for part in parts.values() for example in part]
    lengths = count_tokens(texts) if count_tokens else [len(text) for text in texts]
    bars, edges = histogram(lengths)
    leaks = {"exact": 0, "near": 0}
    for dropped in splits.dropped:
        for kind, phrase in (("exact", "the same as a "), ("near", "nearly a ")):
            if phrase in dropped.reason:
                leaks[kind] += len(dropped.rows)
    return {
        "rows": sum(table.rows for table in tables),
        "kept": len(texts),
        "dropped": [
            {
                "reason": dropped.reason,
                "count": len(dropped.rows),
                "rows": list(dropped.rows[:ROWS_SHOWN]),
            }
            for dropped in splits.dropped
        ],
        "labels": {
            label: {name: count[label] for name, count in counts.items()} for label in splits.labels
        },
        "unseen_labels": {
            label: count for label, count in counts["test"].items() if label not in counts["train"]
        },
        "lengths": {
            "unit": "tokens" if count_tokens else "characters",
            "counts": bars,
            "edges": edges,
            "limit": limit,
        },
        "near_duplicates": sum(
            len(group) - 1 for group in clusters([example.text for example in splits.train])
        ),
        "leakage": leaks,
        "languages": languages(texts),
    }
