"""Decoding under a shared prefix: rows grow token by token, the prefix is read and never copied.

Each row keeps keys and values of its own tokens only; attention over the prefix is one product for
all rows (see models/attention.py). A row's draws depend on the seed, its prompt's number and its
sample's number alone, so a batch never changes an answer but by rounding. Bases that cannot be
packed go through transformers' own `generate`, context and all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.errors import ConfigError
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix, behind
from sapwood.models.grammar import Guide, Guided, barred
from sapwood.models.labels import _capped
from sapwood.models.layout import Layout, Pack, Row
from sapwood.models.past import Past
from sapwood.models.prefixes import grown

# Rows decoded together: their own keys and values stay within this, and beyond some 64 rows a step
# gains little more from sharing the weights' way through the caches.
_PAST_BYTES = 256 << 20
_ROWS = 64
# Finished rows run on, unread, until so few are left that copying those out costs less.
_WORTH_COPYING = 0.75


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen.

    `tokens` >= 1: most tokens of an answer; `temperature` >= 0, 0 takes the most probable token;
    `top_p` in (0, 1]: only the most probable tokens that together have so much (nucleus sampling,
    Holtzman et al. 2020, arXiv 1904.09751); `stop_ids`: tokens that end an answer and are no part
    of it; `samples` >= 1 answers a prompt. Raises ConfigError (E-CONFIG-070).
    """

    tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    samples: int = 1

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {rule}, got {getattr(self, name)}"
            for name, rule, holds in (
                ("tokens", "1 or more", self.tokens >= 1),
                ("temperature", "0 or more", isfinite(self.temperature) and self.temperature >= 0),
                ("top_p", "above 0 and at most 1", 0 < self.top_p <= 1),
                ("samples", "1 or more", self.samples >= 1),
            )
            if not holds
        ]
        if wrong:
            raise ConfigError("E-CONFIG-070", "Answers cannot be drawn so.", details=wrong)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer: its token ids, without the stop token; `stopped`: it ended by one.

    `log_probability`: that of all its tokens, stop token included, in nats, as the base gives them
    (temperature 1, nothing cut off).
    """

    ids: tuple[int, ...]
    log_probability: float
    stopped: bool


class _Growing:
    """One answer while it grows."""

    def __init__(self, prompt: int, sample: int, seed: int, guide: Guide | None = None) -> None:
        self.prompt, self.guide = prompt, guide
        self.draws = np.random.default_rng((seed, prompt, sample))
        self.ids: list[int] = []
        self.log_probability = 0.0
        self.stopped = self.done = False

    def take(self, token: int, log_probability: float, sampling: Sampling) -> None:
        """Add one token, unless the answer is done."""
        if self.done:
            return
        self.log_probability += log_probability
        self.stopped = token in sampling.stop_ids
        if not self.stopped:
            self.ids.append(token)
        if self.guide is not None and self.guide.take(token):
            self.stopped = True
        self.done = self.stopped or len(self.ids) == sampling.tokens

    def completion(self) -> Completion:
        """Return the answer as it is."""
        return Completion(
            ids=tuple(self.ids), log_probability=self.log_probability, stopped=self.stopped
        )


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    prefix: Prefix = NO_PREFIX,
    *,
    sampling: Sampling,
    guides: Sequence[Guide | None] = (),
) -> list[list[Completion]]:
    """Return `sampling.samples` answers to each prompt, token ids that follow `prefix`.

    `guides`: for each prompt the grammar that its answers follow (see `models.grammar`), or None.
    Prompts need at least one token each. Raises ModelError (E-MODEL-030) when prefix, prompt and
    answer together are longer than the base reads.
    """
    assert all(len(prompt) for prompt in prompts), "a prompt needs at least one token"
    with torch.no_grad():
        prefix = behind(decoder, prefix)
    decoder.check_length([len(p) + sampling.tokens for p in prompts], prefix.next_position)
    found: list[list[Completion]] = [[] for _ in prompts]
    if decoder.why_padded:
        for number, prompt in enumerate(prompts):
            guide = guides[number] if guides else None
            found[number] = _plain(decoder, [*prefix.ids, *prompt], sampling, number, guide)
        return found
    for numbers in _batches(decoder, prompts, sampling):
        own = [guides[number] for number in numbers] if guides else [None] * len(numbers)
        for row in _grow(decoder, [prompts[n] for n in numbers], numbers, prefix, sampling, own):
            found[row.prompt].append(row.completion())
    return found


def stream(
    decoder: Decoder, prompt: Sequence[int], prefix: Prefix = NO_PREFIX, *, sampling: Sampling
) -> Iterator[int]:
    """Yield one answer's token ids as they come; the same as `generate`'s first.

    However it ends, the decoder remembers what was encoded, so that a longer prompt with the same
    beginning runs only what is new. Bases that cannot be packed yield everything at the end.
    """
    with torch.no_grad():
        prefix = behind(decoder, prefix)
    decoder.check_length([len(prompt) + sampling.tokens], prefix.next_position)
    if decoder.why_padded:
        yield from _plain(decoder, [*prefix.ids, *prompt], sampling, 0)[0].ids
        return
    row = _Growing(0, 0, sampling.seed)
    past, states = _begin(decoder, [prompt], prefix, sampling.tokens)
    try:
        while True:
            tokens, logs = _choose(next_logits(decoder, states), [row], sampling)
            row.take(int(tokens[0]), float(logs[0]), sampling)
            if not row.stopped:
                yield row.ids[-1]
            if row.done:
                return
            states = _step(decoder, tokens, past, prefix)
    finally:
        if prefix.exact:
            decoder.remember(_whole(prefix, [*prompt, *row.ids], past))


def _batches(
    decoder: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> Iterator[list[int]]:
    """Yield numbers of prompts that are decoded together, prompts of like length side by side."""
    config = decoder.net.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * size * decoder.net.dtype.itemsize
    batch: list[int] = []
    room = 0
    for number in sorted(range(len(prompts)), key=lambda n: (len(prompts[n]), n)):
        room = max(room, len(prompts[number]) + sampling.tokens)
        rows = (len(batch) + 1) * sampling.samples
        if batch and (rows > _ROWS or rows * room * token > _PAST_BYTES):
            yield batch
            batch, room = [], len(prompts[number]) + sampling.tokens
        batch.append(number)
    if batch:
        yield batch


@torch.no_grad()
def _begin(
    decoder: Decoder, prompts: Sequence[Sequence[int]], prefix: Prefix, tokens: int
) -> tuple[Past, Tensor]:
    """Run the prompts; return their past and the states their first tokens follow from."""
    rows = [Row(ids=prompt, wanted=(len(prompt) - 1,)) for prompt in prompts]
    past = Past(len(rows), max(map(len, prompts)) + tokens, decoder.device)
    last: dict[int, Tensor] = {}
    for part in decoder.capture(rows, prefix):
        lengths = [len(prompts[n]) for n in part.numbers]
        past.take(part.numbers, part.starts, part.layers, lengths)
        last |= dict(zip(part.numbers, part.states, strict=True))
    return past, torch.stack([last[n] for n in range(len(rows))])


@torch.no_grad()
def _step(decoder: Decoder, tokens: Tensor, past: Past, prefix: Prefix) -> Tensor:
    """Run the next token of every row; return the states after them, (rows, hidden)."""
    rows = torch.arange(len(tokens), device=tokens.device)
    layout = Layout(
        groups=(),
        positions=prefix.next_position + past.lengths,
        cached=prefix.layers,
        cached_at=prefix.positions,
        past=past,
    )
    states = decoder.run(Pack(ids=tokens[None], layout=layout, wanted=rows, owners=rows))
    past.advance()
    return states


def _grow(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    prefix: Prefix,
    sampling: Sampling,
    guides: Sequence[Guide | None],
) -> list[_Growing]:
    """Return the finished rows of a batch, in the order of prompts and samples."""
    past, states = _begin(decoder, prompts, prefix, sampling.tokens)
    samples = range(sampling.samples)
    every = [
        _Growing(number, sample, sampling.seed, guide.copy() if guide else None)
        for number, guide in zip(numbers, guides, strict=True)
        for sample in samples
    ]
    copies = torch.arange(len(numbers), device=decoder.device).repeat_interleave(sampling.samples)
    if sampling.samples > 1:
        past.select(copies)
    states, alive = states[copies], list(every)
    while True:
        tokens, logs = _choose(next_logits(decoder, states), alive, sampling)
        for row, token, log in zip(alive, tokens.tolist(), logs.tolist(), strict=True):
            row.take(token, log, sampling)
        going = [n for n, row in enumerate(alive) if not row.done]
        if not going:
            return every
        if len(going) <= _WORTH_COPYING * len(alive):
            kept = torch.tensor(going, device=decoder.device)
            past.select(kept)
            tokens, alive = tokens[kept], [alive[n] for n in going]
        states = _step(decoder, tokens, past, prefix)


@torch.no_grad()
def next_logits(decoder: Decoder, states: Tensor) -> Tensor:
    """Return the logits of the next tokens, (rows, vocabulary), float32."""
    return _capped(decoder.net.get_output_embeddings()(states).float(), decoder.net)


def _choose(logits: Tensor, rows: Sequence[_Growing], sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return (the next token of each row, its log-probability), both (rows,)."""
    free = logits
    logits = barred(logits, [row.guide for row in rows])
    if not sampling.temperature:
        tokens = logits.argmax(-1)
    else:
        shares = (logits.double() / sampling.temperature).softmax(-1)
        order: Tensor | None = None
        if sampling.top_p < 1:
            shares, order = shares.sort(dim=-1, descending=True, stable=True)
            before = shares.cumsum(-1) - shares
            shares = shares.masked_fill(before >= sampling.top_p, 0)
        total = shares.cumsum(-1)
        draws = torch.tensor([row.draws.random() for row in rows], dtype=total.dtype)
        wanted = draws.to(total.device) * total[:, -1]
        places = torch.searchsorted(total, wanted[:, None], right=True)
        tokens = places if order is None else order.gather(1, places)
        tokens = tokens[:, 0]
    return tokens, free.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def _whole(prefix: Prefix, ids: Sequence[int], past: Past) -> Prefix:
    """Return the prefix and what one row added to it as one prefix."""
    before, own = len(prefix.ids), int(past.lengths[0])
    made = grown(prefix, [*prefix.ids, *ids[:own]], prefix.layers or past.layers)
    for room, new in zip(made.layers, past.layers, strict=True):
        for to, given in zip(room, new, strict=True):
            to[:, :, before:] = given[:, :, :own]
    return made


