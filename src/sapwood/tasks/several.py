"""Classification: one label or several labels a text, of one text or of two."""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.interfaces import Example, Frame
from sapwood.tasks.columns import LABEL_NAMES, TEXT_NAMES, Columns, choose_columns, words
from sapwood.tasks.kinds import Form, Opening, Task, Unusable, frame_labels, own_label
from sapwood.tasks.readers import EDGES, clean_label, sorted_labels
from sapwood.tasks.roles import Role, choose, role
from sapwood.tasks.rows import Record
from sapwood.tasks.spans import is_missing, read_text, shown, unpacked, writer

DELIMITERS = (";", "；", "|", "\t", "\n", ",", "，", "、", "#")
TEXTS = tuple(name for group in TEXT_NAMES for name in group)
LABELS = tuple(name for group in LABEL_NAMES for name in group)
ALL_LABELS = Role(name="label", names=("labels", "标签", *LABELS), answer=True)
LABEL = Role(name="label", names=LABELS, answer=True)
# Both names must be there, so that a lone "question" stays a text of its own.
PAIRED = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("query", "passage"),
    ("question", "sentence"),
    ("句子1", "句子2"),
)


def layouts_of_pairs(answer: Role) -> tuple[tuple[Role, ...], ...]:
    """Return the layouts in which two columns hold the two texts that are judged together."""
    return tuple((role("text", one), role("text_pair", other), answer) for one, other in PAIRED)


def has_pair(opening: Opening) -> bool:
    """Tell whether two columns are the two texts of a pair, by name or as the caller says."""
    there = {words(name) for name in opening.found}
    named = any(words(one) in there and words(other) in there for one, other in PAIRED)
    return "text_pair" in opening.given or (named and "text" not in opening.given)


def read_pair(record: Record, chosen: dict[str, str]) -> str:
    """Return the texts of a row, one after the other. Raises Unusable where one is empty."""
    parts = [chosen[name] for name in ("text", "text_pair") if name in chosen]
    texts = [read_text(record.get(column), column).strip(EDGES) for column in parts]
    for column, text in zip(parts, texts, strict=True):
        if not text:
            raise Unusable(f"column '{column}' empty")
    return "\n".join(texts).replace("\r\n", "\n")


def _chosen(opening: Opening, answer: Role) -> tuple[dict[str, str], Columns]:
    """Return (role -> column, which columns were chosen and why)."""
    if has_pair(opening):
        free = (role("text", " ".join(TEXTS)), role("text_pair", "text_pair"), answer)
        layouts = (*layouts_of_pairs(answer), free)
        chosen, columns = choose(opening, layouts, show=("text", "label"))
        return chosen, columns
    label = opening.given.get("label")
    if label is None and answer is ALL_LABELS:
        there = {words(name): name for name in opening.found}
        label = there.get(("labels",), there.get(("label",)))
    columns = choose_columns(
        opening.found,
        text=opening.given.get("text"),
        label=label,
        need_label=opening.need_answer,
        where=opening.where,
    )
    chosen = {"text": columns.text}
    if columns.label is not None:
        chosen["label"] = columns.label
    return chosen, columns


def one_form(opening: Opening) -> Form:
    """Tell how texts with one label are written. Raises DataError E-DATA-004 to 006."""
    chosen, columns = _chosen(opening, LABEL)
    column = chosen.get("label")
    names = opening.names.get(column or "", ())

    def read(record: Record, mended: list[str]) -> Example:
        del mended
        text, label = read_pair(record, chosen), None
        if column is not None:
            value = record.get(column)
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            if isinstance(value, dict | list) and value:
                what = "several labels" if isinstance(value, list) else "an object, not a label"
                fix = "read the file as task multi-label" if isinstance(value, list) else ""
                raise Unusable(f"column '{column}' holds {what}", shown(value), fix)
            label = clean_label(value, names)
            if label is None and opening.need_answer:
                raise Unusable(f"column '{column}' empty")
        return Example(text=text, label=label)

    return Form(columns=columns, read=read)


def all_form(opening: Opening) -> Form:
    """Tell how texts with any number of labels are written. Raises DataError E-DATA-004 to 006."""
    chosen, columns = _chosen(opening, ALL_LABELS)
    column = chosen.get("label")
    names = opening.names.get(column or "", ())
    values = [unpacked(record.get(column)) for record in opening.first] if column else []
    delimiter = delimiter_of([value for value in values if isinstance(value, str)])
    write = writer("multi-label")

    def read(record: Record, mended: list[str]) -> Example:
        del mended
        text = read_pair(record, chosen)
        if column is None or (not opening.need_answer and is_missing(record.get(column))):
            return Example(text=text)
        labels = _labels(unpacked(record.get(column)), column, names, delimiter)
        frames = tuple(Frame(label=label) for label in sorted_labels(set(labels)))
        return Example(
            text=text,
            label=write(text, frames),
            frames=frames,
        )

    notes = (f"labels are separated by {delimiter!r}",) if delimiter else ()
    return Form(columns=columns, read=read, notes=notes)


def _labels(value: object, column: str, names: Sequence[str], delimiter: str) -> list[str]:
    if is_missing(value):
        raise Unusable(f"column '{column}' empty", fix="write [] where no label applies")
    if isinstance(value, dict):
        if not value or not all(v in (0, 1, True, False) for v in value.values()):
            raise Unusable(f"column '{column}' holds an object, not labels", shown(value))
        return [str(name) for name, there in value.items() if there]
    if isinstance(value, str):
        found: list[object] = list(value.split(delimiter)) if delimiter else [value]
    else:
        found = list(value) if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, dict | list) for part in found):
        raise Unusable(f"column '{column}' holds something else than labels", shown(value))
    labels = [clean_label(part, names) for part in found]
    if any(label is None for label in labels) and not isinstance(value, str):
        raise Unusable(f"column '{column}' holds an empty label", shown(value))
    return [label for label in labels if label is not None]


def delimiter_of(values: Sequence[str]) -> str:
    """Return what separates labels in these cells, or "" where each is one label.

    It separates where it stands in some cells and the pieces recur: fewer different pieces than
    different cells, or pieces that stand alone elsewhere.

    >>> delimiter_of(["a;b", "b", "a;c"]), delimiter_of(["Cause(e1,e2)", "Other"])
    (';', '')
    """
    wholes = set(values)
    for delimiter in DELIMITERS:
        split = [value for value in wholes if delimiter in value]
        pieces = {piece.strip() for value in wholes for piece in value.split(delimiter)} - {""}
        parts = {piece.strip() for value in split for piece in value.split(delimiter)} - {""}
        alone = {value.strip() for value in wholes if delimiter not in value}
        if split and (len(pieces) < len(wholes) or parts & alone):
            return delimiter
    return ""


ONE = Task(
    name="classification",
    family="classification",
    metric="accuracy",
    row='{"text": "A fine film.", "label": "positive"}',
    about="One label a text, or a pair of texts: sentiment, topic, intent.",
    form=one_form,
    labels=own_label,
)
SEVERAL = Task(
    name="multi-label",
    family="classification",
    metric="micro_f1",
    row='{"text": "A fine film, badly cut.", "labels": ["story", "craft"]}',
    about="Any number of labels a text, as a list or separated by ; or |.",
    form=all_form,
    labels=frame_labels,
)
