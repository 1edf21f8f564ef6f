"""What is asked: a text, two texts that are judged together, or a text and two parts of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sapwood.errors import DataError
from sapwood.interfaces import Span
from sapwood.studio.forms import Form
from sapwood.studio.lines import place, place_beside
from sapwood.tasks.bio import HEAD, TAIL, is_dense, mark_pair

_MARKS = re.compile("|".join(map(re.escape, (*HEAD, *TAIL))))
ONE, TWO, PAIR = ("text",), ("text", "text_pair"), ("text", "head", "tail")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What an adaptation is asked: `text`, as its rows are read.

    `shown`: the text as a person gave it, without marks; `second`: the other of two; `ends`: the
    characters of a pair in `shown`.
    """

    text: str
    shown: str
    second: str = ""
    ends: tuple[tuple[int, int], ...] = ()


def fields_of(task: str, seen: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of a question about data that were seen to be so."""
    if task == "pairs":
        return PAIR
    return TWO if "text_pair" in seen["roles"].values() else ONE


def question_of(form: Form, fields: tuple[str, ...]) -> Question:
    """Return what a form asks. Raises DataError (E-DATA-303) with all that is wrong in it."""
    text = form.text("text")
    if not text.strip():
        raise DataError("E-DATA-303", "There is no text.", fix="write the text first")
    if fields == TWO:
        other = form.text("text_pair")
        if not other.strip():
            raise DataError("E-DATA-303", "There is no second text.", fix="write both texts")
        return Question(text=f"{text.strip()}\n{other.strip()}", shown=text, second=other)
    if fields == PAIR:
        return _pair(text, form.text("head").strip(), form.text("tail").strip())
    return Question(text=text, shown=text)


def _pair(text: str, head: str, tail: str) -> Question:
    """Return a question about two parts; of words that stand there twice, the first or "Ada #2".

    A text that has the marks of the training rows already is asked as it is.
    """
    if not head and not tail and all(mark in text for mark in (*HEAD, *TAIL)):
        ends = tuple((_plain(text, one), _plain(text, two)) for one, two in (HEAD, TAIL))
        return Question(text=text, shown=_MARKS.sub("", text), ends=ends)
    wrong = [f"the {name} one is empty" for name, words in (("first", head), ("second", tail))
             if not words]  # fmt: skip
    found: list[Span] = []
    for words in filter(None, (head, tail)):
        try:
            found.append(place_beside(text, words, found[0]) if found else place(text, words))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError(
            "E-DATA-303", "It cannot be told between which two parts of the text.", details=wrong,
            fix="write each of them as it stands in the text",
        )  # fmt: skip
    one, two = ((span.start, span.end) for span in found)
    return Question(text=mark_pair(text, one, two), shown=text, ends=(one, two))


def _plain(text: str, mark: str) -> int:
    """Return where a mark of a text would stand in the text without marks."""
    return len(_MARKS.sub("", text[: text.index(mark)]))


def example_of(fields: tuple[str, ...], seen: Mapping[str, Any]) -> dict[str, str]:
    """Return what the fields begin with: the first row, of a conversation its first message."""
    cells = dict(zip(seen["columns"], seen["head"][0], strict=True)) if seen["head"] else {}
    roles = {role: str(cells.get(column, "")) for column, role in seen["roles"].items()}
    text = next((roles[name] for name in ("text", "prompt") if roles.get(name)), "")
    if not text and "messages" in roles:
        text = roles["messages"].partition("\n")[0].partition(": ")[2]
    found = {"text": text or _joined(roles.get("tokens", ""))}
    if text.startswith("["):
        found["text"] = _joined(text) or text
    found |= {name: roles.get(name, "") for name in fields if name == "text_pair"}
    if fields == PAIR:
        found |= {name: _words(roles.get(name, ""), found["text"]) for name in ("head", "tail")}
    return found


def example_text(fields: tuple[str, ...], seen: Mapping[str, Any]) -> str:
    """Return the first row as an adaptation is asked about it, "" where there is none."""
    try:
        return question_of(Form(list(example_of(fields, seen).items())), fields).text
    except DataError:
        return ""


def _read(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return None


def _joined(cell: str) -> str:
    """Return a text whose tokens a cell shows, "" where it shows none or not all."""
    tokens = _read(cell)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return ""
    return ("" if is_dense(tokens) else " ").join(tokens)


def _words(cell: str, text: str) -> str:
    """Return the words of a part of the text that a cell shows, "" where they are not in it."""
    said = _read(cell)
    if isinstance(said, dict):
        start, end = said.get("start"), said.get("end")
        placed = isinstance(start, int) and isinstance(end, int)
        words = said.get("text") or said.get("name") or (text[start:end] if placed else "")
    else:
        words = cell
    return str(words) if str(words) in text else ""
