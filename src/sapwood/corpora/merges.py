"""What all trainers share: frequent characters, and the pieces that BPE merges of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sapwood.corpora.words import BREAK, broken

Texts = Callable[[], Iterator[str]]
MARK = "\u2581"
# Share of a corpus's characters that get pieces of their own, as in SentencePiece; the rest falls
# back to bytes (Unigram) or to [UNK] (WordPiece). They may take half of the vocabulary.
COVERAGE, ALPHABET_SHARE = 0.9995, 0.5
RARE = 2  # merges seen once are noise, as in GPT-2's training


def added(first: Sequence[str]) -> list[Any]:
    """Return special tokens as the library wants them."""
    from tokenizers import AddedToken

    return [AddedToken(token, special=True, normalized=False) for token in first]


def alphabet(texts: Texts, most: int) -> list[str]:
    """Return the most frequent characters that make up COVERAGE of a text, at most `most`."""
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(text)
    for space in [char for char in counts if char.isspace()]:
        del counts[space]
    total, reached = sum(counts.values()), 0
    chosen: list[str] = []
    for char, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if reached >= COVERAGE * total or len(chosen) >= most:
            break
        chosen.append(char)
        reached += count
    return chosen


def merged(
    texts: Texts, letters: Sequence[str], size: int, normalizer: Any, pre_tokenizer: Any
) -> list[str]:
    """Return the pieces that BPE merges over `letters`, in the order in which it finds them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    seed = Tokenizer(models.BPE())
    if normalizer is not None:
        seed.normalizer = normalizer
    seed.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(BREAK, "removed"), pre_tokenizer]
    )
    known = sorted({*letters, MARK})
    trainer = trainers.BpeTrainer(
        vocab_size=len(known) + size, min_frequency=RARE, show_progress=False,
        initial_alphabet=known, limit_alphabet=len(known), max_token_length=16,
    )  # fmt: skip
    seed.train_from_iterator(map(broken, texts()), trainer)
    by_id = sorted(seed.get_vocab().items(), key=lambda item: item[1])
    return [piece for piece, _ in by_id if len(piece) > 1]
