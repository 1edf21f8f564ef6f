"""A unigram language model over pieces: Kudo (2018), "Subword Regularization", section 3.2.

Pieces that BPE merges are the seed. Then, in turn: every word is split in all ways, pieces get the
probability of how often they are expected to be used (EM by forward and backward sums, with the
digamma of a Dirichlet prior as in SentencePiece), and the quarter that costs least is dropped,
until the vocabulary is as large as asked. Pieces of one character stay; what has none falls back to
bytes. Sums run over arrays in one order, so the result is the same every time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sapwood.corpora.merges import ALPHABET_SHARE, MARK, Texts, added, alphabet, merged
from sapwood.corpora.words import BREAK, broken
from sapwood.interfaces import Floats, Integers

SEED, SHRINK, ROUNDS = 3.0, 0.75, 2  # seed over wanted size; the paper keeps 75 to 80 % a time
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# Below every piece that training can give: a byte is never likelier than a piece for it.
BYTE_SCORE = -50.0
WORDS = 1_000_000  # different words counted; those first met later are left out
FITTED = 200_000  # of them, the most frequent: 60 MB of places of pieces, nearly all of the text
# Characters of a word: longer ones are no words, and a product of so many probabilities still fits
# into a float64.
LONGEST, LONGEST_PIECE = 32, 16
FEWEST = 0.5  # expected uses below which a piece goes, as in SentencePiece


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where pieces fit in words: word, first and last character and piece of each, by `last`.

    `weights`: how often each word occurs, `lengths`: its characters.
    """

    word: Integers
    start: Integers
    end: Integers
    piece: Integers
    weights: Floats
    lengths: Integers


