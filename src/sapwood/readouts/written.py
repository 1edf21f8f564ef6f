"""Answers that a decoder writes: how long they may be, and the grammar that they follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from sapwood.interfaces import Floats, Schema


@dataclass(frozen=True, kw_only=True)
class Written:
    """`task`, `schema`: what answers are about and may hold; `tokens`: most of one answer.

    `grammar`: whether answers of tasks that have a grammar are written under it. `temperature` and
    `top_p` as in `models.generate.Sampling`; 0 takes the most probable token. `form`: the form of
    poems (`tasks.forms`) that all answers keep, "" for none.
    """

    task: str
    schema: Schema
    tokens: int = 128
    grammar: bool = True
    temperature: float = 0.0
    top_p: float = 1.0
    form: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the types that answers may have, none for free text."""
        return self.schema.types

    @property
    def reads(self) -> str:
        """Return "answers": a base writes them."""
        return "answers"

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return (settings, arrays): all there is to save."""
        return asdict(self), {}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        """Rebuild exactly what `state` gave."""
        del arrays
        schema = settings["schema"]
        roles = {label: tuple(own) for label, own in schema["roles"].items()}
        made = Schema(types=tuple(schema["types"]), roles=roles, heads=bool(schema["heads"]))
        return cls(**{**settings, "schema": made})
