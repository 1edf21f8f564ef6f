"""What answers look like, where the columns alone fit several tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from sapwood.interfaces import Example
from sapwood.tasks.bio import UNSPACED
from sapwood.tasks.columns import words
from sapwood.tasks.kinds import Form

LINE = 80  # characters; longer lines are prose
LONG = 120  # characters of an answer, a Chinese one counted twice; a reply is mostly shorter
NEW = 0.5  # share of different answers from which on they are texts and no classes
FEW = 10  # rows; below, shares say little


def likeness(task: str, form: Form, examples: Sequence[Example]) -> tuple[float, str]:
    """Return (how much these look like `task`, in [0, 10]; why, in a few words)."""
    return LOOKS[task](form, examples)


def _framed(weight: float, what: str) -> Callable[[Form, Sequence[Example]], tuple[float, str]]:
    def look(form: Form, examples: Sequence[Example]) -> tuple[float, str]:
        del form
        frames = sum(len(example.frames) for example in examples)
        return (weight if frames else weight / 2), f"{frames:,} {what}"

    return look


def _classes(form: Form, examples: Sequence[Example]) -> tuple[float, str]:
    del form
    labels = {example.label for example in examples}
    share = len(labels) / len(examples)
    if len(examples) >= FEW and share > NEW:
        long = median(_width(example.label or "") for example in examples)
        many = 1.0 if long < LONG / 4 else 0.0
        return many, f"{len(labels)} different labels in {len(examples)} rows"
    return 6.0, f"{len(labels)} different labels"


def _several(form: Form, examples: Sequence[Example]) -> tuple[float, str]:
    counts = [len(example.frames) for example in examples]
    if max(counts) < 2 and min(counts) > 0:
        return 0.0, ""
    kinds = {frame.label for example in examples for frame in example.frames}
    if len(examples) >= FEW and len(kinds) > NEW * sum(counts):
        return 0.0, ""
    listed = "" if not form.notes else f" ({form.notes[0]})"
    return 6.5, f"up to {max(counts)} labels a row{listed}"


def _pairs(form: Form, examples: Sequence[Example]) -> tuple[float, str]:
    del form
    return 8.0, f"{len({example.label for example in examples})} relations of marked pairs"


def _talk(form: Form, examples: Sequence[Example]) -> tuple[float, str]:
    turns = max(len(example.turns) for example in examples)
    if form.columns.label is None:
        return 9.0, f"up to {turns} messages a row"
    long = median(_width(example.label or "") for example in examples)
    asked = {"instruction", "query", "question", "response", "answer", "reply", "output"}
    named = asked & {*words(form.columns.text), *words(form.columns.label)}
    weight = 4.0 if named else 2.5
    return (weight if _texts(examples) else 0.5), f"answers of {long:.0f} characters (middle)"


def _story(form: Form, examples: Sequence[Example]) -> tuple[float, str]:
    long = median(_width(example.label or "") for example in examples)
    told = {"story", "continuation", "故事"} & {*words(form.columns.label or "")}
    weight = 3.0 if long >= LONG else 1.5
    shape = f"texts of {long:.0f} characters (middle)"
    return (weight + 3 * bool(told) if _texts(examples) else 0.4), shape


def _poem(form: Form, examples: Sequence[Example]) -> tuple[float, str]:
    lines = [line for e in examples for line in (e.label or "").split("\n") if line.strip()]
    a_row = len(lines) / len(examples)
    long = median(_width(line) for line in lines) if lines else 0.0
    named = {"poem", "poetry", "诗", "詩"} & {*words(form.columns.label or "")}
    verse = a_row >= 2 and long <= LINE
    weight = 3.5 if verse else 0.3
    shape = f"{a_row:.0f} lines a text, of {long:.0f} characters (middle)"
    return (weight + 3 * bool(named) if _texts(examples) else 0.3), shape


def _texts(examples: Sequence[Example]) -> bool:
    """Tell whether the answers are texts: mostly different ones."""
    return len(examples) < FEW or len({e.label for e in examples}) > NEW * len(examples)


def _width(text: str) -> int:
    """Return the length of a text, with characters of scripts without spaces counted twice."""
    return len(text) + len(UNSPACED.findall(text))


LOOKS = {
    "classification": _classes,
    "multi-label": _several,
    "pairs": _pairs,
    "entities": _framed(9.0, "entities"),
    "relations": _framed(9.5, "relations"),
    "events": _framed(9.7, "events"),
    "dialogue": _talk,
    "story": _story,
    "poetry": _poem,
}
