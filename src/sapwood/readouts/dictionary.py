"""The cheap floor of extraction: words that training rows name are named again wherever they stand.

A dictionary of the spans of training rows with their most frequent label, matched at word borders,
the longest first. Words that more often than not meant nothing in training are left alone. It knows
no arguments: of events it finds triggers.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from sapwood.interfaces import Answer, Example, Floats, Frame, Span

MOST = 50_000  # entries; the most frequent ones are kept
# Where two letters of a script without spaces meet there is no border to look for.
_EDGE = re.compile(r"[^\W\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]")


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """`entries`: words -> the label of the frames that hang on them."""

    entries: Mapping[str, str]

    @classmethod
    def fit(cls, examples: Sequence[Example]) -> Self:
        """Return the dictionary of training rows."""
        meant: dict[str, Counter[str]] = defaultdict(Counter)
        for example in examples:
            for frame in example.frames:
                if frame.head is not None:
                    words = example.text[frame.head.start : frame.head.end]
                    meant[words][frame.label] += 1
        kept = dict(sorted(meant.items(), key=lambda item: -item[1].total())[:MOST])
        whole = cls(entries={words: counts.most_common(1)[0][0] for words, counts in kept.items()})
        seen: Counter[str] = Counter()
        for example in examples:
            for start, end in whole._places(example.text):
                seen[example.text[start:end]] += 1
        return cls(
            entries={
                words: label
                for words, label in whole.entries.items()
                if 2 * kept[words].total() >= seen[words]
            }
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels it knows."""
        return tuple(sorted(set(self.entries.values())))

    @property
    def reads(self) -> str:
        """Return "answers": it gives them itself."""
        return "answers"

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """Return the frames found in each text."""
        return [Answer(frames=tuple(self._frame(t, *p) for p in self._places(t))) for t in texts]

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        return {"entries": dict(self.entries)}, {}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        del arrays
        return cls(entries=dict(settings["entries"]))

    @cached_property
    def _longest(self) -> dict[str, list[str]]:
        """Return the entries by their first letter, the longest first."""
        found: dict[str, list[str]] = defaultdict(list)
        for words in sorted(self.entries, key=lambda words: (-len(words), words)):
            if words:
                found[words[0]].append(words)
        return found

    def _places(self, text: str) -> list[tuple[int, int]]:
        found, at = [], 0
        while at < len(text):
            hit = next(
                (w for w in self._longest.get(text[at], ()) if text.startswith(w, at)
                 and _bordered(text, at, at + len(w))), None
            )  # fmt: skip
            if hit is None:
                at += 1
                continue
            found.append((at, at + len(hit)))
            at += len(hit)
        return found

    def _frame(self, text: str, start: int, end: int) -> Frame:
        label = self.entries[text[start:end]]
        return Frame(label=label, head=Span(start=start, end=end, label=label))


def _bordered(text: str, start: int, end: int) -> bool:
    """Tell whether no word goes on before `start` or behind `end`."""
    before = start > 0 and _EDGE.match(text[start - 1]) and _EDGE.match(text[start])
    behind = end < len(text) and _EDGE.match(text[end - 1]) and _EDGE.match(text[end])
    return not before and not behind
