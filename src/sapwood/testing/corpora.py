"""A made-up language and a tiny corpus of it, on disk as `sapwood corpus build` writes one.

Every objective finds something to learn in it: words of a sentence follow a pattern, a document
keeps to its topic, and its sentences count up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sapwood.interfaces import Document

SPECIAL = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<bos>", "<eos>", "<fim_prefix>", "<fim_suffix>",
    "<fim_middle>", "[NLU]", "[NLG]", "[S2S]",
)  # fmt: skip
SENTINELS = tuple(f"<extra_id_{n}>" for n in range(32))
TOPICS = (
    ("farm", "cow", "hen", "barn", "hay", "plough"),
    ("sea", "ship", "sail", "wave", "gull", "port"),
    ("town", "street", "shop", "bell", "square", "tram"),
    ("wood", "oak", "fox", "moss", "path", "owl"),
)
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
VERBS = ("sees", "finds", "likes", "leaves")
PLAIN = ("the", "near", "old", "new", ".", ":")


def tiny_words() -> list[str]:
    """Return the words of the language, special ones first; a word's place is its id."""
    topics = [word for topic in TOPICS for word in topic]
    return [*SPECIAL, *SENTINELS, *PLAIN, *COUNTS, *VERBS, *topics]


def tiny_texts(count: int, seed: int = 0) -> list[list[str]]:
    """Return documents, lists of 3 to 8 sentences such as "two : the old cow sees the hen ."."""
    rng = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        topic = TOPICS[rng.integers(len(TOPICS))]
        sentences = []
        for number in range(int(rng.integers(3, 9))):
            first, second = rng.choice(len(topic), 2, replace=False)
            verb = VERBS[(first + number) % len(VERBS)]
            age = ("old", "new")[first % 2]
            sentences.append(
                f"{COUNTS[number]} : the {age} {topic[first]} {verb} the {topic[second]} ."
            )
        documents.append(sentences)
    return documents


def tiny_words_tokenizer() -> Any:
    """Return a transformers tokenizer of the language, one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    places = {word: number for number, word in enumerate(tiny_words())}
    backend = Tokenizer(models.WordLevel(places, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", bos_token="<bos>", eos_token="<eos>",
        additional_special_tokens=[*SPECIAL[7:], *SENTINELS], model_max_length=512,
    )  # fmt: skip


def tiny_documents(count: int, seed: int = 0) -> list[Document]:
    """Return documents of the language as tokens."""
    places = {word: number for number, word in enumerate(tiny_words())}
    made = []
    for sentences in tiny_texts(count, seed):
        ids = [[places[word] for word in sentence.split()] for sentence in sentences]
        ends = np.cumsum([0, *map(len, ids)])
        made.append(
            Document(
                ids=np.array([token for own in ids for token in own], dtype=np.int64),
                starts=np.ones(int(ends[-1]), dtype=np.bool_),
                sentences=ends.astype(np.int64),
                bytes=len(" ".join(sentences).encode()),
            )
        )
    return made


class Documents:
    """Documents in memory, as an objective draws from them."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def document(self, number: int, /) -> Document:
        """Return one."""
        return self.documents[number]


def tiny_corpus(folder: Path, *, count: int = 200, held: int = 40, seed: int = 0) -> Path:
    """Write a corpus of `count` documents to train on and `held` to measure with; return it."""
    from sapwood.corpora.corpus import MAIN, SCHEMA
    from sapwood.corpora.packing import joined
    from sapwood.files import write_json

    (folder / "tokens").mkdir(parents=True)
    tiny_words_tokenizer().save_pretrained(folder / "tokenizer")
    shards = []
    for number, (part, many) in enumerate((("train", count), ("held", held))):
        documents = tiny_documents(many, 2 * seed + number)
        name = f"{part}-00000"
        for array, values in joined(documents, np.uint16).items():
            np.save(folder / "tokens" / f"{name}.{array}.npy", values)
        shards.append(
            {
                "name": name, "part": part, "documents": many,
                "tokens": sum(len(d.ids) for d in documents),
                "sentences": sum(len(d.sentences) - 1 for d in documents),
                "bytes": sum(d.bytes for d in documents),
            }
        )  # fmt: skip
    tokenizer = {"vocabulary": len(tiny_words())}
    content = {"schema": SCHEMA, "seed": seed, "tokenizer": tokenizer, "shards": shards}
    write_json(folder / MAIN, content)
    return folder