def train_unigram(texts: Texts, room: int, first: list[str]) -> Any:
    """Return a Unigram tokenizer with byte fallback; `first` get the first ids."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n+"), "isolated"),
            pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="never"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    pieces_wanted = room - len(first) - len(BYTES)
    letters = alphabet(texts, int(pieces_wanted * ALPHABET_SHARE))
    letters = [MARK, "\n", *(letter for letter in letters if letter != MARK)]
    seeds = merged(texts, letters, int(SEED * pieces_wanted), None, split)
    words = _words(texts, split, set(letters))
    scores = _fitted([*letters, *seeds], set(letters), words, pieces_wanted)
    vocabulary = [(token, 0.0) for token in first] + [(byte, BYTE_SCORE) for byte in BYTES]
    vocabulary += sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    made = Tokenizer(models.Unigram(vocabulary, unk_id=first.index("<unk>"), byte_fallback=True))
    made.pre_tokenizer = split
    made.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(MARK, "never"), decoders.Fuse()]
    )
    made.add_special_tokens(added(first))
    return made


def _words(texts: Texts, split: Any, letters: set[str]) -> dict[str, int]:
    """Return how often each word occurs, those of known characters only, in order of the text."""
    counts: Counter[str] = Counter()
    for text in texts():
        for part in broken(text).split(BREAK):
            for word, _ in split.pre_tokenize_str(part):
                if word in counts or len(counts) < WORDS:
                    counts[word] += 1
    return {
        word: count
        for word, count in counts.items()
        if len(word) <= LONGEST and letters.issuperset(word)
    }


def _fitted(
    pieces: Sequence[str], letters: set[str], words: Mapping[str, int], size: int
) -> dict[str, float]:
    """Return the log-probabilities of the `size` pieces that are left at the end."""
    listed = list(dict.fromkeys(pieces))
    places = _places(words, {piece: number for number, piece in enumerate(listed)})
    single = np.array([piece in letters for piece in listed])
    alive = np.ones(len(listed), dtype=bool)
    # The seed's own counts: every place that a piece fits weighs as its word does.
    fits = np.bincount(places.piece, places.weights[places.word], len(listed))
    scores = _scores(fits.astype(np.float64), alive)
    while True:
        for _ in range(ROUNDS):
            uses = _uses(places, np.where(alive, np.exp(scores), 0.0))
            alive &= single | (uses >= FEWEST)
            scores = _scores(np.maximum(uses, FEWEST / 2), alive)
        known = {listed[n]: float(scores[n]) for n in np.flatnonzero(alive)}
        if len(known) <= size:
            return {piece: round(score, 6) for piece, score in known.items()}
        keep = max(size, int(SHRINK * len(known)))
        alive &= _worth_most(listed, known, uses, single, keep)
        scores = np.where(alive, scores, -np.inf)


def _places(words: Mapping[str, int], numbers: Mapping[str, int]) -> Places:
    """Find every place of every piece in the most frequent words."""
    chosen = sorted(words, key=lambda word: (-words[word], word))[:FITTED]
    found: list[tuple[int, int, int, int]] = []
    for at, word in enumerate(chosen):
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + LONGEST_PIECE) + 1):
                number = numbers.get(word[start:end])
                if number is not None:
                    found.append((end, at, start, number))
    array = np.array(found, dtype=np.int32).reshape(-1, 4)
    array = array[np.argsort(array[:, 0], kind="stable")]
    return Places(
        end=array[:, 0], word=array[:, 1], start=array[:, 2], piece=array[:, 3],
        weights=np.array([words[word] for word in chosen], dtype=np.float64),
        lengths=np.array([len(word) for word in chosen], dtype=np.int32),
    )  # fmt: skip


def _uses(places: Places, chances: Floats) -> Floats:
    """Return how often each piece is expected to be used, (pieces,), over all splits."""
    count, longest = len(places.lengths), int(places.lengths.max())
    bounds = np.searchsorted(places.end, np.arange(longest + 2))
    forward = np.zeros((longest + 1, count))
    forward[0] = 1.0
    for end in range(1, longest + 1):
        at = slice(bounds[end], bounds[end + 1])
        ways = forward[places.start[at], places.word[at]] * chances[places.piece[at]]
        forward[end] = np.bincount(places.word[at], ways, count)
    backward = np.zeros((longest + 1, count))
    backward[places.lengths, np.arange(count)] = 1.0
    for end in range(longest, 0, -1):
        at = slice(bounds[end], bounds[end + 1])
        ways = backward[end, places.word[at]] * chances[places.piece[at]]
        np.add.at(backward, (places.start[at], places.word[at]), ways)
    whole = forward[places.lengths, np.arange(count)]
    scale = np.divide(places.weights, whole, out=np.zeros(count), where=whole > 0)
    parts = forward[places.start, places.word] * backward[places.end, places.word]
    parts *= chances[places.piece] * scale[places.word]
    return np.bincount(places.piece, parts, len(chances)).astype(np.float64)


def _scores(uses: Floats, alive: NDArray[np.bool_]) -> Floats:
    """Return log-probabilities of the pieces in use, -inf of the others."""
    from scipy.special import digamma

    counts = np.where(alive, uses, 0.0)
    scores = np.full(len(uses), -np.inf)
    scores[alive] = digamma(counts[alive]) - digamma(counts.sum())
    return scores


def _worth_most(
    listed: Sequence[str],
    known: Mapping[str, float],
    uses: Floats,
    single: NDArray[np.bool_],
    keep: int,
) -> NDArray[np.bool_]:
    """Tell which pieces stay: all characters, and those whose loss would cost most likelihood."""
    costs = []
    for number, piece in enumerate(listed):
        if piece in known and not single[number]:
            costs.append((-uses[number] * (known[piece] - _otherwise(piece, known)), piece, number))
    costs.sort()
    stays = single.copy()
    stays[[number for _, _, number in costs[: max(0, keep - int(single.sum()))]]] = True
    return stays


def _otherwise(piece: str, scores: Mapping[str, float]) -> float:
    """Return the log-probability of the likeliest split of a piece into smaller ones."""
    best = [0.0] + [-math.inf] * len(piece)
    for end in range(1, len(piece) + 1):
        for start in range(end):
            part = piece[start:end]
            if part != piece and part in scores:
                best[end] = max(best[end], best[start] + scores[part])
    return best[-1]
