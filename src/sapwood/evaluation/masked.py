"""A masked language model asked for label words: the scores of texts under one template."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from sapwood.context.prompter import Context, beginning
from sapwood.context.template import is_chinese
from sapwood.errors import ModelError
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.reader import Reading, told_apart
from sapwood.models.masked import MaskedWords, Rows


class MaskedReader:
    """Read label scores of texts at the masks of an encoder.

    A row is what the context shows, the query, as many masks as a label has tokens, and a full
    stop. Demonstrations are shown while they fill no more than half of what the base reads. Raises
    ModelError: E-MODEL-163 the base has no masked-language-model head, E-MODEL-160 its tokenizer
    spells the words of two labels alike.
    """

    def __init__(self, bases: Bases, name: str, context: Context, labels: Sequence[str]) -> None:
        base = bases.get(name)
        if base.masked is None:
            raise ModelError(
                "E-MODEL-163",
                f"'{name}' has no masked-language-model head, so it cannot be asked for label "
                "words.",
                fix="train a head on it (--method lora), or take a BERT made for masked language "
                "modelling, such as google-bert/bert-base-uncased",
            )
        self.tokenizer, self.most, self.labels = base.tokenizer, base.max_length, labels
        self.context = context
        template = context.template
        self.stop = "。" if is_chinese([template.before + template.between]) else "."
        self.head = self._shown()
        self.words = MaskedWords(
            bases.encoder(name), base.masked, self._label_ids(), mask=base.tokenizer.mask_token_id
        )

    def _shown(self) -> str:
        """Return the demonstrations that fit, each with its full stop, and what follows them."""
        template, head = self.context.template, template_head(self.context)
        for shown in self.context.demonstrations:
            longer = f"{head}{template.demonstration(shown)}{self.stop}{template.separator}"
            if len(self._ids(longer)) > self.most // 2:
                break
            head = longer
        return head

    def _label_ids(self) -> list[list[int]]:
        words = [self.context.template.words[label].strip() for label in self.labels]
        found = [self._ids(word, special=False) for word in words]
        told_apart(self.labels, found)
        return found

    def _ids(self, text: str, *, special: bool = True) -> list[int]:
        coded = self.tokenizer(text, add_special_tokens=special, verbose=False)
        return list(coded["input_ids"])

    def rows(self, texts: Sequence[str]) -> list[Rows]:
        """Return each text's token ids by the number of masks; a text too long is cut."""
        return [{count: self._row(text, count) for count in self.words.counts} for text in texts]

    def _row(self, text: str, masks: int) -> list[int]:
        limit = self.context.max_text_tokens
        tail = self.tokenizer.mask_token * masks + self.stop
        for _ in range(2):  # what a shorter text takes is known only when it is cut
            query = self.context.template.query(beginning(self.tokenizer, text, limit))
            ids = self._ids(f"{self.head}{query} {tail}")
            if len(ids) <= self.most:
                return ids
            limit = max(1, min(limit, len(self._ids(text, special=False))) - len(ids) + self.most)
        raise ModelError(
            "E-MODEL-030",
            f"The template and its demonstrations leave no room in the {self.most:,} tokens that "
            "this base reads.",
            fix="fewer demonstrations",
        )

    def read(self, texts: Sequence[str], *, normalise: str = "vocabulary") -> Reading:
        """Return the scores of `texts`, over the whole vocabulary; there are no features."""
        del normalise  # sums over masks have no tokens of labels alone to be normalised over
        started, tokens = time.perf_counter(), 0
        scores = np.zeros((len(texts), len(self.labels)))
        for part, found, spent in self.words.scores(self.rows(texts)):
            scores[part] = found.cpu().numpy()
            tokens += spent
        features = np.zeros((len(texts), 0), np.float32)
        seconds = time.perf_counter() - started
        return Reading(features=features, scores=scores, tokens=tokens, seconds=seconds)


def template_head(context: Context) -> str:
    """Return the instruction with what follows it, or nothing."""
    template = context.template
    return template.instruction + template.separator if template.instruction else ""