@torch.no_grad()
def _plain(
    decoder: Decoder,
    ids: Sequence[int],
    sampling: Sampling,
    number: int,
    guide: Guide | None = None,
) -> list[Completion]:
    """Return the answers of transformers' own `generate` to a whole prompt."""
    transformers: Any = import_module("transformers")
    given: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        given = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        given |= {"top_k": 0, "num_return_sequences": sampling.samples}
    stops = list(sampling.stop_ids)
    config = transformers.GenerationConfig(
        max_new_tokens=sampling.tokens,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if stops else 0,
        return_dict_in_generate=True,
        output_logits=True,
        **given,
    )
    whole = torch.tensor([list(ids)], device=decoder.device)
    seed = int(np.random.default_rng((sampling.seed, number)).integers(1 << 31))
    with torch.random.fork_rng(devices=[] if whole.device.type == "cpu" else [whole.device]):
        torch.manual_seed(seed)
        found = decoder.net.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            generation_config=config,
            logits_processor=[] if guide is None else [Guided(guide, len(ids))],
        )
    logs = torch.stack(found.logits, 1).float().log_softmax(-1)  # (samples, tokens, vocabulary)
    decoder.tokens_run += len(ids) + found.sequences[:, len(ids) :].numel()
    made = []
    for row, log in zip(found.sequences[:, len(ids) :].tolist(), logs, strict=True):
        end = next((n for n, token in enumerate(row) if token in stops), len(row))
        used = row[: end + 1]
        total = sum(float(log[n, token]) for n, token in enumerate(used))
        made.append(Completion(ids=tuple(row[:end]), log_probability=total, stopped=end < len(row)))
    return made * (sampling.samples if len(made) < sampling.samples else 1)
