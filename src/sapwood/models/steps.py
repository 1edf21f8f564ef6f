"""What all ways to decode share: batches of prompts, their first pass, and one token more a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sapwood.models.choosing import Sampling
from sapwood.models.decoder import Decoder, Prefix
from sapwood.models.labels import _capped
from sapwood.models.layout import Layout, Pack, Row
from sapwood.models.past import Past, token_bytes

# Rows decoded together: their own keys and values stay within this, and beyond some 64 rows a step
# gains little more from sharing the weights' way through the caches.
_PAST_BYTES = 256 << 20
_ROWS = 64
# Finished rows run on, unread, until so few are left that copying those out costs less.
WORTH_COPYING = 0.75


def batches(
    decoder: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> Iterator[list[int]]:
    """Yield numbers of prompts that are decoded together, prompts of like length side by side."""
    token = token_bytes(decoder.net)
    batch: list[int] = []
    room = 0
    for number in sorted(range(len(prompts)), key=lambda n: (len(prompts[n]), n)):
        room = max(room, len(prompts[number]) + sampling.tokens)
        rows = (len(batch) + 1) * sampling.width
        if batch and (rows > _ROWS or rows * room * token > _PAST_BYTES):
            yield batch
            batch, room = [], len(prompts[number]) + sampling.tokens
        batch.append(number)
    if batch:
        yield batch


@torch.no_grad()
def begin(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    prefix: Prefix,
    tokens: int,
    *,
    every: bool = False,
) -> tuple[Past, list[Tensor]]:
    """Run the prompts; return their past, with room for `tokens` more, and their states.

    States: of each prompt those of its last token, (1, hidden), or of `every` token of it.
    """
    rows = [
        Row(ids=prompt, wanted=tuple(range(0 if every else len(prompt) - 1, len(prompt))))
        for prompt in prompts
    ]
    past = Past(len(rows), max(map(len, prompts)) + tokens, decoder.device)
    states: dict[int, Tensor] = {}
    for part in decoder.capture(rows, prefix):
        past.take(part.numbers, part.starts, part.layers, [len(prompts[n]) for n in part.numbers])
        sizes = [len(rows[n].wanted) for n in part.numbers]
        states |= dict(zip(part.numbers, torch.split(part.states, sizes), strict=True))
    return past, [states[n] for n in range(len(rows))]


@torch.no_grad()
def step(decoder: Decoder, tokens: Tensor, past: Past, prefix: Prefix) -> Tensor:
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


@torch.no_grad()
def next_logits(decoder: Decoder, states: Tensor) -> Tensor:
    """Return the logits of the next tokens, (rows, vocabulary), float32."""
    return _capped(decoder.net.get_output_embeddings()(states).float(), decoder.net)
