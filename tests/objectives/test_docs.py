"""The drawn examples of docs/objectives.md are what the objectives draw."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sapwood.objectives import NO_TARGET, OBJECTIVES, Draws, Vocabulary, objective
from sapwood.testing.objectives import documents_of

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text("utf-8")
STORY = ("the man went to the store .", "he bought a gallon of milk .")
OTHER = ("penguins are flightless birds .", "they swim well .")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<X>", "<Y>", "<Z>",
           "<PRE>", "<SUF>", "<MID>")  # fmt: skip
WORDS = [*SPECIAL, *sorted({word for line in (*STORY, *OTHER) for word in line.split()})]
VOCABULARY = Vocabulary(
    size=len(WORDS), pad=0, cls=1, sep=2, mask=3, bos=4, eos=5, sentinels=(6, 7, 8), prefix=9,
    suffix=10, middle=11,
)  # fmt: skip
# (line, length, epoch, index) of each drawn example.
DRAWN = [
    ("clm", 16, 0, 0), ("mlm", 16, 0, 0), ("mlm+nsp", 17, 4, 0), ("mlm+nsp", 17, 6, 0),
    ("sop", 17, 0, 0), ("rtd", 16, 0, 0), ("plm", 16, 2, 0),
    ("span(density=0.3, mean=2)", 14, 5, 0), ("prefix_lm", 16, 1, 0), ("ul2", 14, 1, 0),
    ("fim", 19, 3, 0), ("fim", 19, 5, 0),
]  # fmt: skip


def words(ids):
    return " ".join("·" if n == NO_TARGET else WORDS[n] for n in ids)


def shown(line, length, epoch, index):
    """Return the lines that show one example."""
    texts = [STORY, OTHER] if "nsp" in line else [STORY]
    ids = [[[WORDS.index(w) for w in sentence.split()] for sentence in text] for text in texts]
    draws = Draws(objective(line), documents_of(*ids), VOCABULARY, length, seed=1)
    example = draws.draw(epoch, index)
    rows = [("input", words(example["input_ids"]))]
    if "token_type_ids" in example:
        rows.append(("segments", " ".join(map(str, example["token_type_ids"]))))
    if "prefix" in example:
        rows.append(("prefix", str(int(example["prefix"]))))
    if "perm_mask" in example:
        places = example["target_mapping"].argmax(axis=1)
        sees = ~example["perm_mask"]
        order = np.argsort(sees[np.ix_(places, places)].sum(axis=1))
        for place, seen in ((places[n], sees[places[n]]) for n in order):
            text = words(np.where(seen, example["input_ids"], NO_TARGET))
            rows.append((f"{WORDS[example['input_ids'][place]]} from", text))
    elif "labels" in example:
        rows.append(("labels", words(example["labels"])))
    if "next_sentence_label" in example:
        rows.append(("label", str(int(example["next_sentence_label"]))))
    return [f"{name:<10}{text}" for name, text in rows]


@pytest.mark.parametrize("drawn", DRAWN, ids=lambda drawn: f"{drawn[0]}-{drawn[2]}")
def test_a_drawn_example_is_the_real_one(drawn):
    block = "\n".join(shown(*drawn))
    assert block in PAGE, block


def test_every_objective_has_its_section():
    missing = [name for name in OBJECTIVES if f"\n## `{name}`" not in PAGE]
    assert missing == []
    drawn = {re.split(r"\W", line)[0] for line, *_ in DRAWN}
    assert drawn | {"nsp"} == set(OBJECTIVES)
