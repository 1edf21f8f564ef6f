"""Conversations that were rendered for a chat template already: seen before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from sapwood.interfaces import Example
from sapwood.models.load import Base
from sapwood.tasks.kinds import Task
from sapwood.tasks.supervised import check_marks


def template_notes(task: Task, rows: Sequence[Example], base: Base) -> tuple[str, ...]:
    """Return what to tell of control tokens in the texts of a generation task.

    Raises DataError (E-TPL-001) where many rows hold those of another base's template, or of this
    one's that would be put around them again.
    """
    if task.family != "generation" or base.kind != "decoder":
        return ()
    tokenizer = base.tokenizer
    templated = tokenizer.chat_template is not None and any(row.turns for row in rows)
    return check_marks(rows, tokenizer.get_vocab(), templated=templated, name=base.name)
