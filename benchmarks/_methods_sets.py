"""What benchmarks/methods.py trains on: a set, its base, its loss and its score."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import made_up, shuffled, wanted_folder

TEXT_TOKENS = 96


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many rows are read: `train` is what may train, `dev` chooses rates, `test` is scored."""

    train: int = 640
    dev: int = 200
    test: int = 400


class Labelled:
    """Texts with a label each, answered by a decoder's label words."""

    def __init__(self, where: str, rows: Rows, *, smoke: bool, device: str = "cpu") -> None:
        self.where, self.rows, self.smoke, self.device = where, rows, smoke, device

    def load(self, base: str, dtype: str) -> None:
        """Load the base in a number format, and tokenise the rows."""
        from sapwood.context.prompter import Context, Prompter
        from sapwood.context.template import default_template
        from sapwood.launch import choose_runtime
        from sapwood.models.decoder import Decoder
        from sapwood.models.load import load_base
        from sapwood.models.trie import build_trie

        train, dev, test = self._examples()
        found = load_base(base, choose_runtime(self.device, dtype))
        self.net, self.tokenizer = found.net, found.tokenizer
        self.decoder = Decoder(self.net)
        self.labels = sorted({e.label for e in train})
        template = default_template(self.labels, [e.text for e in train[:200]])
        prompter = Prompter(self.tokenizer, Context(template=template, max_text_tokens=TEXT_TOKENS))
        self.splits = {"train": train, "dev": dev, "test": test}
        self.prompts = {
            name: prompter.rest([e.text for e in part]) for name, part in self.splits.items()
        }
        self.opening = tuple(prompter.prefix)
        self.trie = build_trie(prompter.labels(self.labels))
        shown = [template.demonstration(e) for e in train[:8]]
        words = template.separator.join([template.instruction or "", *shown])
        self.words = tuple(self.tokenizer(words, add_special_tokens=False)["input_ids"])

    def _examples(self) -> tuple[list[Any], list[Any], list[Any]]:
        from sapwood.tasks.readers import read_folder

        if self.smoke:
            made = list(made_up(("bad", "good")).train)
            return made[:16], made[16:24], made[24:32]
        folder = wanted_folder(self.where)
        tables = read_folder(folder)
        train = shuffled(tables["train"].examples)
        test = shuffled(tables["test"].examples)[: self.rows.test]
        return train[: self.rows.train], train[-self.rows.dev :], test

    def supervision(self, seed: int) -> tuple[Any, dict[str, Any]]:
        """Return (the loss of the training rows, further trained tensors: none)."""
        from sapwood.methods.prompt import virtual_ids
        from sapwood.training import Supervision, target

        del seed
        place = {label: n for n, label in enumerate(self.labels)}
        targets = [
            target(prompt, place[e.label], self.trie)
            for prompt, e in zip(self.prompts["train"], self.splits["train"], strict=True)
        ]
        shared = (*virtual_ids(self.net), *self.opening)
        return Supervision(self.decoder, targets, self.trie, shared=shared), {}

    def right(self, part: str) -> tuple[Any, float]:
        """Return (1.0 or 0.0 for each row, mean log loss) of "dev" or "test"."""
        from sapwood.methods.prompt import virtual_ids

        self.decoder.forget()
        before = self.decoder.encode((*virtual_ids(self.net), *self.opening))
        scores = self.decoder.label_scores(self.prompts[part], self.trie, before, normalise="trie")
        place = {label: n for n, label in enumerate(self.labels)}
        gold = np.array([place[e.label] for e in self.splits[part]])
        loss = -scores[np.arange(len(gold)), gold].mean()
        return (scores.argmax(1) == gold).astype(float), float(loss)

    def score(self, right: Any) -> float:
        """Return accuracy."""
        return float(np.mean(right))


