"""Decoding under a shared prefix: rows grow token by token, the prefix is read and never copied.

Each row keeps keys and values of its own tokens only; attention over the prefix is one product for
all rows (see models/attention.py). A row's draws depend on the seed, its prompt's number and its
sample's number alone, so a batch never changes an answer but by rounding. Bases that cannot be
packed go through transformers' own `generate`, context and all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from sapwood.models.beams import search
from sapwood.models.choosing import Completion, Sampling, check_guided, stops_of
from sapwood.models.contrastive import contrasted
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix, behind
from sapwood.models.grammar import Guide
from sapwood.models.growing import Asked, Growing, choose, grow
from sapwood.models.past import Past
from sapwood.models.prefixes import grown
from sapwood.models.steps import batches, begin, next_logits, step
from sapwood.models.unpacked import unpacked

__all__ = ["Completion", "Sampling", "generate", "next_logits", "stream"]

_WAYS: dict[str, Callable[..., list[list[Completion]]]] = {
    "greedy": grow, "sample": grow, "beam": search, "contrastive": contrasted,
}  # fmt: skip


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    prefix: Prefix = NO_PREFIX,
    *,
    sampling: Sampling,
    guides: Sequence[Guide | None] = (),
    numbers: Sequence[int] = (),
    tokenizer: Any = None,
) -> list[list[Completion]]:
    """Return `sampling.samples` answers to each prompt, token ids that follow `prefix`.

    `guides`: for each prompt the grammar that its answers follow (see `models.grammar`), or None;
    `numbers`: what each prompt's draws go by instead of its place; `tokenizer`: reads stop words.
    Prompts need at least one token each. Raises ModelError: E-MODEL-030 when prefix, prompt and
    answer together are longer than the base reads, E-MODEL-039 when a base that cannot be packed
    cannot answer so; ConfigError: E-CONFIG-130 when a setting and a grammar exclude each other.
    """
    assert all(len(prompt) for prompt in prompts), "a prompt needs at least one token"
    check_guided(sampling, guides)
    stops = stops_of(sampling, tokenizer)
    with torch.no_grad():
        prefix = behind(decoder, prefix)
    decoder.check_length([len(p) + sampling.tokens for p in prompts], prefix.next_position)
    before = prefix.ids if decoder.why_padded else ()
    asked = [
        Asked(
            ids=[*before, *prompt],
            number=numbers[place] if numbers else place,
            guide=guides[place] if guides else None,
        )
        for place, prompt in enumerate(prompts)
    ]
    if decoder.why_padded:
        return [unpacked(decoder, one, sampling, stops) for one in asked]
    found: list[list[Completion]] = [[] for _ in prompts]
    for places in batches(decoder, prompts, sampling):
        made = _WAYS[sampling.way](
            decoder, [asked[place] for place in places], prefix, sampling, stops
        )
        for place, answers in zip(places, made, strict=True):
            found[place] = answers
    return found


def stream(
    decoder: Decoder,
    prompt: Sequence[int],
    prefix: Prefix = NO_PREFIX,
    *,
    sampling: Sampling,
    tokenizer: Any = None,
) -> Iterator[int]:
    """Yield one answer's token ids as they come; the same as `generate`'s first.

    However it ends, the decoder remembers what was encoded, so that a longer prompt with the same
    beginning runs only what is new. Bases that cannot be packed, beams and contrastive search yield
    everything at the end.
    """
    if decoder.why_padded or sampling.way in ("beam", "contrastive"):
        made = generate(decoder, [prompt], prefix, sampling=sampling, tokenizer=tokenizer)
        yield from made[0][0].ids
        return
    with torch.no_grad():
        prefix = behind(decoder, prefix)
    decoder.check_length([len(prompt) + sampling.tokens], prefix.next_position)
    row = Growing(Asked(ids=prompt, number=0), 0, sampling, stops_of(sampling, tokenizer))
    past, last = begin(decoder, [prompt], prefix, sampling.tokens)
    states = last[0]
    try:
        while True:
            tokens, logs = choose(next_logits(decoder, states), [row], sampling)
            before = len(row.ids)
            row.take(int(tokens[0]), float(logs[0]))
            if len(row.ids) > before:
                yield row.ids[-1]
            if row.done:
                return
            states = step(decoder, tokens, past, prefix)
    finally:
        if prefix.exact:
            decoder.remember(_whole(prefix, [*prompt, *row.ids], past))


def _whole(prefix: Prefix, ids: Sequence[int], past: Past) -> Prefix:
    """Return the prefix and what one row added to it as one prefix."""
    before, own = len(prefix.ids), int(past.lengths[0])
    made = grown(prefix, [*prefix.ids, *ids[:own]], prefix.layers or past.layers)
    for room, new in zip(made.layers, past.layers, strict=True):
        for to, given in zip(room, new, strict=True):
            to[:, :, before:] = given[:, :, :own]
    return made
