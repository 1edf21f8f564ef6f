"""What `sapwood data show` prints: rows as they are read, and as they are trained."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sapwood.context.answering import Answering
    from sapwood.interfaces import Example
    from sapwood.tasks.readers import Table
    from sapwood.tasks.supervised import Coverage, SupervisedRow

COUNTED = 20_000  # rows whose tokens are counted for the share: about ten seconds
LONGEST = 2_048  # tokens of a row, unless the user or the base says otherwise
_SHORT = 40  # letters of an answer that stands beside its row's number


@dataclass(frozen=True, kw_only=True)
class View:
    """How rows are shown: `rows` of them, for the base `model` with at most `max_length` tokens."""

    rows: int
    model: str
    max_length: int | None
    turns: str
    as_json: bool


def read(data: str, task: str | None, text: str | None, label: str | None) -> Table:
    """Read the rows of a task; without its name, what the columns say."""
    from sapwood.tasks.readers import read_examples
    from sapwood.tasks.structured import read_task, task_named

    chosen = task_named(task).name if task else _guessed(data)
    if chosen == "classification":
        return read_examples(data, text=text, label=label, need_label=label is not None)

    named = {role: name for role, name in (("text", text), ("label", label)) if name}
    return read_task(data, chosen, columns=named or None, need_answer=False)


def _guessed(data: str) -> str:
    """Return the task that the columns of the first rows fit best, by name."""
    from sapwood.tasks.structured import choose_guess, guess_source

    found = guess_source(data)
    best = choose_guess(found) or (found[0] if found else None)
    return best.task if best else "classification"


def show_rows(table: Table, rows: int, *, as_json: bool) -> None:
    """Print the first rows as they are read: what is asked, and the answer."""
    from sapwood.tasks.supervised import in_words

    for example in in_words(table.task, table.examples[:rows]):
        if as_json:
            click.echo(json.dumps(_as_read(example), ensure_ascii=False))
            continue
        label = example.label
        beside = label is not None and len(label) <= _SHORT and "\n" not in label
        beside = beside and not example.turns
        click.secho(f"row {example.row}  {label}" if beside else f"row {example.row}", bold=True)
        if example.turns:
            for turn in example.turns:
                click.echo(_wrapped(f"{turn.role}: {turn.content}"))
            continue
        click.echo(_wrapped(example.text))
        if label is not None and not beside:
            click.echo(_wrapped(f"-> {label}"))


def _as_read(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {"row": example.row, "text": example.text, "label": example.label}
    if example.turns:
        row["messages"] = [{"role": t.role, "content": t.content} for t in example.turns]
    return row


def _wrapped(text: str) -> str:
    return click.wrap_text(text, 80, "  ", "  ", preserve_paragraphs=True)


def show_tokens(table: Table, view: View) -> None:
    """Print the first rows as they are trained, then what the loss sees of all of them.

    Raises what stops a training run on them: DataError E-MASK-002 to -004, E-TPL-001 to -003.
    """
    from sapwood.commands.wording import tell
    from sapwood.context.answering import tokens_of
    from sapwood.tasks.supervised import check_coverage, check_marks, coverage, in_words

    form = _form(table, view)
    examples = tuple(in_words(table.task, table.examples[:COUNTED]))
    rows = [tokens_of(example, form) for example in examples]
    for row in rows[: view.rows]:
        pieces = list(pieces_of(row, form.tokenizer))
        if view.as_json:
            click.echo(json.dumps(_as_trained(row, pieces), ensure_ascii=False))
        else:
            click.secho(f"row {row.row}  {_counts(row)}", bold=True)
            click.echo(marked(pieces, colour=_colours()))
    found = coverage(rows, form.max_length)
    templated = form.tokenizer.chat_template is not None and any(e.turns for e in examples)
    try:
        notes = check_marks(
            examples, form.tokenizer.get_vocab(), templated=templated, name=view.model
        )
        check_coverage(found)
    finally:
        _summary(found, view.as_json)
    for note in (*found.problems(), *notes):
        tell(note)
    if len(examples) < len(table.examples):
        click.echo(f"counted over the first {len(examples):,} rows", err=True)


def pieces_of(row: SupervisedRow, tokenizer: Any) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether it is learnt) for each run of tokens; the texts join to the row's."""
    learnt = set(row.learnt)
    before, end = "", 0
    while end < len(row.ids):
        start, on = end, end in learnt
        while end < len(row.ids) and (end in learnt) == on:
            end += 1
        whole = tokenizer.decode(
            list(row.ids[:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if end < len(row.ids):  # a letter over the boundary belongs to what completes it
            whole = whole.rstrip("\N{REPLACEMENT CHARACTER}")
        assert start < end
        yield whole[len(before) :], on
        before = whole


def marked(pieces: Sequence[tuple[str, bool]], *, colour: bool) -> str:
    """Return the row with its learnt runs in colour, or in [[...]]; line breaks in them shown."""
    shown = []
    for text, learnt in pieces:
        if not learnt:
            shown.append(click.style(text, dim=True) if colour else text)
            continue
        seen = text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n")
        shown.append(click.style(seen, fg="green", bold=True) if colour else f"[[{seen}]]")
    return "".join(shown)


def _colours() -> bool:
    """Tell whether colours are wanted: on a terminal, unless NO_COLOR says no."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _counts(row: SupervisedRow) -> str:
    words = [f"{len(row.learnt):,} of {len(row.ids):,} tokens learnt"]
    words += [f"{row.lost_left:,} cut from the left"] if row.lost_left else []
    words += [f"{row.lost_right:,} of the text cut from the right"] if row.lost_right else []
    words += [f"{row.lost_answer:,} of the answer cut"] if row.lost_answer else []
    words += ["its end is not learnt"] if row.ended < row.answers else []
    return ", ".join(words)


def _as_trained(row: SupervisedRow, pieces: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    return {
        "row": row.row,
        "pieces": [{"text": text, "learnt": learnt} for text, learnt in pieces],
        "ids": list(row.ids),
        "learnt": list(row.learnt),
        "shared": row.shared,
        "answers": row.answers,
        "ended": row.ended,
        "lost": {"left": row.lost_left, "right": row.lost_right, "answer": row.lost_answer},
    }


def _summary(found: Coverage, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"all": found.to_json()}, ensure_ascii=False))
        return
    click.echo(
        f"{found.learnt:,} of {found.tokens:,} tokens are learnt ({found.share:.1%}) in "
        f"{found.rows:,} rows; {found.ended:,} of {found.answers:,} answers to their end"
    )


def _form(table: Table, view: View) -> Answering:
    """Return how rows are written for the base: its tokenizer, a template that fits, its limits."""
    from sapwood.context.answering import Answering
    from sapwood.context.prompter import Context, Prompter
    from sapwood.context.turns import end_ids
    from sapwood.context.wording import template_for

    tokenizer, limit, stops = _tokenizer(view.model)
    texts = [example.text for example in table.examples[:200]]
    template = template_for(table.task, table.labels, texts)
    longest = view.max_length or min(limit, LONGEST)
    text = min(longest, LONGEST)
    context = Context(template=template, max_text_tokens=text)
    return Answering(
        Prompter(tokenizer, context),
        max_length=longest,
        turns=view.turns,
        stops=end_ids(tokenizer, stops),
    )


def _tokenizer(name: str) -> tuple[Any, int, Any]:
    """Return (tokenizer, most tokens, end tokens) of a base, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    from sapwood.models.load import resolve_base

    folder = Path(resolve_base(name).folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    config: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    limits = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    stated = [int(limit) for limit in limits if limit and int(limit) < 1 << 31]
    named = config.eos_token_id
    generation = folder / "generation_config.json"
    if generation.is_file():
        named = json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id", named)
    return tokenizer, min(stated, default=512), named
