"""The language-model head at label positions: scores of labels and the loss of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sapwood.models.trie import LabelTrie

_HEAD_ROWS = 128  # positions whose whole logits are held at once: 128 x 262,144 x 4 bytes = 134 MB
# Positions and words computed at once where only a sum over the words is wanted. 8 MB of logits
# stay in the caches: on 262,144 words in bfloat16 the sum costs 1.1 times the product alone,
# and 2.2 times with whole rows; measured flat from 1,024 to 16,384 words.
_SUM_ROWS, _SUM_WORDS = 512, 4096


class LabelHead:
    """The rows of a net's head that some label's words use, in float32.

    `places`: token -> its row among them; `forbidden` (nodes, rows): which do not follow a node.

    They are copied once, or taken at each call from a head that trains. Logits of the few tokens
    that count are computed exactly; only the normaliser over the whole vocabulary, where one is
    asked for, runs in the net's own number format.
    """

    def __init__(self, net: Any, trie: LabelTrie) -> None:
        self.net, self.trie = net, trie
        known = sorted({token for path in trie.paths for _, token in path})
        self.places = {token: n for n, token in enumerate(known)}
        head = net.get_output_embeddings()
        self._known = torch.tensor(known, device=head.weight.device)
        self._copied = None if head.weight.requires_grad else self._rows()
        allowed = torch.zeros(len(trie.tokens), len(known), dtype=torch.bool)
        for node, tokens in enumerate(trie.children):
            allowed[node, [self.places[token] for token in tokens]] = True
        self.forbidden = ~allowed.to(head.weight.device)

    def scores(self, states: Tensor, normalise: str) -> Tensor:
        """Return label scores (rows, labels) from node states (rows, nodes, hidden).

        `normalise`: see `Decoder.label_scores`.
        """
        logits = self._logits(states)  # (rows, nodes, known)
        if normalise == "vocabulary":
            total = vocabulary_log_sum(self.net, states.flatten(0, 1)).view(states.shape[:2])
        else:
            total = logits.masked_fill(self.forbidden, float("-inf")).logsumexp(-1)
        columns = []
        for path in self.trie.paths:
            at = [node for node, _ in path]
            of = [self.places[token] for _, token in path]
            columns.append((logits[:, at, of] - total[:, at]).sum(-1))
        return torch.stack(columns, dim=1)

    def loss(self, states: Tensor, nodes: Sequence[int], answers: Sequence[int]) -> Tensor:
        """Return the summed cross-entropy of `answers` among the tokens that may follow `nodes`.

        `states`: (positions, hidden); one node and one answer token for each position.
        """
        where = torch.tensor(nodes, device=states.device)
        wanted = torch.tensor([self.places[token] for token in answers], device=states.device)
        logits = self._logits(states).masked_fill(self.forbidden[where], float("-inf"))
        return functional.cross_entropy(logits, wanted, reduction="sum")

    def _logits(self, states: Tensor) -> Tensor:
        weight, bias = self._copied or self._rows()
        return _capped(functional.linear(states.float(), weight, bias), self.net)

    def _rows(self) -> tuple[Tensor, Tensor | None]:
        head = self.net.get_output_embeddings()
        bias = getattr(head, "bias", None)
        chosen = None if bias is None else bias[self._known].float()
        return head.weight[self._known].float(), chosen


def vocabulary_log_sum(net: Any, states: Tensor) -> Tensor:
    """Return the log of the whole vocabulary's sum after each of `states`, (positions,), float32.

    `states`: (positions, hidden). The logits themselves never exist as a whole.
    """
    head = net.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and states.device.type == "cpu"
    rows = _SUM_ROWS if plain else _HEAD_ROWS
    sums = _sum_in_blocks if plain else _sum_of_rows
    starts = range(0, len(states), rows)
    return torch.cat([sums(net, states[start : start + rows]) for start in starts])


def _sum_in_blocks(net: Any, states: Tensor) -> Tensor:
    head = net.get_output_embeddings()
    parts = []
    for start in range(0, len(head.weight), _SUM_WORDS):
        words = slice(start, start + _SUM_WORDS)
        bias = None if head.bias is None else head.bias[words]
        logits = functional.linear(states, head.weight[words], bias)
        parts.append(_capped(logits.float(), net).logsumexp(-1))
    return torch.stack(parts).logsumexp(0)


def _sum_of_rows(net: Any, states: Tensor) -> Tensor:
    return _capped(net.get_output_embeddings()(states).float(), net).logsumexp(-1)


def _capped(logits: Tensor, net: Any) -> Tensor:
    """Apply the cap that some nets put on their logits."""
    cap = getattr(net.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap
