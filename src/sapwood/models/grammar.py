"""Decoding under a grammar: tokens that no valid answer could go on with get no probability.

Grammars are in llguidance's dialect of Lark (Moskal et al., github.com/guidance-ai/llguidance),
which follows them token by token whatever the tokenizer; the end of an answer is open only where
the grammar accepts it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sapwood.errors import ConfigError, ModelError

# What one step may cost, in llguidance's units: verses (tasks.verses) ask for classes of thousands
# of characters in hundreds of alternatives. That is some ten times its defaults, and milliseconds.
FUEL, ITEMS, ROW_ITEMS = 20_000_000, 2_000_000, 20_000


# Small models fill an answer with line breaks where a schema leaves room for them.
_SPACES: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Guide:
    """One answer's way through its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def copy(self) -> Guide:
        """Return a guide of another answer under the same grammar, as far as this one is."""
        return Guide(self._matcher.deep_copy())

    def allow(self, bits: Any, row: int) -> None:
        """Write into a row of `bits`, int32 (rows, vocabulary / 32), which tokens may come next."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, bits, row)

    def take(self, token: int) -> bool:
        """Go on by one token; return whether the answer is complete and cannot go on.

        Raises ModelError (E-MODEL-120) where the grammar grew beyond what a step may cost.
        """
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            why = str(self._matcher.get_error()).partition("\n")[0]
            raise ModelError("E-MODEL-120", f"The grammar cannot be followed any further: {why}.")
        return bool(self._matcher.is_stopped())


class Guides:
    """Grammars over one tokenizer: `vocabulary` logits, and the tokens that end an answer."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Sequence[int]) -> None:
        from llguidance.hf import from_tokenizer

        self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))

    def guide(self, grammar: str) -> Guide:
        """Return a guide at the beginning of `grammar`, in Lark.

        Raises ConfigError (E-CONFIG-071) when it is no grammar.
        """
        from llguidance import LLMatcher

        return self._begin(LLMatcher.grammar_from_lark(grammar))

    def following_schema(self, schema: str) -> Guide:
        """Return a guide of JSON that follows a JSON schema, itself in JSON.

        Raises ConfigError (E-CONFIG-071) when it is none, or has what cannot be followed.
        """
        from llguidance import LLMatcher

        try:
            content = json.loads(schema)
        except ValueError as error:
            raise ConfigError("E-CONFIG-071", f"Not a JSON schema: {error}") from None
        content = content or {"type": "object"}
        return self._begin(
            LLMatcher.grammar_from_json_schema(json.dumps(content), defaults=_SPACES)
        )

    def _begin(self, grammar: str) -> Guide:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            initial_lexer_fuel=FUEL,
            step_lexer_fuel=FUEL,
            step_max_items=ITEMS,
            max_items_in_row=ROW_ITEMS,
        )
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise ConfigError("E-CONFIG-071", f"Not a grammar: {matcher.get_error()}")
        return Guide(matcher)


class Guided:
    """A logits processor of transformers: rows of one prompt of `length` tokens under a grammar."""

    def __init__(self, guide: Guide, length: int) -> None:
        self._begun, self._length = guide, length
        self._rows: list[Guide] = []
        self._done: list[bool] = []

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (rows, vocabulary) after ids (rows, tokens), forbidden ones barred."""
        if not self._rows:
            self._rows = [self._begun.copy() for _ in ids]
            self._done = [False] * len(ids)
        elif ids.shape[1] > self._length:
            for row, token in enumerate(ids[:, -1].tolist()):
                self._done[row] = self._done[row] or self._rows[row].take(token)
        open_rows = [None if d else g for g, d in zip(self._rows, self._done, strict=True)]
        return barred(scores, open_rows)


def barred(logits: Tensor, guides: Sequence[Guide | None]) -> Tensor:
    """Return logits (rows, vocabulary) with minus infinity where a row's guide forbids a token."""
    if not any(guides):
        return logits
    import numpy as np
    from llguidance.numpy import allocate_token_bitmask

    bits = allocate_token_bitmask(len(guides), logits.shape[1])
    bits[:] = -1  # all may come where nothing guides
    for row, guide in enumerate(guides):
        if guide is not None:
            guide.allow(bits, row)
    open_ = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, : logits.shape[1]]
    return logits.masked_fill(torch.from_numpy(open_ == 0).to(logits.device), float("-inf"))
