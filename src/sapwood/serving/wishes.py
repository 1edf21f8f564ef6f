"""From a request's body to wishes: the API's words in the pool's."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import Any

from sapwood.errors import ConfigError
from sapwood.interfaces import Turn
from sapwood.models.choosing import Sampling
from sapwood.pool.wish import Wish
from sapwood.serving.asked import (
    SCHEMA_CHARACTERS,
    SCHEMA_LEVELS,
    Chat,
    Completion,
    SchemaForm,
    Written,
)
from sapwood.serving.nesting import too_deep

TOKENS = 256  # of an answer when a request does not say how many: some ten sentences
_SEEDS = 1 << 63  # a generator's seed is not negative; the API's may be


def completion_wishes(body: Completion, model: str) -> list[Wish]:
    """Return a wish for each prompt."""
    given: Any = body.prompt
    prompts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    wish = Wish(
        model=model,
        sampling=_sampling(body, body.max_tokens),
        top=body.logprobs or 0,
        schema=_schema(body),
        fit=body.max_tokens is None,
    )
    return [
        replace(wish, text=prompt) if isinstance(prompt, str) else replace(wish, ids=tuple(prompt))
        for prompt in prompts
    ]


def chat_wish(body: Chat, model: str) -> Wish:
    """Return the wish for an answer to a conversation."""
    turns = tuple(
        Turn(role="system" if m.role == "developer" else m.role, content=m.words())
        for m in body.messages
    )
    tokens = body.max_completion_tokens or body.max_tokens
    top = (body.top_logprobs or 0) if wants_logs(body) else 0
    return Wish(
        model=model, turns=turns, sampling=_sampling(body, tokens), top=top,
        schema=_schema(body), fit=tokens is None,
    )  # fmt: skip


def wants_logs(body: Chat | Completion) -> bool:
    """Tell whether an answer comes with the log-probabilities of its tokens."""
    if isinstance(body, Chat):
        return bool(body.logprobs or body.top_logprobs)
    return body.logprobs is not None


def _sampling(body: Written, tokens: int | None) -> Sampling:
    seed = secrets.randbelow(_SEEDS) if body.seed is None else body.seed % _SEEDS
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Sampling(
        tokens=tokens or TOKENS,
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        min_p=body.min_p or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        seed=seed,
        stops=tuple(stops),
        samples=body.n or 1,
    )


def _schema(body: Written) -> str:
    """Return the JSON schema that answers follow. Raises ConfigError (E-CONFIG-307)."""
    form = body.response_format
    if form is None or form.type == "text":
        return ""
    if not isinstance(form, SchemaForm):
        return "{}"
    try:
        written = json.dumps(form.json_schema.schema_, allow_nan=False)
    except ValueError:
        written = ""
    deep = too_deep(written.encode(), SCHEMA_LEVELS)
    if not written or deep or len(written) > SCHEMA_CHARACTERS:
        raise ConfigError(
            "E-CONFIG-307",
            f"The schema has more than {SCHEMA_CHARACTERS:,} characters or {SCHEMA_LEVELS} levels, "
            "or holds NaN or Infinity.",
            fix="ask for less at once",
        )
    return written
