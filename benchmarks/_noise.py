"""Newswire made to look like posts: the same sentences and names, written as people type.

Of the kinds of noise that set the W-NUT corpora of posts apart from newswire (Derczynski et al.
2017, "Results of the WNUT2017 Shared Task"): no capitals, typing errors, stretched letters, names
run together behind "#", mentions, links, signs of mood, dropped full stops. All of it is drawn from
the row's own text and a seed, so that it is the same wherever it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from random import Random

# Each a share of words or of rows; about every second sentence has a name that is spelt wrong.
TYPOS, STRETCHED, JOINED = 0.15, 0.03, 0.25
OPENED, CLOSED, STOPLESS = 0.3, 0.3, 0.7
LEAST = 4  # letters of a word that may be spelt wrong
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
OPENINGS = (["rt", "@user", ":"], ["@user"], ["omg"], ["ok", "so"], ["lol", ","], ["wow", "!"])
CLOSINGS = (["lol"], ["smh"], ["😂"], ["🔥", "🔥"], ["https://t.co/x"], ["#news"], ["!", "!", "!"])


def posted(
    tokens: Sequence[str], tags: Sequence[str], seed: int = 0
) -> tuple[list[str], list[str]]:
    """Return (tokens, BIO tags) of a sentence as a post, names tagged as they were.

    >>> posted(["EU", "rejects", "German", "call", "."], ["B-ORG", "O", "B-MISC", "O", "O"])
    (['eu', 'rejects', 'german', 'call'], ['B-ORG', 'O', 'B-MISC', 'O'])
    """
    rng = Random(sha256(f"{seed}\n{' '.join(tokens)}".encode()).hexdigest())
    words: list[str] = []
    own: list[str] = []
    for group, kind in _groups(tokens, tags):
        if kind and rng.random() < JOINED:
            group = ["#" + "".join(group)]
        for place, word in enumerate(group):
            words.append(_typed(word.lower(), rng))
            own.append(f"{'I' if place else 'B'}-{kind}" if kind else "O")
    if len(words) > 1 and words[-1] == "." and rng.random() < STOPLESS:
        words.pop()
        own.pop()
    before = rng.choice(OPENINGS) if rng.random() < OPENED else []
    behind = rng.choice(CLOSINGS) if rng.random() < CLOSED else []
    around = ["O"] * len(before), ["O"] * len(behind)
    return [*before, *words, *behind], [*around[0], *own, *around[1]]


def _groups(tokens: Sequence[str], tags: Sequence[str]) -> list[tuple[list[str], str]]:
    """Return (tokens, type) of each name, and of each word between names, whose type is ""."""
    found: list[tuple[list[str], str]] = []
    for token, tag in zip(tokens, tags, strict=True):
        if tag.startswith("I-") and found and found[-1][1] == tag[2:]:
            found[-1][0].append(token)
        else:
            found.append(([token], tag[2:]))
    return found


def _typed(word: str, rng: Random) -> str:
    """Return a word as it may be typed: rarely stretched, sometimes with one slip."""
    if len(word) < LEAST or not word.strip("#").isalpha():
        return word
    drawn = rng.random()
    at = rng.randrange(1, len(word) - 1)
    if drawn < TYPOS:
        left, letter, after, right = word[:at], word[at], word[at + 1], word[at + 2 :]
        slips = (after + letter, after, letter + letter + after, _near(letter, rng) + after)
        return left + rng.choice(slips) + right
    if drawn < TYPOS + STRETCHED:
        return word[: at + 1] + word[at] * rng.randint(1, 3) + word[at + 1 :]
    return word


def _near(letter: str, rng: Random) -> str:
    """Return a letter whose key is beside that of `letter`."""
    for row in KEYS:
        if (place := row.find(letter)) >= 0:
            return rng.choice(row[max(0, place - 1) : place] + row[place + 1 : place + 2])
    return letter
