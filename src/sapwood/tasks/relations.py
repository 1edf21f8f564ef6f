"""Relations: of one given pair (classification of a marked text), or all that a text states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sapwood.interfaces import Example, Frame, Span
from sapwood.tasks.bio import is_dense, mark_pair
from sapwood.tasks.entities import type_of
from sapwood.tasks.kinds import Form, Opening, Task, Unusable, frame_labels, own_label
from sapwood.tasks.readers import EDGES, clean_label
from sapwood.tasks.roles import TEXT, choose, role
from sapwood.tasks.rows import Record, kind_of
from sapwood.tasks.spans import (
    TYPE,
    Page,
    first_of,
    framed,
    is_missing,
    items,
    locate,
    read_page,
    shown,
    unpacked,
    writer,
)

HEAD = role("head", "head subject subj h e1 entity1 entity_1 head_entity subj_entity 头实体 主体")
TAIL = role("tail", "tail object obj t e2 entity2 entity_2 tail_entity obj_entity 尾实体 客体")
RELATION = role(
    "relation", "relation label predicate rel relation_type type 关系 标签", answer=True
)
ENTITIES = role("entities", "entities ents spans entity_mentions 实体", optional=True)
RELATIONS = role(
    "relations", "relations relation_list triples triplets spo_list relation 关系", answer=True
)
HEADS = ("head", "subject", "subj", "h", "source", "from", "arg1", "head_id", "e1", "from_id")
TAILS = ("tail", "object", "obj", "t", "target", "to", "arg2", "tail_id", "e2", "to_id")
NAMES = ("type", "relation", "label", "predicate", "relation_type", "rel", "r")


def dense_tokens(opening: Opening, column: str) -> bool | None:
    """Tell whether the first rows hold tokens of a script without spaces; None for texts."""
    lists = [unpacked(record.get(column)) for record in opening.first]
    tokens = [token for found in lists if isinstance(found, list) for token in found]
    return is_dense(token for token in tokens if isinstance(token, str)) if tokens else None


def pair_form(opening: Opening) -> Form:
    """Tell how texts with a given pair are written. Raises DataError E-DATA-004 to 006."""
    chosen, columns = choose(opening, ((TEXT, HEAD, TAIL, RELATION),), show=("text", "relation"))
    text, relation = chosen["text"], chosen.get("relation")
    dense = dense_tokens(opening, text)
    names = opening.names.get(relation or "", ())

    def read(record: Record, mended: list[str]) -> Example:
        page = read_page(record.get(text), text, dense=dense)
        ends: list[tuple[int, int]] = []
        for part in ("head", "tail"):
            spec = _mention(unpacked(record.get(chosen[part])))
            if is_missing(spec):
                raise Unusable(f"column '{chosen[part]}' empty")
            span = locate(page, spec, "", f"the {part}", mended)
            ends.append((span.start, span.end))
        label = None
        if relation is not None:
            value = record.get(relation)
            if isinstance(value, dict | list):
                raise Unusable(f"column '{relation}' holds {kind_of(value)}, not a label")
            label = clean_label(value, names)
        if label is None and opening.need_answer:
            raise Unusable(f"column '{relation}' empty")
        return Example(text=mark_pair(page.text, *ends).strip(EDGES), label=label)

    return Form(columns=columns, read=read)


def _mention(spec: object) -> object:
    """Return the first mention of an entity written as [name, id, [[token, token, ...], ...]]."""
    if isinstance(spec, list) and len(spec) == 3 and isinstance(spec[2], list) and spec[2]:
        first = spec[2][0]
        if isinstance(first, list) and first and isinstance(first[0], int):
            return [first[0], first[-1] + 1]
    return spec


@dataclass(frozen=True, kw_only=True)
class Named:
    """An entity of a row: its span, and the name or number by which relations point to it."""

    span: Span
    key: str


def form(opening: Opening) -> Form:
    """Tell how texts with all their relations are written. Raises DataError E-DATA-004 to 006."""
    layouts = ((TEXT, RELATIONS, ENTITIES),)
    chosen, columns = choose(opening, layouts, show=("text", "relations"))
    text, relations = chosen["text"], chosen.get("relations")
    entities = chosen.get("entities")
    dense = dense_tokens(opening, text)
    write = writer("relations") if opening.need_answer else None

    def read(record: Record, mended: list[str]) -> Example:
        page = read_page(record.get(text), text, dense=dense)
        if relations is None or (write is None and is_missing(record.get(relations))):
            return framed(page, (), None)
        known = (
            []
            if entities is None or is_missing(record.get(entities))
            else [
                _named(page, spec, place, mended)
                for place, spec in enumerate(items(record.get(entities), entities))
            ]
        )
        frames = [
            _frame(page, known, spec, mended) for spec in items(record.get(relations), relations)
        ]
        return framed(page, frames, write)

    return Form(columns=columns, read=read)


def _named(page: Page, spec: object, place: int, mended: list[str]) -> Named:
    label = type_of(spec, "an entity") if _has_type(spec) else ""
    key = first_of(spec, ("id", "entity_id", "key")) if isinstance(spec, Mapping) else None
    span = locate(page, spec, label, "an entity", mended)
    return Named(span=span, key=str(place if key is None else key))


def _has_type(spec: object) -> bool:
    if isinstance(spec, Mapping):
        return first_of(spec, TYPE) is not None
    return isinstance(spec, list | tuple) and len(spec) > 2


def _frame(page: Page, known: Sequence[Named], spec: object, mended: list[str]) -> Frame:
    if isinstance(spec, Mapping):
        head, tail = first_of(spec, HEADS), first_of(spec, TAILS)
        value = first_of(spec, NAMES)
    elif isinstance(spec, list | tuple) and len(spec) == 3:
        last = _names_last(page.text, known, spec)
        head, value, tail = (spec[0], spec[2], spec[1]) if last else spec
    else:
        raise Unusable("a relation that is no object", shown(spec))
    if not isinstance(value, str | int) or not str(value).strip():
        raise Unusable("a relation without a type", shown(spec))
    ends = []
    for part, end in (("head", head), ("tail", tail)):
        if end is None or end == "":
            raise Unusable(f"a relation without a {part}", shown(spec))
        ends.append(_end(page, known, end, mended))
    return Frame(label=str(value).strip(), head=ends[0], arguments=(ends[1],))


def _names_last(text: str, known: Sequence[Named], spec: Sequence[object]) -> bool:
    """Tell whether a triple is [head, tail, name] and not [head, name, tail], the usual order.

    Only a word names a relation. Of two words the one that is no entity and not in the text does.
    """
    if not isinstance(spec[1], str) or not isinstance(spec[2], str):
        return isinstance(spec[2], str)
    keys = {named.key for named in known}
    there = [part in keys or part in text for part in spec[1:] if isinstance(part, str)]
    return there == [True, False]


def _end(page: Page, known: Sequence[Named], end: object, mended: list[str]) -> Span:
    if isinstance(end, float) and end.is_integer():
        end = int(end)
    if isinstance(end, int | str):
        for named in known:
            if named.key == str(end):
                return named.span
        if isinstance(end, int):
            if 0 <= end < len(known):
                return known[end].span
            raise Unusable("a relation points to an entity that is not there",
                           f"entity {end} of {len(known)}")  # fmt: skip
        same = [n.span for n in known if page.text[n.span.start : n.span.end] == end]
        if len(same) == 1:
            return same[0]
    if isinstance(end, list) and known and len(end) == 1:
        return _end(page, known, end[0], mended)
    label = type_of(end, "an entity") if _has_type(end) else ""
    span = locate(page, end, label, "an end of a relation", mended)
    if not label:
        typed = [n.span for n in known if (n.span.start, n.span.end) == (span.start, span.end)]
        return typed[0] if len(typed) == 1 else span
    return span


PAIRS = Task(
    name="pairs",
    family="classification",
    metric="macro_f1",
    row='{"text": "Ann met Bo.", "head": {"start": 0, "end": 3, "text": "Ann"},'
    ' "tail": {"start": 8, "end": 10, "text": "Bo"}, "relation": "knows"}',
    about="The relation between two given parts of a text.",
    form=pair_form,
    labels=own_label,
)
TASK = Task(
    name="relations",
    family="extraction",
    metric="f1",
    row='{"text": "Ann lives in Rome.", "entities": [{"start": 0, "end": 3, "type": "person"},'
    ' {"start": 13, "end": 17, "type": "city"}],'
    ' "relations": [{"head": 0, "tail": 1, "type": "lives in"}]}',
    about="All relations that a text states, with the words they join.",
    form=form,
    labels=frame_labels,
)
