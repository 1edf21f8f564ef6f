"""How the next token is chosen: the settings, what may not come, and how probable the rest is.

Penalties look at the answer alone. A prompt shows demonstrations, and their words are what an
answer should be made of; transformers counts them as said already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from sapwood.errors import ConfigError
from sapwood.models.grammar import Guide, barred

# A token of one letter a byte is the shortest that a stop can be made of; a few more around it, so
# that a letter of several bytes or a space that a tokenizer puts first does not hide its beginning.
_SLACK = 8


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen: greedily, by chance, by beams, or by contrast.

    `tokens` >= 1: most tokens of an answer; `least_tokens`: no stop token comes before so many;
    `stop_ids`: tokens that end an answer and are no part of it; `stops`: words that do;
    `samples` >= 1 answers a prompt, the best first where `beams` finds them.

    By chance: `temperature` > 0, 0 takes the most probable token; `top_k`: only so many of the most
    probable, 0 for all; `top_p` in (0, 1]: only those that together have so much (nucleus sampling,
    Holtzman et al. 2020, arXiv 1904.09751); `min_p`: only those with so much of the most probable
    one's share (Nguyen et al. 2024, arXiv 2407.01082); `seed`.

    By `beams` > 1: so many beginnings are kept, and ranked by their log-probability over their
    length to the power `length_penalty`. By `contrast` in (0, 1): of the `top_k` most probable the
    one that is probable and unlike what was said (Su et al. 2022, arXiv 2202.06417).

    Whatever the choice: `repetition_penalty` (Keskar et al. 2019, arXiv 1909.05858), 1 for none;
    `no_repeat`: no run of so many tokens comes twice in an answer, 0 for any.

    Raises ConfigError (E-CONFIG-070).
    """

    tokens: int = 64
    least_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stops: tuple[str, ...] = ()
    samples: int = 1
    beams: int = 1
    length_penalty: float = 1.0
    contrast: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {rule}, got {getattr(self, name)}"
            for name, rule, holds in (
                ("tokens", "1 or more", self.tokens >= 1),
                ("least_tokens", "0 to 'tokens'", 0 <= self.least_tokens <= self.tokens),
                ("temperature", "0 or more", isfinite(self.temperature) and self.temperature >= 0),
                ("top_k", "0 or more", self.top_k >= 0),
                ("top_p", "above 0 and at most 1", 0 < self.top_p <= 1),
                ("min_p", "0 or more and below 1", 0 <= self.min_p < 1),
                ("stops", "words, none of them empty", all(self.stops)),
                ("samples", "1 or more", self.samples >= 1),
                ("beams", "1 or more", self.beams >= 1),
                ("length_penalty", "a number", isfinite(self.length_penalty)),
                ("contrast", "0 or more and below 1", 0 <= self.contrast < 1),
                ("repetition_penalty", "above 0",
                 isfinite(self.repetition_penalty) and self.repetition_penalty > 0),
                ("no_repeat", "0 or more", self.no_repeat >= 0),
            )
            if not holds
        ]  # fmt: skip
        wrong += self._together()
        if wrong:
            raise ConfigError("E-CONFIG-070", "Answers cannot be drawn so.", details=wrong)

    def _together(self) -> list[str]:
        """Return what settings cannot have at once."""
        ways = {"temperature": self.temperature > 0, "beams": self.beams > 1,
                "contrast": self.contrast > 0}  # fmt: skip
        named = [name for name, on in ways.items() if on]
        return [
            why
            for why, holds in (
                (f"{' and '.join(named)} are ways to choose: name one", len(named) > 1),
                (f"{self.beams} beams give at most as many samples, not {self.samples}",
                 1 < self.beams < self.samples),
                ("contrast chooses among top_k of 2 or more tokens",
                 self.contrast > 0 and self.top_k < 2),
                ("contrast gives one answer: samples must be 1",
                 self.contrast > 0 and self.samples > 1),
            )
            if holds
        ]  # fmt: skip

    @property
    def way(self) -> str:
        """Return "beam", "contrastive", "sample" or "greedy"."""
        if self.beams > 1:
            return "beam"
        if self.contrast:
            return "contrastive"
        return "sample" if self.temperature else "greedy"

    @property
    def width(self) -> int:
        """Return how many rows one prompt takes while its answers grow."""
        return {"beam": self.beams, "contrastive": self.top_k}.get(self.way, self.samples)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer: its token ids, without the stop token; `stopped`: it ended by itself.

    An answer that stop words end still holds them. `log_probability`: that of all its tokens, stop
    token included, in nats, as the base gives them (temperature 1, nothing cut off or penalised).
    `score`: what beams are ranked by, else the log-probability.
    """

    ids: tuple[int, ...]
    log_probability: float
    stopped: bool
    score: float


class Stops:
    """Words that end an answer; `read` turns token ids into text."""

    def __init__(self, words: Sequence[str], read: Callable[[Sequence[int]], str]) -> None:
        self.words, self._read = tuple(words), read
        self._window = _SLACK + max((len(word.encode()) for word in words), default=0)

    def reached(self, ids: Sequence[int]) -> bool:
        """Return whether one of the words stands at the end of an answer, or near it."""
        if not self.words:
            return False
        end = self._read(list(ids[-self._window :]))
        return any(word in end for word in self.words)


def stops_of(sampling: Sampling, tokenizer: Any) -> Stops:
    """Return the stop words of `sampling` as a tokenizer's answers show them.

    Raises ConfigError (E-CONFIG-070) where there are words and no tokenizer to read them.
    """
    if not sampling.stops:
        return Stops((), lambda ids: "")
    if tokenizer is None:
        raise ConfigError(
            "E-CONFIG-070",
            "Answers cannot be drawn so.",
            details=["stop words need a tokenizer that shows what was written"],
        )
    return Stops(sampling.stops, lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of the stop words in it.

    >>> cut_at("one two three", ["three", "two"])
    'one '
    """
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def weighed(
    logits: Tensor,
    answers: Sequence[Sequence[int]],
    guides: Sequence[Guide | None],
    sampling: Sampling,
) -> Tensor:
    """Return logits or log-probabilities (rows, vocabulary) of what may follow each answer so far.

    Penalised, and minus infinity where a guide, a repeated run or the least length forbids a token.
    """
    logits = barred(logits, guides)
    if sampling.repetition_penalty != 1:
        logits = logits.clone()
        for row, ids in enumerate(answers):
            said = torch.tensor(sorted(set(ids)), dtype=torch.long, device=logits.device)
            own, by = logits[row, said], sampling.repetition_penalty
            logits[row, said] = torch.where(own < 0, own * by, own / by)
    forbidden = [_forbidden(ids, sampling) for ids in answers]
    if any(forbidden):
        logits = logits.clone()
        for row, tokens in enumerate(forbidden):
            logits[row, tokens] = float("-inf")
    return logits


