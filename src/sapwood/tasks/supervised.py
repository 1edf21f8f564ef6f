"""Rows as they are trained, and what must hold of them before anything is spent on training.

A mask that teaches nothing, an answer that a limit ate and an end that is never learnt make a run
worthless without any error. They are found here, from the very rows that the loss is taken of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sapwood.errors import DataError
from sapwood.interfaces import Dropped, Example
from sapwood.tasks.kinds import SPANS
from sapwood.tasks.readers import describe, rows_of
from sapwood.tasks.written import write

# From this share of rows on, damaged answers are not the exception any more: the run is refused.
MOST_CUT = 0.1
# Texts may speak about control tokens; data rendered for a base has them nearly everywhere.
_MANY_MARKS = 0.05
CONTROL = {
    "<|im_start|>": "ChatML (Qwen, SmolLM2)",
    "<|im_end|>": "ChatML (Qwen, SmolLM2)",
    "<|start_header_id|>": "Llama 3",
    "<|end_header_id|>": "Llama 3",
    "<|eot_id|>": "Llama 3",
    "<|begin_of_text|>": "Llama 3",
    "<start_of_turn>": "Gemma",
    "<end_of_turn>": "Gemma",
    "<<SYS>>": "Llama 2",
    "[/INST]": "Llama 2 and Mistral",
    "<|assistant|>": "Phi 3 and Zephyr",
    "<|user|>": "Phi 3 and Zephyr",
    "<\uff5cAssistant\uff5c>": "DeepSeek",
    "<\uff5cUser\uff5c>": "DeepSeek",
}


@dataclass(frozen=True, kw_only=True)
class SupervisedRow:
    """One row as it is trained.

    `ids`: all its tokens, of which the first `shared` are the same in every row; `learnt`: rising
    places in `ids` (each after the first of the row's own) of the tokens that the loss is on.
    `answers`: how many answers it has, `ended`: how many of them are learnt to the token that ends
    them. `lost_left`, `lost_right`: tokens of its text, or of earlier turns, that did not fit, by
    the side that lost them; `lost_answer`: tokens of answers. `row`: the data row it comes from.
    """

    row: int
    ids: tuple[int, ...]
    learnt: tuple[int, ...]
    shared: int = 0
    answers: int = 1
    ended: int = 0
    lost_left: int = 0
    lost_right: int = 0
    lost_answer: int = 0

    @property
    def needs(self) -> int:
        """Return the tokens that the whole row would take."""
        return len(self.ids) + self.lost_left + self.lost_right + self.lost_answer


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What the loss sees of rows that were written with at most `limit` tokens each.

    `tokens`: of all rows; `learnt`: those the loss is on; `answers`, `ended`: as in SupervisedRow;
    `needs`: tokens of the longest row if nothing were cut, `most`: so many that 90 % of the rows
    fit. Data rows by what happened to them: `unanswered` have no answer, `lost` have none left,
    `cut` the beginning of one, `left` and `right` lost text on that side.
    """

    limit: int
    rows: int
    tokens: int
    learnt: int
    answers: int
    ended: int
    needs: int
    most: int
    unanswered: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    cut: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        """Return the share of tokens that are learnt, in [0, 1]."""
        return self.learnt / max(1, self.tokens)

    def problems(self) -> list[str]:
        """Return a line for each kind of damage: how many rows, what happened, and which."""
        limit = f"(limit {self.limit:,} tokens; longest {self.needs:,})"
        kinds = (
            (self.unanswered, "no answer; left out"),
            (self.lost, f"answer lost by truncation {limit}; left out"),
            (self.cut, f"answer cut by truncation {limit}; kept, its end is not learnt"),
            (self.left, f"earlier turns cut from the left {limit}"),
            (self.right, f"text cut from the right {limit}"),
        )
        return [describe(Dropped(reason=why, rows=rows)) for rows, why in kinds if rows]

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON-ready object."""
        counts = ("limit", "rows", "tokens", "learnt", "answers", "ended", "needs")
        kinds = ("unanswered", "lost", "cut", "left", "right")
        content: dict[str, Any] = {name: getattr(self, name) for name in counts}
        content |= {name: list(getattr(self, name)) for name in kinds}
        return {**content, "share": round(self.share, 4), "problems": self.problems()}


def in_words(task: str, examples: Iterable[Example]) -> Iterator[Example]:
    """Yield examples with their answer in words: frames as they are written, labels as they are.

    Raises DataError (E-DATA-112) when a frame has no words in its text.
    """
    for example in examples:
        if example.label is None and task in SPANS:
            yield replace(example, label=write(task, example.text, example.frames))
        else:
            yield example


def coverage(rows: Iterable[SupervisedRow], limit: int) -> Coverage:
    """Count what the loss sees of `rows`, which have at most `limit` tokens each."""
    sums: Counter[str] = Counter()
    kinds: dict[str, list[int]] = {}
    needs: list[int] = []
    for row in rows:
        sums["tokens"] += len(row.ids)
        for name, value in (("learnt", len(row.learnt)), ("answers", row.answers)):
            sums[name] += value
        sums["ended"] += row.ended
        needs.append(row.needs)
        for kind in _kinds(row):
            kinds.setdefault(kind, []).append(row.row)
    needs.sort()
    counts: dict[str, Any] = {
        "rows": len(needs),
        "needs": needs[-1] if needs else 0,
        "most": needs[max(0, -(-len(needs) * 9 // 10) - 1)] if needs else 0,
        **{name: sums[name] for name in ("tokens", "learnt", "answers", "ended")},
        **{kind: tuple(found) for kind, found in kinds.items()},
    }
    return Coverage(limit=limit, **counts)


def _kinds(row: SupervisedRow) -> Iterable[str]:
    if not row.answers:
        yield "unanswered"
    elif not row.learnt:
        yield "lost"
    elif row.lost_answer:
        yield "cut"
    if row.lost_left:
        yield "left"
    if row.lost_right:
        yield "right"


def check_coverage(found: Coverage) -> None:
    """Refuse rows that would teach nothing or the wrong thing; return where they may be trained.

    Raises DataError: E-MASK-002 no token of any row would be learnt, E-MASK-003 more than a tenth
    of the answers are damaged by the limit, E-MASK-004 no answer is learnt to its end.
    """
    longer = f"--max-length {found.needs} keeps every row whole"
    if found.most < found.needs:
        longer += f", --max-length {found.most} nine in ten"
    if not found.learnt:
        blank = len(found.unanswered) == found.rows
        raise DataError(
            "E-MASK-002",
            f"No token of {rows_of(found.rows)} would be learnt: "
            + ("there are no answers" if blank else "truncation takes the answers away"),
            details=found.problems(),
            fix="name the column of the answers with --label" if blank else longer,
        )
    damaged = len(found.cut) + len(found.lost)
    if damaged > MOST_CUT * found.rows:
        raise DataError(
            "E-MASK-003",
            f"Truncation damages the answers of {damaged:,} of {rows_of(found.rows)}; up to "
            f"{MOST_CUT:.0%} would be trained without them",
            details=found.problems(),
            fix=longer,
        )
    if not found.ended:
        raise DataError(
            "E-MASK-004",
            f"No answer of {rows_of(found.rows)} is learnt to its end: the model would never stop",
            details=found.problems() or ["no token that ends an answer follows any of them"],
            fix=longer
            if damaged
            else "a tokenizer with an end token (eos_token), or a chat "
            "template that closes the assistant's turns",
        )


def check_marks(
    examples: Sequence[Example], known: Collection[str], *, templated: bool, name: str
) -> tuple[str, ...]:
    """Refuse texts that were rendered for another base, or for this one already.

    `known`: the vocabulary of the base `name`; `templated`: its own template is put around what
    the rows say. A few rows with such strings may speak about them: they are returned as notes.
    Raises DataError (E-TPL-001).
    """
    rows: dict[str, list[int]] = {}
    for example in examples:
        words = "\n".join(
            [example.text, example.label or "", *(turn.content for turn in example.turns)]
        )
        for mark in CONTROL:
            if mark in words:
                rows.setdefault(mark, []).append(example.row)
    lines, most = [], 0
    for mark, found in rows.items():
        whose = f"'{mark}' of {CONTROL[mark]}"
        if mark not in known:
            why = f"{whose} is no token of {name}: it would be read letter by letter"
        elif templated:
            why = f"{whose} stands there already, and the template of {name} writes it again"
        else:
            continue
        lines.append(describe(Dropped(reason=why, rows=tuple(found))))
        most = max(most, len(found))
    if most > _MANY_MARKS * len(examples):
        raise DataError(
            "E-TPL-001",
            f"The texts hold the control tokens of a chat template, in {rows_of(most)} of "
            f"{len(examples):,}",
            details=lines,
            fix="give the conversation itself, as messages: [{role, content}, ...], or a base "
            "whose template it was rendered with; the base's own template is put around it here",
        )
    return tuple(lines)
