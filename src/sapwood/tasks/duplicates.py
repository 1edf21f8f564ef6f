"""The same text twice: exactly, but for case and punctuation, or nearly.

Near duplicates are found with MinHash signatures and banding (Broder, 1997, "On the resemblance
and containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
chapter 3) over character shingles, which need no word boundaries and so serve Chinese too. The
signatures come from `rensa`; every candidate pair is then verified by its true Jaccard overlap.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from sapwood.interfaces import Integers

SIMILAR = 0.8  # the usual threshold for near duplicates, as in Lee et al. (2022), section 4
# 25 bands of 5 find a pair at Jaccard 0.8 with probability 1 - (1 - 0.8^5)^25 = 0.99995 and let
# a pair at 0.5 through in 55 of 100 cases, which the cheap signature comparison then removes.
BANDS, DEPTH = 25, 5
PERMUTATIONS = 128
ROUGH = 0.68  # a signature estimate below this is 3.4 standard errors under 0.8
# All pairs of a band's bucket are compared up to this many rows; a bigger one is compared with its
# first row not yet joined, a few times over: linear, and the other bands see the pairs it misses.
SMALL_BUCKET, BIG_ROUNDS = 16, 3
SHINGLE, SHINGLE_HAN = 5, 3  # characters; a Chinese character carries about a word's half
HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
NOT_WORD = re.compile(r"[\W_]+")


def same_text(text: str) -> str:
    """Return the form in which two texts are the same text: runs of white space count as one."""
    return " ".join(text.split())


def content_hash(text: str, seed: int = 0) -> str:
    """Return a hash of the text, the same for the same text; 32 hexadecimal digits."""
    key = f"{seed}\x00{same_text(text)}".encode()
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def skeleton(text: str) -> str:
    """Return a text without case, punctuation and width variants.

    >>> skeleton("Great  film!!"), skeleton("很好，推荐！")
    ('great film', '很好 推荐')
    """
    return NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingles(text: str) -> set[str]:
    """Return the character shingles of a skeleton: 3 characters for Chinese, else 5."""
    dense = len(HAN.findall(text)) * 3 > len(text)
    if dense:
        text = text.replace(" ", "")
    size = SHINGLE_HAN if dense else SHINGLE
    if len(text) <= size:
        return {text}
    return {text[i : i + size] for i in range(len(text) - size + 1)}


def clusters(texts: Sequence[str], threshold: float = SIMILAR) -> list[list[int]]:
    """Group texts that are the same or nearly so (chained); return groups of two and more.

    Positions in a group ascend, groups are ordered by their first; which texts belong together
    does not depend on their order. `threshold` is the Jaccard overlap in (0, 1].
    """
    skeletons = [skeleton(text) or same_text(text) for text in texts]
    first: dict[str, int] = {}
    unique = sorted(set(skeletons))
    number = {text: i for i, text in enumerate(unique)}
    parent = list(range(len(unique)))
    for one, other in _near_pairs(unique, threshold, parent):
        parent[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = defaultdict(list)
    for position, text in enumerate(skeletons):
        first.setdefault(text, position)
        groups[_root(parent, number[text])].append(position)
    return sorted(group for group in groups.values() if len(group) > 1)


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _near_pairs(
    unique: Sequence[str], threshold: float, parent: list[int]
) -> Iterator[tuple[int, int]]:
    """Yield the roots of two clusters to be joined; the caller joins them before the next."""
    if len(unique) < 2:
        return
    signatures = _signatures(unique)

    @lru_cache(maxsize=4096)
    def parts(node: int) -> set[str]:
        return shingles(unique[node])

    def similar(one: int, other: int) -> bool:
        left, right = parts(one), parts(other)
        return len(left & right) >= threshold * len(left | right)

    for bucket in _buckets(signatures):
        rounds = len(bucket) - 1 if len(bucket) <= SMALL_BUCKET else BIG_ROUNDS
        rest = bucket
        for _ in range(rounds):
            leader, rest = int(rest[0]), rest[1:]
            likely = np.mean(signatures[rest] == signatures[leader], axis=1) >= ROUGH
            for node in rest[likely].tolist():
                one, other = _root(parent, leader), _root(parent, node)
                if one != other and similar(leader, node):
                    yield one, other
            if len(bucket) > SMALL_BUCKET:
                rest = rest[[_root(parent, n) != _root(parent, leader) for n in rest.tolist()]]
            if not len(rest):
                break


def _signatures(unique: Sequence[str]) -> Integers:
    """Return MinHash signatures, (texts, PERMUTATIONS) of 32 bits."""
    from rensa import RMinHash

    blocks = []
    for start in range(0, len(unique), 10_000):  # bounds the shingles held at once
        tokens = [sorted(shingles(text)) for text in unique[start : start + 10_000]]
        rows = RMinHash.digests_from_token_sets(tokens, PERMUTATIONS, 1)
        blocks.append(np.asarray(rows, dtype=np.uint32))
    return np.concatenate(blocks)


def _buckets(signatures: Integers) -> Iterator[Integers]:
    """Yield the rows that agree on a whole band, every group of two and more."""
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * DEPTH : (band + 1) * DEPTH])
        keys = part.view([("", part.dtype)] * DEPTH).ravel()
        order = np.argsort(keys, kind="stable")
        changed = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
        for group in np.split(order, changed):
            if len(group) > 1:
                yield group
