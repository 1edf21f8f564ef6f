"""An encoder-decoder asked for label words: the scores of texts under one prompt."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from sapwood.context.prompter import Context, Prompter
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.reader import Reading, told_apart
from sapwood.models.text_to_text import TextToText
from sapwood.models.trie import LabelTrie, build_trie


class TextToTextReader:
    """Read label scores of texts from an encoder-decoder; demonstrations stand in every text.

    Raises ModelError (E-MODEL-160) when its tokenizer spells the words of two labels alike.
    """

    def __init__(self, bases: Bases, name: str, context: Context, labels: Sequence[str]) -> None:
        base = bases.get(name)
        self.model, self.tokenizer = TextToText(base.net), base.tokenizer
        self.context, self.labels, self.most = context, labels, base.max_length
        self.prompter = Prompter(base.tokenizer, context)
        self.trie: LabelTrie = build_trie(self._words())

    def _words(self) -> list[list[int]]:
        """Return the token ids of each label's words, ended as the base ends its answers."""
        end = self.tokenizer.eos_token_id
        words = [self.context.template.words[label].strip() for label in self.labels]
        coded = self.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
        found = [[*ids, *([] if end is None else [end])] for ids in coded]
        told_apart(self.labels, found)
        return found

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text in its prompt, cut to what the base reads."""
        shown = self.context.demonstrations
        return [self.prompter.whole(text, shown)[: self.most] for text in texts]

    def read(self, texts: Sequence[str], *, normalise: str = "vocabulary") -> Reading:
        """Return the scores of `texts`; there are no features."""
        started, before = time.perf_counter(), self.model.tokens_run
        scores = self.model.label_scores(self.rows(texts), self.trie, normalise=normalise)
        return Reading(
            features=np.zeros((len(texts), 0), np.float32),
            scores=scores,
            tokens=self.model.tokens_run - before,
            seconds=time.perf_counter() - started,
        )
