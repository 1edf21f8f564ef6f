"""Events: what happens in a text, the word that says so, and who and what takes part."""

from __future__ import annotations

from collections.abc import Mapping

from sapwood.interfaces import Example, Frame, Span
from sapwood.tasks.kinds import Form, Opening, Task, Unusable, frame_labels
from sapwood.tasks.relations import dense_tokens
from sapwood.tasks.roles import TEXT, choose, role
from sapwood.tasks.rows import Record
from sapwood.tasks.spans import (
    WORDS,
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

EVENTS = role("events", "events event event_list event_mentions templates 事件", answer=True)
TYPES = ("type", "event_type", "label", "incident_type", "class")
TRIGGERS = ("trigger", "trigger_word", "anchor", "nugget")
ARGUMENTS = ("arguments", "args", "roles", "mentions", "argument")
ROLES = ("role", "label", "type", "role_type")
STARTS = ("trigger_start_index", "trigger_start", "argument_start_index")


def form(opening: Opening) -> Form:
    """Tell how events are written in a source. Raises DataError E-DATA-004 to 006."""
    chosen, columns = choose(opening, ((TEXT, EVENTS),), show=("text", "events"))
    text, events = chosen["text"], chosen.get("events")
    dense = dense_tokens(opening, text)
    write = writer("events") if opening.need_answer else None

    def read(record: Record, mended: list[str]) -> Example:
        page = read_page(record.get(text), text, dense=dense)
        if events is None or (write is None and is_missing(record.get(events))):
            return framed(page, (), None)
        specs = items(record.get(events), events)
        return framed(page, [_event(page, spec, mended) for spec in specs], write)

    return Form(columns=columns, read=read)


def _event(page: Page, spec: object, mended: list[str]) -> Frame:
    if not isinstance(spec, Mapping):
        raise Unusable("an event that is no object", shown(spec))
    value = first_of(spec, TYPES)
    if not isinstance(value, str | int) or not str(value).strip():
        raise Unusable("an event without a type", shown(spec))
    label = str(value).strip()
    trigger = unpacked(first_of(spec, TRIGGERS))
    head: Span | None = None
    if not is_missing(trigger) and trigger not in ({}, []):
        head = locate(page, _placed(trigger, spec), label, "a trigger", mended)
    listed = first_of(spec, ARGUMENTS)
    arguments: list[Span] = []
    for argument in [] if listed is None else items(listed, "arguments"):
        arguments.append(_argument(page, argument, mended))
    return Frame(label=label, head=head, arguments=tuple(sorted(dict.fromkeys(arguments))))


def _argument(page: Page, spec: object, mended: list[str]) -> Span:
    if isinstance(spec, list | tuple) and len(spec) > 2:
        return locate(page, spec, str(spec[2]), "an argument", mended)
    if not isinstance(spec, Mapping):
        raise Unusable("an argument that is no object", shown(spec))
    value = first_of(spec, ROLES)
    if not isinstance(value, str) or not value.strip():
        raise Unusable("an argument without a role", shown(spec))
    words = spec.get("argument")
    place: object = _placed(words, spec) if isinstance(words, str) else spec
    return locate(page, place, value.strip(), "an argument", mended)


def _placed(words: object, beside: Mapping[str, object]) -> object:
    """Return the words with the start that some files give beside them, not with them."""
    start = first_of(beside, STARTS)
    if isinstance(words, str) and start is not None:
        return {WORDS[0]: words, "start": start}
    return words


TASK = Task(
    name="events",
    family="extraction",
    metric="f1",
    row='{"text": "Ann sold her boat.", "events": [{"type": "sale", "trigger": {"start": 4,'
    ' "end": 8, "text": "sold"}, "arguments": [{"role": "seller", "start": 0, "end": 3,'
    ' "text": "Ann"}]}]}',
    about="What happens in a text: trigger words, and who and what takes part.",
    form=form,
    labels=frame_labels,
)
