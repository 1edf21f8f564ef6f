"""What plain HTML forms send."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from sapwood.errors import ConfigError

_MOST = 200  # fields of one form


class Form:
    """The fields of a form; of one that comes twice, the last."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs, self._fields = pairs, dict(pairs)

    def get(self, name: str, longest: int = 500) -> str:
        """Return a field without spaces around it, "" where it is empty or missing.

        Raises ConfigError (E-CONFIG-318) where it is longer than any that is meant.
        """
        text = self._fields.get(name, "").strip()
        if len(text) > longest:
            raise ConfigError(
                "E-CONFIG-318", f"'{name}' has more than {longest:,} characters.", fix="shorten it"
            )
        return text

    def text(self, name: str) -> str:
        """Return a long field with its line breaks as one character each."""
        return self.get(name, 100_000).replace("\r\n", "\n")

    def every(self, name: str) -> list[str]:
        """Return all values of a field."""
        return [value for key, value in self._pairs if key == name]


async def _said(request: Request) -> Form:
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return Form(parse_qsl(body, keep_blank_values=True, max_num_fields=_MOST))
    except ValueError:
        raise ConfigError("E-CONFIG-318", f"The form has more than {_MOST} fields.") from None


Said = Annotated[Form, Depends(_said)]