class Entities:
    """Sentences with a tag for each word, answered by a head on an encoder."""

    def __init__(self, where: str, rows: Rows, *, smoke: bool, device: str = "cpu") -> None:
        self.where, self.rows, self.smoke, self.device = where, rows, smoke, device
        self.words: tuple[int, ...] = ()

    def load(self, base: str, dtype: str) -> None:
        """Load the base in a number format, and tokenise the rows."""
        from sapwood.launch import choose_runtime
        from sapwood.models.encoder import Encoder
        from sapwood.models.load import load_base
        from sapwood.training.heads import first_pieces

        found = load_base(base, choose_runtime(self.device, dtype))
        self.net, self.encoder = found.net, Encoder(found.net)
        self.tokenizer = found.tokenizer
        self.splits = self._sentences()
        tags = {tag for part in self.splits.values() for row in part for tag in row["tags"]}
        self.labels = sorted(tags)
        place = {tag: n for n, tag in enumerate(self.labels)}
        self.ids: dict[str, list[list[int]]] = {}
        self.gold: dict[str, list[list[int]]] = {}
        for name, part in self.splits.items():
            coded = [
                self.tokenizer(
                    row["tokens"], is_split_into_words=True, truncation=True,
                    max_length=TEXT_TOKENS,
                )
                for row in part
            ]  # fmt: skip
            self.ids[name] = [one["input_ids"] for one in coded]
            self.gold[name] = [
                first_pieces(one.word_ids(), [place[tag] for tag in row["tags"]])
                for one, row in zip(coded, part, strict=True)
            ]

    def _sentences(self) -> dict[str, list[Any]]:
        if self.smoke:
            row = {"tokens": ["this", "is", "good"], "tags": ["O", "O", "B-X"]}
            return {"train": [row] * 8, "dev": [row] * 4, "test": [row] * 4}
        folder = wanted_folder(self.where)
        train, test = (
            [json.loads(line) for line in (Path(folder) / f"{name}.jsonl").open(encoding="utf-8")]
            for name in ("train", "test")
        )
        train = shuffled(train)
        test = shuffled(test)[: self.rows.test]
        return {
            "train": train[: self.rows.train], "dev": train[-self.rows.dev :], "test": test,
        }  # fmt: skip

    def supervision(self, seed: int) -> tuple[Any, dict[str, Any]]:
        """Return (the loss of the training rows, the head's tensors)."""
        from sapwood.readouts.head import TokenHead
        from sapwood.training.heads import TokenSupervision, TrainedHead

        width = self.net.config.hidden_size
        self.head: Any = TrainedHead(TokenHead.random(self.labels, width, seed=seed))
        lossy = TokenSupervision(self.encoder, self.ids["train"], self.gold["train"], self.head)
        return lossy, dict(self.head.weights())

    def right(self, part: str) -> tuple[Any, float]:
        """Return ((rows, types, 3) counts of found, wanted and both; mean log loss)."""
        from sapwood.training.heads import IGNORED

        head = self.head.readout()
        types = sorted({tag[2:] for tag in self.labels if tag != "O"})
        counts = np.zeros((len(self.ids[part]), len(types), 3))
        lost = []
        for numbers, states in self.encoder.packs(self.ids[part]):
            for n, own in zip(numbers, states, strict=True):
                gold = np.array(self.gold[part][n])
                asked = gold != IGNORED
                found = head.probabilities(own.float().cpu().numpy()[asked])
                lost.append(-np.log(found[np.arange(asked.sum()), gold[asked]] + 1e-12).mean())
                said = spans([self.labels[k] for k in found.argmax(1)])
                true = spans([self.labels[k] for k in gold[asked]])
                for k, name in enumerate(types):
                    mine, theirs = ({s for s in group if s[0] == name} for group in (said, true))
                    counts[n, k] = len(mine), len(theirs), len(mine & theirs)
        return counts, float(np.mean(lost))

    def score(self, right: Any) -> float:
        """Return the mean over types of the span F1."""
        found, wanted, both = np.moveaxis(np.asarray(right).sum(0), -1, 0)
        return float(np.mean(2 * both / np.maximum(found + wanted, 1)))


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return (type, first, end) of the entities of BIO tags; an I after nothing begins one.

    >>> sorted(spans(["B-A", "I-A", "O", "I-B"]))
    [('A', 0, 2), ('B', 3, 4)]
    """
    found, start = set(), None
    for n, tag in enumerate([*tags, "O"]):
        inside = re.fullmatch(r"I-(.*)", tag)
        if start is not None and not (inside and inside[1] == start[0]):
            found.add((start[0], start[1], n))
            start = None
        if tag != "O" and start is None:
            start = (tag[2:], n)
    return found
