"""Label words scored by an encoder-decoder of the T5 kind.

T5: Raffel et al. 2020, arXiv 1910.10683. A text is encoded once. The words of all labels stand side
by side in one row of the decoder, each seeing its own tokens only, so that the attention to the
text is computed once for all of them. That is exact because T5 tells positions by distances alone,
and those within a label stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.interfaces import Floats
from sapwood.models.labels import LabelHead
from sapwood.models.layout import split_by_budget
from sapwood.models.prefixes import virtual_tokens
from sapwood.models.trie import LabelTrie

KINDS = ("t5",)
BUDGET = 2048  # tokens of texts and label words run at once


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Texts as the decoder sees them: `states` (rows, width, hidden), `mask` (rows, width)."""

    states: Tensor
    mask: Tensor


class TextToText:
    """An encoder-decoder: `net` a transformers T5 on its device; methods may be attached."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.tokens_run = 0

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.net.device  # type: ignore[no-any-return]

    @property
    def start(self) -> int:
        """Return the token that every answer starts after."""
        return int(self.net.config.decoder_start_token_id)

    def encode(self, rows: Sequence[Sequence[int]]) -> Encoded:
        """Return texts, given as token ids, encoded; a trained prompt goes in front of each."""
        before = virtual_tokens(self.net)
        rows = [[*before, *ids] for ids in rows]
        ids, mask = padded(rows, self.device)
        self.tokens_run += sum(map(len, rows))
        states = self.net.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        return Encoded(states=states, mask=mask)

    def decode(self, encoded: Encoded, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the decoder's states as its head reads them, (rows, length, hidden).

        `ids`: (rows, length); `mask`: (length, length), what a token may see where that is not all
        before it.
        """
        named: dict[str, Any] = {}
        if mask is not None:
            unseen = torch.finfo(self.net.dtype).min
            seen = torch.zeros(mask.shape, dtype=self.net.dtype, device=self.device)
            seen = seen.masked_fill(~mask.to(self.device), unseen)
            named["attention_mask"] = seen.expand(len(ids), 1, -1, -1)
        self.tokens_run += ids.numel()
        states: Tensor = self.net.get_decoder()(
            input_ids=ids,
            encoder_hidden_states=encoded.states,
            encoder_attention_mask=encoded.mask,
            use_cache=False,
            **named,
        ).last_hidden_state
        config = self.net.config
        scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        return states * config.d_model**-0.5 if scaled else states

    def label_scores(
        self, rows: Sequence[Sequence[int]], trie: LabelTrie, *, normalise: str = "vocabulary"
    ) -> Floats:
        """Return log-probabilities of the label words after each text, (rows, labels).

        `rows`: token ids; `normalise`: over the whole "vocabulary", as the net itself says it, or
        over the tokens of labels alone ("trie").
        """
        head, laid = LabelHead(self.net, trie), laid_out(trie, self.start)
        found = np.zeros((len(rows), len(trie.paths)))
        sizes = [len(ids) + len(laid.ids) for ids in rows]
        with torch.no_grad():
            for part in split_by_budget(sizes, BUDGET):
                encoded = self.encode([rows[n] for n in part])
                ids = torch.tensor([laid.ids] * len(part), device=self.device)
                states = self.decode(encoded, ids, laid.mask)[:, list(laid.nodes)]
                found[part] = head.scores(states, normalise).cpu().numpy()
        return found


@dataclass(frozen=True, kw_only=True)
class Laid:
    """Label words side by side: `ids`, which tokens each sees, and the place of each trie node."""

    ids: tuple[int, ...]
    mask: Tensor
    nodes: tuple[int, ...]


def laid_out(trie: LabelTrie, start: int) -> Laid:
    """Return every label's words behind `start`, without their last token, one after the other.

    Words that another label's begin with are not repeated.
    """
    wanted = [(start, *(token for _, token in path[:-1])) for path in trie.paths]
    paths = {ids: [node for node, _ in path] for ids, path in zip(wanted, trie.paths, strict=True)}
    kept = [ids for ids in paths if not any(o != ids and o[: len(ids)] == ids for o in paths)]
    places: dict[int, int] = {}
    flat: list[int] = []
    for ids in kept:
        for step, node in enumerate(paths[ids]):
            places.setdefault(node, len(flat) + step)
        flat += ids
    block = torch.tensor([n for n, ids in enumerate(kept) for _ in ids])
    mask = (block[:, None] == block[None]) & torch.ones(len(flat), len(flat)).tril().bool()
    nodes = tuple(places[node] for node in range(len(trie.tokens)))
    return Laid(ids=tuple(flat), mask=mask, nodes=nodes)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (ids, mask) of rows filled up with 0 at the end, (rows, width) each."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return ids.to(device), mask.to(device)


def answered(
    model: TextToText, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], budget: int
) -> Iterator[tuple[list[int], Tensor, int]]:
    """Yield (row numbers, states where their answers are predicted, tokens), with gradients.

    States are those of the rows one after the other, (tokens of answers, hidden).
    """
    sizes = [len(ids) + len(own) for ids, own in zip(rows, answers, strict=True)]
    for part in split_by_budget(sizes, budget):
        before = model.tokens_run
        encoded = model.encode([rows[n] for n in part])
        own = [[model.start, *answers[n][:-1]] for n in part]
        ids, mask = padded(own, model.device)
        states = model.decode(encoded, ids)  # what is filled up comes after and is not seen
        yield part, states[mask.bool()], model.tokens_run - before
