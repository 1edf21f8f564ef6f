"""What an encoder is asked about a text, and what the tags it answers with stand for.

Extraction is one mechanism in two stages. Stage 1 tags what frames hang on: entities, triggers,
heads of relations. Stage 2 is asked about one of them at a time, marked in the text, and tags what
belongs to it: the arguments of an event by role, the tails of relations by relation. Where frames
hang on no words, stage 2 is asked once for each type.

Tags are flat. Words that stand for several things at once (a trigger of two events, an argument in
two roles) get a kind of their own, where the training rows have that often enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from sapwood.interfaces import Example, Frame, Schema, Span

COMBINED = 3  # rows that must hold a combination of labels before it is a kind of its own
Meaning = tuple[str, str]  # (label of the frame, label of the span); "" where the question says it
Marked = tuple[int, int, str]  # start, end, kind


@dataclass(frozen=True, kw_only=True)
class Question:
    """What one row asks: the arguments of `label`, of the words `head` where there are any."""

    label: str
    head: Span | None = None

    def words(self, text: str) -> str:
        """Return the question as it is put before the text."""
        named = text[self.head.start : self.head.end] if self.head is not None else ""
        return ": ".join(part for part in (self.label, named) if part)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The kinds of tags of both stages.

    `heads`: kinds of stage 1, none where frames hang on no words; `asked`: by the label of a
    question, the kinds of stage 2 that may answer it; `means`: what a kind stands for, several
    meanings where words are several things at once. `relations`: stage 2 names the frame, not the
    question. `pieces`: spans may end inside words.
    """

    heads: tuple[str, ...]
    asked: Mapping[str, tuple[str, ...]]
    means: Mapping[str, tuple[Meaning, ...]]
    relations: bool = False
    pieces: bool = False

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        schema: Schema,
        *,
        relations: bool = False,
        pieces: bool = False,
    ) -> Self:
        """Return the scheme of training rows."""
        seen: tuple[Counter[tuple[Meaning, ...]], ...] = (Counter(), Counter())
        asked: dict[str, set[tuple[Meaning, ...]]] = {}
        if not relations:
            for label in schema.types:
                asked[label] = {((("", role)),) for role in schema.roles.get(label, ())}
        for example in examples:
            for question, spans in said(example, relations, schema.heads):
                for meanings in spans.values():
                    seen[question is not None][meanings] += 1
                    for meaning in meanings:
                        seen[question is not None][(meaning,)] += 0
                    if question is not None:
                        own = asked.setdefault(question.label, set())
                        own |= {meanings, *((meaning,) for meaning in meanings)}
        for found in asked.values():
            for single in found:
                seen[1][single] += 0
        means: dict[str, tuple[Meaning, ...]] = {}
        stages: list[dict[tuple[Meaning, ...], str]] = []
        for stage, counts in enumerate(seen):
            names = {}
            for meanings in sorted(counts):
                if len(meanings) == 1 or counts[meanings] >= COMBINED:
                    names[meanings] = _named(meanings, ">" * stage, means)
                    means[names[meanings]] = meanings
            stages.append(names)
        return cls(
            heads=tuple(stages[0].values()),
            asked={
                label: tuple(stages[1][m] for m in sorted(found) if m in stages[1])
                for label, found in sorted(asked.items())
                if found
            },
            means=means,
            relations=relations,
            pieces=pieces,
        )

    @property
    def tags(self) -> tuple[str, ...]:
        """Return all tags: O, then B and I of each kind."""
        return ("O", *(f"{sign}-{kind}" for kind in self.means for sign in "BI"))

    def allowed(self, question: Question | None) -> tuple[int, ...]:
        """Return the places among `tags` that may answer a question; None asks for heads."""
        kinds = self.heads if question is None else self.asked.get(question.label, ())
        order = {kind: n for n, kind in enumerate(self.means)}
        places = sorted(order[kind] for kind in kinds)
        return (0, *(1 + 2 * place + inside for place in places for inside in (0, 1)))

    def first_questions(self) -> tuple[Question | None, ...]:
        """Return what is asked of every text: for heads, or for each type."""
        return (None,) if self.heads else tuple(Question(label=label) for label in self.asked)

    def questions(self, start: int, end: int, kind: str) -> Iterator[tuple[Question, Frame]]:
        """Yield what to ask about words that stage 1 found, and the frame that it fills."""
        for label, own in self.means[kind]:
            head = Span(start=start, end=end, label=own)
            asks = own if self.relations else label
            yield Question(label=asks, head=head), Frame(label=label, head=head)

    def kind_of(self, meanings: Sequence[Meaning], kinds: Sequence[str]) -> str:
        """Return the kind among `kinds` that means `meanings`, else one of its parts, or ""."""
        by = {self.means[kind]: kind for kind in kinds}
        parts = [by[(m,)] for m in meanings if (m,) in by]
        return by.get(tuple(meanings), parts[0] if parts else "")

    def filled(self, frame: Frame, found: Sequence[Marked]) -> list[Frame]:
        """Return the frames that stage 2 makes of `frame` with what it found: none, if need be."""
        meant = [
            (label, Span(start=start, end=end, label=own))
            for start, end, kind in found
            for label, own in self.means[kind]
        ]
        if self.relations:
            return [Frame(label=label, head=frame.head, arguments=(tail,)) for label, tail in meant]
        if frame.head is None and not meant:
            return []
        arguments = tuple(sorted(span for _, span in meant))
        return [Frame(label=frame.label, head=frame.head, arguments=arguments)]

    def state(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild what `state` gave."""
        return cls(
            heads=tuple(state["heads"]),
            asked={label: tuple(kinds) for label, kinds in state["asked"].items()},
            means={
                kind: tuple((str(a), str(b)) for a, b in meanings)
                for kind, meanings in state["means"].items()
            },
            relations=bool(state["relations"]),
            pieces=bool(state["pieces"]),
        )


def said(
    example: Example, relations: bool, heads: bool
) -> Iterator[tuple[Question | None, dict[tuple[int, int], tuple[Meaning, ...]]]]:
    """Yield the questions that an example answers, with what its words mean, by (start, end).

    Frames of one label on the same words are one; so are those of one type that hang on none.
    """
    first: dict[tuple[int, int], set[Meaning]] = {}
    later: dict[Question, dict[tuple[int, int], set[Meaning]]] = {}
    for frame in example.frames:
        head = frame.head if heads else None
        if heads and head is None:
            continue
        label = frame.label
        if head is not None:
            meaning = ("" if relations else frame.label, head.label)
            first.setdefault((head.start, head.end), set()).add(meaning)
            label = head.label if relations else frame.label
        own = later.setdefault(Question(label=label, head=head), {})
        for span in frame.arguments:
            meaning = (frame.label if relations else "", span.label)
            own.setdefault((span.start, span.end), set()).add(meaning)
    if heads:
        yield None, {place: tuple(sorted(found)) for place, found in first.items()}
    for question, spans in later.items():
        yield question, {place: tuple(sorted(found)) for place, found in spans.items()}


def _named(meanings: Sequence[Meaning], stage: str, taken: Mapping[str, Any]) -> str:
    """Return a name for a kind that is not taken."""
    parts = (a if a and b in ("", a) else b if not a else f"{a}/{b}" for a, b in meanings)
    name = stage + " + ".join(part or "words" for part in parts)
    while name in taken:
        name += "'"
    return name
