"""A conversation with a base: what was said once is encoded once, whoever said it.

A turn renders the whole conversation and encodes it; `Decoder.encode` takes over what it shares
with the turn before, so only the new message runs, and the answer's own keys and values are kept.
With a chat template the base's own marks are used; a base without one sees a plain dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sapwood.errors import ModelError
from sapwood.models.decoder import Decoder
from sapwood.models.generate import Sampling, stream

Message = tuple[str, str]  # (role, words): "system", "user" or "assistant"
# Tokens that end a turn in the templates of the kinds that can be packed.
_ENDS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "<|endoftext|>")
# What stays of the window when old turns are dropped: dropping moves every later token, so all of
# them run again; leaving a quarter free makes that rare.
_KEPT = 0.75
_SPEAKERS = {"en": ("User: ", "Assistant:"), "zh": ("用户：", "助手：")}
_CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one answer cost: its words and tokens, old turns dropped, tokens run and reused."""

    words: str
    tokens: int
    dropped: int
    run: int
    reused: int


class Conversation:
    """Turns after a `pinned` beginning (system words, earlier turns) that is never dropped.

    `limit`: most tokens the base reads. Raises ModelError (E-MODEL-035) when the beginning leaves
    no room for an answer.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        pinned: Sequence[Message] = (),
        *,
        limit: int,
        sampling: Sampling,
    ) -> None:
        self.decoder, self.tokenizer, self.limit = decoder, tokenizer, limit
        self.pinned, self.turns = list(pinned), list[tuple[str, str]]()
        self.sampling = replace(sampling, stop_ids=self._stop_ids())
        self.last: Turn | None = None
        one, two = (self._ids([*self.pinned, ("user", words)]) for words in ("a", "文"))
        shared = next(n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
        self.beginning = tuple(one[:shared])
        if shared + sampling.tokens >= limit:
            raise ModelError(
                "E-MODEL-035",
                f"The context has {shared:,} tokens; with {sampling.tokens:,} for an answer there "
                f"is no room left among the {limit:,} that this base reads.",
                fix="a shorter --context, fewer --shots, or a smaller --max-tokens",
            )

    def begin(self) -> None:
        """Encode the pinned beginning, from the decoder's store where it is there."""
        self.decoder.encode(self.beginning, stored=True)

    def reset(self) -> None:
        """Forget all turns but the pinned ones."""
        self.turns = []

    def used(self) -> int:
        """Return the tokens of the conversation so far."""
        return len(self._ids([*self.pinned, *self._said()])) if self.turns else len(self.beginning)

    def answer(self, words: str) -> Iterator[str]:
        """Yield the answer to `words` piece by piece; `last` then says what it cost.

        An answer that is left early (closing the iterator, Ctrl-C) stays in the conversation as
        far as it came. Raises ModelError (E-MODEL-030) when `words` alone are too long; the
        conversation is then as it was.
        """
        words = words.encode("utf-8", "replace").decode("utf-8")
        run, reused, self.last = self.decoder.tokens_run, self.decoder.tokens_reused, None
        ids, dropped = self._fit(words)
        said: list[str] = []
        tokens: list[int] = []
        try:
            prefix = self.decoder.encode(ids[:-1])
            sampling = replace(self.sampling, seed=self.sampling.seed + len(self.turns))
            running = stream(
                self.decoder, ids[-1:], prefix, sampling=sampling, tokenizer=self.tokenizer
            )
            try:
                for piece in self._pieces(running, tokens):
                    said.append(piece)
                    yield piece
            finally:
                running.close()  # type: ignore[attr-defined]
        finally:
            self.turns = [*self.turns[dropped:], (words, "".join(said).strip())]
            self.last = Turn(
                words=self.turns[-1][1],
                tokens=len(tokens),
                dropped=dropped,
                run=self.decoder.tokens_run - run,
                reused=self.decoder.tokens_reused - reused,
            )

    def _fit(self, words: str) -> tuple[list[int], int]:
        """Return the tokens of the next prompt and how many old turns had to go."""
        room = self.limit - self.sampling.tokens
        for dropped in range(len(self.turns) + 1):
            messages = [*self.pinned, *self._said(dropped), ("user", words)]
            ids = self._ids(messages)
            if len(ids) <= (_KEPT * room if 0 < dropped < len(self.turns) else room):
                return ids, dropped
        raise ModelError(
            "E-MODEL-030",
            f"This message has {len(ids):,} tokens with its context; there is room for {room:,}.",
            fix="a shorter message, or a smaller --max-tokens",
        )

    def _said(self, dropped: int = 0) -> list[Message]:
        pairs = self.turns[dropped:]
        return [m for user, reply in pairs for m in (("user", user), ("assistant", reply))]

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        if self.tokenizer.chat_template is None:
            return [
                int(t)
                for t in self.tokenizer(_dialogue(messages, self._speakers()), verbose=False)[
                    "input_ids"
                ]
            ]
        given = [{"role": role, "content": words} for role, words in messages]
        try:
            coded = self.tokenizer.apply_chat_template(
                given, add_generation_prompt=True, return_dict=True
            )
        except Exception:  # the template is the base's own program: some refuse system words
            coded = self.tokenizer.apply_chat_template(
                _without_system(given), add_generation_prompt=True, return_dict=True
            )
        return [int(token) for token in coded["input_ids"]]

    def _speakers(self) -> tuple[str, str]:
        shown = "".join(words for _, words in self.pinned) + "".join(u for u, _ in self.turns[:1])
        return _SPEAKERS["zh" if _CHINESE.search(shown) else "en"]

    def _pieces(self, running: Iterator[int], tokens: list[int]) -> Iterator[str]:
        """Yield whole characters as tokens come, and end before the other speaker is put on."""
        from tokenizers.decoders import DecodeStream

        decoding = DecodeStream(skip_special_tokens=True)
        stops = [] if self.tokenizer.chat_template else ["\n" + s for s in self._speakers()]
        stops = [*(stop.rstrip() for stop in stops), *self.sampling.stops]
        text, shown = "", 0
        for token in running:
            tokens.append(token)
            text += decoding.step(self.tokenizer.backend_tokenizer, token) or ""
            found = min((at for s in stops if (at := text.find(s)) >= 0), default=-1)
            end = found if found >= 0 else len(text) - _begun(text, stops)
            if end > shown:
                piece = text[shown:end]
                yield piece.lstrip() if not shown else piece
                shown = end
            if found >= 0:
                return
        if len(text) > shown:
            yield text[shown:]

    def _stop_ids(self) -> tuple[int, ...]:
        """Return the tokens that end an answer, as the base and its tokenizer name them."""
        named = getattr(self.decoder.net.generation_config, "eos_token_id", None)
        found = set(named if isinstance(named, list) else [named])
        found |= {self.tokenizer.eos_token_id}
        found |= {self.tokenizer.get_vocab().get(end) for end in _ENDS}
        return tuple(sorted(int(token) for token in found if token is not None))


def _dialogue(messages: Sequence[Message], speakers: tuple[str, str]) -> str:
    """Return the conversation as a plain dialogue that ends where the answer begins."""
    user, reply = speakers
    gap = "" if reply.endswith("：") else " "
    pieces = {"system": "{}\n\n", "user": user + "{}\n", "assistant": reply + gap + "{}\n"}
    return "".join(pieces[role].format(words) for role, words in messages) + reply


def _begun(text: str, stops: Sequence[str]) -> int:
    """Return how many letters at the end of `text` may be the beginning of a stop."""
    lengths = (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return max(lengths, default=0)


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the messages with the system words moved to the first of the user's."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [m for m in messages if m["role"] != "system"]
    if system and rest:
        rest[0] = {"role": "user", "content": f"{system}\n\n{rest[0]['content']}"}
    return rest
