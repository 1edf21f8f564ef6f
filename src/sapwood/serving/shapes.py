"""Answers in the shapes of the OpenAI API: whole ones, and the pieces of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from sapwood.pool.wish import TokenLog, Update
from sapwood.serving.visits import Visit

_LEAST = -9999.0  # what the API writes for a token that cannot come; JSON has no infinity


class Answer:
    """What one choice has got so far."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.logs: list[TokenLog] = []
        self.finish: str | None = None

    def add(self, update: Update) -> None:
        """Take an update in."""
        self._pieces.append(update.text)
        self.logs.extend(update.logs)
        self.finish = update.finish or None

    @property
    def text(self) -> str:
        """Return the words."""
        return "".join(self._pieces)


class Shape(Protocol):
    """How one route writes answers."""

    def whole(self, answers: Sequence[Answer], visit: Visit) -> dict[str, Any]:
        """Return the answer in one piece."""
        ...

    def begin(self, choice: int) -> dict[str, Any] | None:
        """Return what a choice of a stream begins with, None for nothing."""
        ...

    def piece(self, choice: int, update: Update) -> dict[str, Any]:
        """Return what an update adds to a stream."""
        ...

    def end(self, visit: Visit) -> dict[str, Any]:
        """Return a stream's last piece: what it used."""
        ...


class ChatShape:
    """`/v1/chat/completions`; `logs`: whether tokens are shown, `usage`: whether pieces have it."""

    def __init__(self, model: str, *, logs: bool, usage: bool) -> None:
        self._logs = logs
        self._head = _head("chatcmpl", model)
        self._usage: dict[str, Any] = {"usage": None} if usage else {}

    def whole(self, answers: Sequence[Answer], visit: Visit) -> dict[str, Any]:
        """See `Shape`."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._shown(answer.logs),
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": used(visit)}

    def begin(self, choice: int) -> dict[str, Any]:
        """See `Shape`."""
        return self._piece(choice, {"role": "assistant", "content": "", "refusal": None}, None, "")

    def piece(self, choice: int, update: Update) -> dict[str, Any]:
        """See `Shape`."""
        delta = {"content": update.text} if update.text or not update.finish else {}
        return self._piece(choice, delta, self._shown(update.logs), update.finish)

    def end(self, visit: Visit) -> dict[str, Any]:
        """See `Shape`."""
        said = {"object": "chat.completion.chunk", "choices": [], "usage": used(visit)}
        return {**self._head, **said}

    def _piece(self, choice: int, delta: dict[str, Any], logs: Any, finish: str) -> dict[str, Any]:
        shown = {"index": choice, "delta": delta, "logprobs": logs, "finish_reason": finish or None}
        said = {"object": "chat.completion.chunk", "choices": [shown]}
        return {**self._head, **said, **self._usage}

    def _shown(self, logs: Sequence[TokenLog]) -> dict[str, Any] | None:
        if not self._logs:
            return None
        content = [
            {
                **_token(log.text, log.log_probability),
                "top_logprobs": [_token(text, value) for text, value in log.top],
            }
            for log in logs
        ]
        return {"content": content, "refusal": None}


class CompletionShape:
    """`/v1/completions`; see `ChatShape`."""

    def __init__(self, model: str, *, logs: bool, usage: bool) -> None:
        self._logs = logs
        self._head = _head("cmpl", model)
        self._usage: dict[str, Any] = {"usage": None} if usage else {}
        self._length: dict[int, int] = {}  # characters that a choice has so far

    def whole(self, answers: Sequence[Answer], visit: Visit) -> dict[str, Any]:
        """See `Shape`."""
        choices = [
            self._choice(index, answer.text, answer.logs, answer.finish)
            for index, answer in enumerate(answers)
        ]
        said = {"object": "text_completion", "choices": choices, "usage": used(visit)}
        return {**self._head, **said}

    def begin(self, choice: int) -> None:
        """See `Shape`: a text begins with its words."""

    def piece(self, choice: int, update: Update) -> dict[str, Any]:
        """See `Shape`."""
        shown = self._choice(choice, update.text, update.logs, update.finish or None)
        return {**self._head, "object": "text_completion", "choices": [shown], **self._usage}

    def end(self, visit: Visit) -> dict[str, Any]:
        """See `Shape`."""
        return {**self._head, "object": "text_completion", "choices": [], "usage": used(visit)}

    def _choice(
        self, index: int, text: str, logs: Sequence[TokenLog], finish: str | None
    ) -> dict[str, Any]:
        shown = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        if not self._logs:
            return shown
        offsets = []
        for log in logs:
            offsets.append(self._length.get(index, 0))
            self._length[index] = offsets[-1] + len(log.text)
        listed = {
            "tokens": [log.text for log in logs],
            "token_logprobs": [_bounded(log.log_probability) for log in logs],
            "top_logprobs": [{t: _bounded(v) for t, v in log.top} for log in logs],
            "text_offset": offsets,
        }
        return {**shown, "logprobs": listed}


def used(visit: Visit) -> dict[str, Any]:
    """Return the tokens of a request, as the API counts them."""
    return {
        "prompt_tokens": visit.prompt,
        "completion_tokens": visit.written,
        "total_tokens": visit.prompt + visit.written,
        "prompt_tokens_details": {"cached_tokens": visit.cached},
    }


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def _token(text: str, value: float) -> dict[str, Any]:
    written = list(text.encode("utf-8", "replace"))
    return {"token": text, "logprob": _bounded(value), "bytes": written}


def _bounded(value: float) -> float:
    return value if value > _LEAST else _LEAST  # what is no number is not above it either
