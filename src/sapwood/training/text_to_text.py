"""The loss of an encoder-decoder whose answers are label words, normalised among the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from sapwood.models.labels import LabelHead
from sapwood.models.text_to_text import TextToText, answered
from sapwood.models.trie import LabelTrie


class TextToTextSupervision:
    """The loss of texts, `rows` token ids, with one label each: `gold` label numbers.

    At each token of the answer it is the cross-entropy among those that may follow there, as for
    decoders (see `training.labels`).
    """

    def __init__(
        self,
        model: TextToText,
        rows: Sequence[Sequence[int]],
        gold: Sequence[int],
        trie: LabelTrie,
    ) -> None:
        assert len(rows) == len(gold), "a label a row"
        self.model, self.rows, self.gold, self.trie = model, rows, gold, trie
        self.head = LabelHead(model.net, trie)

    def __len__(self) -> int:
        return len(self.rows)

    def supervised(self, numbers: Sequence[int]) -> int:
        """Return the number of texts: the loss is their mean."""
        return len(numbers)

    def losses(self, numbers: Sequence[int], budget: int) -> Iterator[tuple[Tensor, int]]:
        """Yield (summed loss, tokens computed) batch by batch for the examples `numbers`."""
        paths = [self.trie.paths[int(self.gold[n])] for n in numbers]
        answers = [[token for _, token in path] for path in paths]
        rows = [self.rows[n] for n in numbers]
        for part, states, tokens in answered(self.model, rows, answers, budget):
            nodes = [node for n in part for node, _ in paths[n]]
            wanted = [token for n in part for token in answers[n]]
            yield self.head.loss(states, nodes, wanted), tokens
