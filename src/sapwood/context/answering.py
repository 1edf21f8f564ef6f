"""Rows with their answers as token ids: the one function that training and the display both call.

What `tokens_of` marks as learnt is what the loss is taken of, and what `sapwood data show --tokens`
shows. An answer follows its prompt as it will be asked for, and the token that ends it is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sapwood.context.prompter import Prompter, beginning
from sapwood.context.turns import end_ids, shorter, spoken
from sapwood.errors import ConfigError
from sapwood.interfaces import Example, Turn
from sapwood.tasks.supervised import SupervisedRow

TURNS = ("all", "last")
ENDS = ("auto", "token", "separator")
_NOUNS = {
    "entities": ("entities", "实体"),
    "relations": ("relations", "关系"),
    "events": ("events", "事件"),
}
_LISTED = 20  # types that an instruction names, as many as classes (see template.py)


class Answering:
    """How rows are written for training, behind what the prompter's context shows to all of them.

    `max_length`: most tokens of a row, what is shared included; `turns`: which turns of a
    conversation are learnt, "all" of the assistant's or the "last"; `end`: what ends an answer that
    follows a template, the base's end "token", the "separator" that stands between demonstrations,
    or "auto": the separator where demonstrations are shown, else the token. `stops`: the tokens
    that end an answer of this base (see `turns.end_ids`).

    Raises ConfigError (E-CONFIG-117) when a setting is unknown.
    """

    def __init__(
        self,
        prompter: Prompter,
        *,
        max_length: int,
        turns: str = "all",
        end: str = "auto",
        stops: Sequence[int] = (),
    ) -> None:
        wrong = [
            f"{name} must be one of {', '.join(known)}, got '{given}'"
            for name, given, known in (("turns", turns, TURNS), ("end", end, ENDS))
            if given not in known
        ]
        if max_length < 2:
            wrong.append(f"max_length must be 2 or more, got {max_length}")
        if wrong:
            raise ConfigError("E-CONFIG-117", "Rows cannot be written so.", details=wrong)
        self.prompter, self.max_length, self.turns = prompter, max_length, turns
        self.tokenizer = prompter.tokenizer
        self.stops = tuple(stops) or end_ids(self.tokenizer)
        self.template = prompter.context.template
        if end == "auto":
            end = "separator" if prompter.shown and self.template.separator.strip(" ") else "token"
        self.end = end
        self._stem = self._ids(self.template.query("x"))
        prompter.rest(["x"])  # settles what all rows share before any is cut to it

    def words(self, label: str) -> str:
        """Return an answer as it is written after a query."""
        return self.template.answer(label)

    def answer(self, label: str) -> tuple[list[int], int]:
        """Return the token ids of an answer as they follow a query, and how many of them end it."""
        words = self.words(label)
        ids = self._after(self._stem, self.template.query("x") + words, words)
        if self.end == "separator":
            before = self._ids(words)
            end = self._after(before, words + self.template.separator, self.template.separator)[:1]
        elif ids and ids[-1] in self.stops:
            return ids, 1
        else:
            token = self.tokenizer.eos_token_id
            end = [] if token is None else [int(token)]
        return [*ids, *end], len(end)

    def size(self, text: str) -> int:
        """Return the number of tokens of a text on its own."""
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        coded = self.tokenizer(text, add_special_tokens=False, verbose=False)
        return [int(token) for token in coded["input_ids"]]

    def _after(self, before: Sequence[int], whole: str, part: str) -> list[int]:
        """Return the ids of `part` as they follow `before`, or alone where the two would merge."""
        ids = self._ids(whole)
        together = ids[: len(before)] == list(before)
        return ids[len(before) :] if together else self._ids(part)


def tokens_of(example: Example, form: Answering) -> SupervisedRow:
    """Return one example as it is trained.

    A conversation goes through the base's chat template, anything else through the context's. A row
    that is too long loses the end of its text (never more than leaves half the room to the prompt),
    a conversation its first turns; only then does an answer lose its end. Nothing is learnt of an
    example without an answer. Raises what `turns.spoken` raises.
    """
    return _conversation(example, form) if example.turns else _answered(example, form)


def _answered(example: Example, form: Answering) -> SupervisedRow:
    prompter, tokenizer = form.prompter, form.tokenizer
    text = beginning(tokenizer, example.text, prompter.context.max_text_tokens)
    answer, ends = ([], 0) if example.label is None else form.answer(example.label)
    prompt = prompter.rest([text])[0]
    shared, room = len(prompter.prefix), form.max_length - len(prompter.prefix)
    over = len(prompt) + len(answer) - room
    if over > 0:
        size = form.size(text)
        least = max(0, room // 2 - (len(prompt) - size))
        kept = max(0, size - over, min(size, least))
        text = beginning(tokenizer, text, kept) if kept else ""
        prompt = prompter.rest([text])[0]
    kept_answer = answer[: max(0, room - len(prompt))]
    ids = (*prompter.prefix, *prompt[: max(1, room)], *kept_answer)
    first = len(ids) - len(kept_answer)
    return SupervisedRow(
        row=example.row,
        ids=ids,
        learnt=tuple(range(first, len(ids))),
        shared=shared,
        answers=int(example.label is not None),
        ended=int(bool(ends) and len(kept_answer) == len(answer)),
        lost_right=form.size(example.text) - form.size(text) if text != example.text else 0,
        lost_answer=len(answer) - len(kept_answer),
    )


def _conversation(example: Example, form: Answering) -> SupervisedRow:
    turns, lost = example.turns, 0
    coded = _coded(turns, form)
    whole = len(coded[0])
    while len(coded[0]) > form.max_length and len(less := shorter(turns)) < len(turns):
        turns, coded = less, _coded(less, form)
    ids, answers = coded
    lost = whole - len(ids)
    kept = ids[: form.max_length]
    learnt = tuple(n for answer, _ in answers for n in answer if n < len(kept))
    asked = sum(len(answer) for answer, _ in answers)
    return SupervisedRow(
        row=example.row,
        ids=tuple(kept),
        learnt=learnt,
        answers=len(answers),
        ended=sum(ended and answer[-1] < len(kept) for answer, ended in answers),
        lost_left=lost,
        lost_right=len(ids) - len(kept) - (asked - len(learnt)),
        lost_answer=asked - len(learnt),
    )


def _coded(
    turns: Sequence[Turn], form: Answering
) -> tuple[list[int], list[tuple[list[int], bool]]]:
    """Return a conversation's ids, and for each answer (places in them, whether its end is there).

    A token that holds the end of a prompt and the beginning of an answer belongs to the answer.
    """
    said = spoken(form.tokenizer, turns, form.turns)
    plain = not said.closed
    coded: Any = form.tokenizer(
        said.text, add_special_tokens=plain, return_offsets_mapping=True, verbose=False
    )
    ids, spans = list(coded["input_ids"]), list(coded["offset_mapping"])
    found = []
    for number, (first, last) in enumerate(said.answers):
        places = [n for n, (a, b) in enumerate(spans) if n and b > first and a < last and b > a]
        final = plain and number == len(said.answers) - 1 and last >= len(said.text.rstrip("\n"))
        if final and form.tokenizer.eos_token_id is not None:
            ids, spans = ids[: places[-1] + 1], spans[: places[-1] + 1]  # no line break before it
            places.append(len(ids))
            ids.append(int(form.tokenizer.eos_token_id))
            ended = True
        elif plain:
            ended = not final
        else:
            stop = next((k for k, n in enumerate(places) if ids[n] in form.stops), None)
            ended = stop is not None
            places = places if stop is None else places[: stop + 1]
        if places:
            found.append((places, ended))
    return ids, found
