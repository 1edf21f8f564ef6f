"""The noisy channel: how probable a text is after each label's words.

Min et al. 2022 (ACL, arXiv 2108.04106): a label is scored by log p(text | context, label words)
instead of log p(label words | context, text). A model must then account for every word of the
text, which makes the answer vary less with the demonstrations. A query costs one pass over its
text for each label, and the head at every token of the text, where the direct way needs one pass
and the head at a few positions: worth it for short texts and few labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.interfaces import Floats
from sapwood.models.decoder import NO_PREFIX, Decoder, Prefix
from sapwood.models.labels import _capped, vocabulary_log_sum
from sapwood.models.layout import Row, split_by_budget

# Rows of one text, one a label: (token ids after the prefix, index where the text begins).
ChannelRows = Sequence[Sequence[tuple[Sequence[int], int]]]

TEXTS = 16  # texts scored before the caller hears of them: a few packs, half a second on a CPU


def channel_tokens(rows: ChannelRows) -> int:
    """Return the tokens that scoring `rows` runs through the net, the prefix not counted.

    About labels x (answer + text) tokens a query. Beside them the head is computed at every token
    of the texts: on a small net with a large vocabulary that costs as much again or more.
    """
    return sum(len(ids) - 1 for row in rows for ids, begins in row if begins < len(ids))


def channel_scores(decoder: Decoder, rows: ChannelRows, prefix: Prefix = NO_PREFIX) -> Floats:
    """Return log p(text tokens | prefix, label part), (texts, labels), float64.

    `rows`: of `Prompter.channel_rows`; a text without tokens scores 0 for every label. Raises
    ModelError (E-MODEL-030) when a row is longer than the base reads.
    """
    labels = len(rows[0]) if rows else 0
    scores = np.zeros((len(rows), labels))
    for where, part in channel_parts(decoder, rows, prefix):
        scores[where] = part
    return scores


def channel_parts(
    decoder: Decoder, rows: ChannelRows, prefix: Prefix = NO_PREFIX, *, texts: int = TEXTS
) -> Iterator[tuple[slice, Floats]]:
    """Yield (texts, their scores (texts, labels)) of `channel_scores`, some texts at a time."""
    for start in range(0, len(rows), texts):
        some = rows[start : start + texts]
        yield slice(start, start + len(some)), _scored(decoder, some, prefix)


def _scored(decoder: Decoder, rows: ChannelRows, prefix: Prefix) -> Floats:
    """Return the scores of `rows`, (texts, labels)."""
    labels = len(rows[0])
    flat = [item for row in rows for item in row]
    kept = [n for n, (ids, begins) in enumerate(flat) if begins < len(ids)]
    asked, answers = [], []
    for ids, begins in (flat[n] for n in kept):
        assert begins > 0, "the first token of a row is predicted by nothing"
        asked.append(Row(ids=ids[:-1], wanted=range(begins - 1, len(ids) - 1)))
        answers.append(ids[begins:])
    scores = np.zeros(len(flat))
    for owners, states in _states(decoder, asked, prefix):
        order = dict.fromkeys(owners.tolist())  # a row's positions lie side by side, in order
        wanted = torch.tensor([token for n in order for token in answers[n]], device=states.device)
        found = token_log_probabilities(decoder.net, states, wanted)
        np.add.at(scores, np.asarray(kept)[owners.numpy()], found.cpu().numpy())
    return scores.reshape(len(rows), labels)


def _states(
    decoder: Decoder, rows: Sequence[Row], prefix: Prefix
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (row numbers, hidden states of the wanted tokens), in packs or padded."""
    if decoder.why_padded:
        decoder.check_length([len(row.ids) for row in rows], len(prefix.ids))
        yield from _padded(decoder, rows, prefix.ids)
    else:
        yield from decoder.hidden(rows, prefix)


@torch.no_grad()
def _padded(
    decoder: Decoder, rows: Sequence[Row], prefix: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield like `Decoder.hidden` for kinds that cannot be packed: one padded pass a row.

    `padded_hidden` runs each wanted token as a row of its own, which is right for the few nodes of
    a label tree; a text wants them all.
    """
    body = getattr(decoder.net, decoder.net.base_model_prefix)
    lengths = [len(prefix) + len(row.ids) for row in rows]
    for part in split_by_budget(lengths, decoder.pack_tokens):
        width = max(lengths[n] for n in part)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros(len(part), width, dtype=torch.long)
        for place, n in enumerate(part):
            ids[place, : lengths[n]] = torch.tensor([*prefix, *rows[n].ids])
            mask[place, : lengths[n]] = 1
        states = body(
            input_ids=ids.to(decoder.device),
            attention_mask=mask.to(decoder.device),
            use_cache=False,
        ).last_hidden_state
        decoder.tokens_run += ids.numel()
        places = [place for place, n in enumerate(part) for _ in rows[n].wanted]
        at = [len(prefix) + w for n in part for w in rows[n].wanted]
        yield torch.tensor(part)[places], states[places, at]


@torch.no_grad()
def token_log_probabilities(net: Any, states: Tensor, tokens: Tensor) -> Tensor:
    """Return log p of `tokens` (positions,) after `states` (positions, hidden), float64.

    The normaliser over the vocabulary is summed block by block; the logits of `tokens` themselves
    are computed in float32.
    """
    head = net.get_output_embeddings()
    logits = (states.float() * head.weight[tokens].float()).sum(-1)
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias[tokens].float()
    return (_capped(logits, net) - vocabulary_log_sum(net, states)).double()
