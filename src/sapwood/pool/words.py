"""Token ids as they come, turned into words that can be shown: whole characters, no stop words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sapwood.models.choosing import cut_at

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer shows of a character's first bytes


class Words:
    """The text of one answer while it grows; `stops`: words that end it and are no part of it.

    Only the tokens since the last whole character are decoded again, with the ones before them,
    since a tokenizer may write a token differently at the beginning of a text.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids: list[int] = []
        self._before = self._shown = 0  # tokens: where decoding begins, and what is shown of them
        self._held = ""  # may be the beginning of a stop word
        self.stopped = False

    @property
    def count(self) -> int:
        """Return how many token ids it has got."""
        return len(self._ids)

    def add(self, ids: Sequence[int], *, last: bool = False) -> str:
        """Return the words that more token ids add; with `last` also what was held back."""
        self._ids += ids
        if self.stopped:
            return ""
        self._held += self._new(last)
        cut = cut_at(self._held, self._stops)
        if cut != self._held:
            self.stopped, self._held = True, ""
            return cut
        keep = 0 if last else self._beginning_of_a_stop()
        said = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return said

    def _new(self, last: bool) -> str:
        shown = self._text(self._ids[self._before : self._shown])
        whole = self._text(self._ids[self._before :])
        if len(whole) <= len(shown) or (whole.endswith(_BROKEN) and not last):
            return ""
        self._before, self._shown = self._shown, len(self._ids)
        return whole[len(shown) :]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)) if ids else ""

    def _beginning_of_a_stop(self) -> int:
        """Return how many characters at the end may begin a stop word."""
        for size in range(min(len(self._held), max(map(len, self._stops), default=0)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