def _forbidden(ids: Sequence[int], sampling: Sampling) -> list[int]:
    """Return the tokens that may not come next whatever their probability."""
    early = sampling.stop_ids if len(ids) < sampling.least_tokens else ()
    size = sampling.no_repeat
    if not size or len(ids) < size:
        return list(early)
    last = tuple(ids[len(ids) - size + 1 :])
    starts = range(len(ids) - size + 1)
    return [*early, *(ids[n + size - 1] for n in starts if tuple(ids[n : n + size - 1]) == last)]


def drawn(logits: Tensor, draws: Sequence[float], sampling: Sampling) -> Tensor:
    """Return one token a row, drawn by numbers in [0, 1), `draws`: (rows,) -> (rows,)."""
    logits = logits.double() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    shares = logits.softmax(-1)
    order: Tensor | None = None
    if sampling.top_p < 1:
        shares, order = shares.sort(dim=-1, descending=True, stable=True)
        before = shares.cumsum(-1) - shares
        shares = shares.masked_fill(before >= sampling.top_p, 0)
    if sampling.min_p:
        least = sampling.min_p * shares.amax(-1, keepdim=True)
        shares = shares.masked_fill(shares < least, 0)
    total = shares.cumsum(-1)
    wanted = torch.tensor(draws, dtype=total.dtype).to(total.device) * total[:, -1]
    places = torch.searchsorted(total, wanted[:, None], right=True)
    tokens = places if order is None else order.gather(1, places)
    return tokens[:, 0]


def check_guided(sampling: Sampling, guides: Sequence[Guide | None]) -> None:
    """Raise ConfigError (E-CONFIG-130) for settings that would forbid all that a grammar allows."""
    if not any(guides):
        return
    wrong = [
        f"{name} forbids tokens that a grammar may demand"
        for name, on in (("no_repeat", sampling.no_repeat), ("least_tokens", sampling.least_tokens))
        if on
    ]
    if wrong:
        raise ConfigError(
            "E-CONFIG-130",
            "These answers follow a grammar, which alone says what may come and where they end.",
            details=wrong,
            fix="leave these settings out; repetition_penalty only makes tokens less probable",
        )
