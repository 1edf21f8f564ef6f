"""Named entities: tagged tokens, column files, or texts with spans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from sapwood.interfaces import Example, Frame, Span
from sapwood.tasks.bio import faults, is_dense, join_tokens, spans_of
from sapwood.tasks.kinds import NAMES_BESIDE, Form, Opening, Task, Unusable, frame_labels
from sapwood.tasks.roles import TEXT, choose, role
from sapwood.tasks.rows import Record
from sapwood.tasks.spans import (
    TYPE,
    first_of,
    framed,
    is_missing,
    items,
    locate,
    read_page,
    read_tokens,
    shown,
    unpacked,
    writer,
)

TOKENS = role("tokens", "tokens token words chars characters sentence_tokens 词 字")
TAGS = role(
    "tags",
    "ner_tags tags ner ner_labels bio_tags bio entity_tags iob_tags labels label 标签 标注",
    answer=True,
)
ENTITIES = role(
    "entities", "entities spans ents entity ner 实体 annotations label labels", answer=True
)
LAYOUTS = ((TOKENS, TAGS), (TEXT, ENTITIES), (TOKENS,), (TEXT,))
BARE = "an I tag where a span begins, read as its beginning"
UNCLOSED = "a span without its closing tag, read as closed"
EMPTY = "an empty token, left out"


def form(opening: Opening) -> Form:
    """Tell how entities are written in a source. Raises DataError E-DATA-004 to 006."""
    layouts = LAYOUTS[:2] if opening.need_answer else LAYOUTS
    chosen, columns = choose(opening, layouts, show=("tokens", "tags"))
    write = writer("entities") if opening.need_answer else None
    if "tokens" in chosen:
        tags = _Tags(opening, chosen["tokens"], chosen.get("tags"), write)
        return Form(columns=columns, read=tags.read, finish=tags.finish)
    text, entities = chosen["text"], chosen.get("entities")
    columns = replace(columns, text=text, label=entities)

    def read(record: Record, mended: list[str]) -> Example:
        page = read_page(record.get(text), text)
        if entities is None or (write is None and is_missing(record.get(entities))):
            return framed(page, (), None)
        specs = items(record.get(entities), entities)
        frames = []
        for spec in specs:
            label = type_of(spec, "an entity")
            span = locate(page, spec, label, "an entity", mended)
            frames.append(Frame(label=label, head=span))
        refuse_overlaps(page.text, frames)
        return framed(page, frames, write)

    return Form(columns=columns, read=read)


def type_of(spec: object, what: str) -> str:
    """Return the type that a span is given: by name, or third in [start, end, type]."""
    value: object = None
    if isinstance(spec, Mapping):
        value = first_of(spec, TYPE)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
    elif isinstance(spec, list | tuple) and len(spec) > 2:
        value = spec[2]
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise Unusable(f"{what} without a type", shown(spec))
    label = str(value).strip()
    return label[2:] if label[:2] in ("B-", "I-") else label


def refuse_overlaps(text: str, frames: Sequence[Frame]) -> None:
    """Raise Unusable where two entities share a character and are not the same one."""
    spans = sorted({frame.head for frame in frames if frame.head is not None})
    for one, other in pairwise(spans):
        if other.start < one.end:
            first, second = text[one.start : one.end], text[other.start : other.end]
            if (one.start, one.end) == (other.start, other.end):
                raise Unusable(
                    "one span with two types", f"{shown(first)}: {one.label}, {other.label}"
                )
            raise Unusable(
                "entities are nested or overlap",
                f"{shown(first)} and {shown(second)}",
                fix="keep one of each nest: tags and spans here are flat",
            )


class _Tags:
    """Rows of tokens and tags, and whether faults in the tags are faults in their scheme."""

    def __init__(
        self,
        opening: Opening,
        tokens: str,
        tags: str | None,
        write: Callable[[str, Sequence[Frame]], str] | None,
    ) -> None:
        self.tokens, self.tags, self.write = tokens, tags, write
        self.names = opening.names.get(tags or "", ()) or opening.names.get(NAMES_BESIDE, ())
        lists = (unpacked(record.get(tokens)) for record in opening.first)
        self.dense = is_dense(
            token
            for found in lists
            if isinstance(found, list)
            for token in found
            if isinstance(token, str)
        )
        self.begun = 0
        self.closes = False

    def read(self, record: Record, mended: list[str]) -> Example:
        tokens = read_tokens(record.get(self.tokens), self.tokens)
        tags = ["O"] * len(tokens)
        if self.tags is not None and not (self.write is None and is_missing(record.get(self.tags))):
            tags = self._tags(record.get(self.tags), self.tags)
        if len(tags) != len(tokens):
            raise Unusable("not as many tags as tokens", f"{len(tokens)} tokens, {len(tags)} tags")
        if "" in tokens:
            mended.append(EMPTY)
            tags = [tag for token, tag in zip(tokens, tags, strict=True) if token]
            tokens = [token for token in tokens if token]
        bare, begun, unclosed = faults(tags)
        self.begun += begun
        self.closes = self.closes or any(tag[:2] in ("E-", "S-", "L-", "U-") for tag in tags)
        mended += [BARE] if bare else []
        mended += [UNCLOSED] if unclosed and self.closes else []
        text, offsets = join_tokens(tokens, dense=self.dense)
        frames = [
            Frame(
                label=label,
                head=Span(start=offsets[start][0], end=offsets[end - 1][1], label=label),
            )
            for start, end, label in spans_of(tags)
        ]
        page = read_page(text, self.tokens)
        return framed(page, frames, self.write)

    def _tags(self, value: object, column: str) -> list[str]:
        value = unpacked(value)
        found = list(value.split()) if isinstance(value, str) else items(value, column)
        tags = []
        for tag in found:
            if isinstance(tag, int) and not isinstance(tag, bool):
                if not self.names:
                    raise Unusable(
                        f"column '{column}' holds numbers that the file does not name",
                        shown(tag),
                        fix="write tags as words (B-PER), or their names, one a line in the order"
                        f" of the numbers, in {NAMES_BESIDE} beside the file",
                    )
                if not 0 <= tag < len(self.names):
                    raise Unusable("a tag number without a name", f"{tag} of {len(self.names)}")
                tags.append(self.names[tag])
            elif isinstance(tag, str) and tag.strip():
                tags.append(tag.strip())
            else:
                raise Unusable(f"column '{column}' holds something else than tags", shown(tag))
        return tags

    def finish(self, mended: dict[str, list[int]]) -> tuple[str, ...]:
        if self.begun or BARE not in mended:
            return ()
        mended.pop(BARE)
        return ("tags are read as IOB1 or IO: a span begins with I, with B only after its like",)


TASK = Task(
    name="entities",
    family="extraction",
    metric="f1",
    row='{"tokens": ["Ann", "lives", "in", "Rome"], "ner_tags": ["B-PER", "O", "O", "B-LOC"]}',
    about="Named entities: which words name what.",
    form=form,
    labels=frame_labels,
)
