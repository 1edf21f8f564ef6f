"""Tags of tokens and spans of characters, each from the other, exactly.

Chunks are read as `conlleval` reads them (Tjong Kim Sang and Buchholz, 2000, "Introduction to the
CoNLL-2000 Shared Task: Chunking"), which takes IOB1, BIO, BIOES, BILOU and plain IO alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

TAG = re.compile(r"([BIESLUMO])(?:[-_](.+))?", re.DOTALL)
OUTSIDE = ("O", "", None)
SINGLE, LAST = frozenset("SU"), frozenset("ELSU")
# Han, kana, bopomofo, Thai, Lao, Burmese and Khmer are written without spaces between words, and
# so are the marks of the CJK and full-width blocks.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3100-\u312f\u3400-\u9fff"
    r"\uf900-\ufaff\uff01-\uff65\U00020000-\U0003ffff]"
)
DENSE = 0.3  # of the tokens; Chinese text with many numbers stays far above, English far below
HEAD, TAIL = ("<head>", "</head>"), ("<tail>", "</tail>")


def parted(tag: str) -> tuple[str, str]:
    """Return (prefix, label) of a tag; ("O", "") outside, ("I", tag) for a tag without prefix.

    >>> parted("B-PER"), parted("O"), parted("PER"), parted("i_LOC")
    (('B', 'PER'), ('O', ''), ('I', 'PER'), ('I', 'LOC'))
    """
    if tag in OUTSIDE or tag == "o":
        return "O", ""
    if len(tag) > 2 and tag[1] in "-_" and tag[0].upper() in "BIESLUM":
        return tag[0].upper(), tag[2:]
    return "I", tag


def spans_of(tags: Sequence[str]) -> tuple[tuple[int, int, str], ...]:
    """Return (first token, token after the last, label) of every chunk, in order.

    >>> spans_of(["B-PER", "I-PER", "O", "I-LOC", "S-ORG"])
    ((0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'ORG'))
    """
    spans: list[tuple[int, int, str]] = []
    start, before, kind = 0, "O", ""
    for place, tag in enumerate(tags):
        prefix, label = parted(tag)
        starts = prefix != "O" and (prefix in "BSU" or before in "OELSU" or label != kind)
        if before != "O" and (starts or prefix == "O"):
            spans.append((start, place, kind))
        if starts:
            start = place
        before, kind = prefix, label
    if before != "O":
        spans.append((start, len(tags), kind))
    return tuple(spans)


def tags_of(spans: Iterable[tuple[int, int, str]], length: int) -> tuple[str, ...]:
    """Return BIO tags of `length` tokens for spans of tokens (end excluded).

    Raises ValueError for a span that is empty, outside, or overlaps another.

    >>> tags_of([(1, 3, "PER")], 4)
    ('O', 'B-PER', 'I-PER', 'O')
    """
    tags = ["O"] * length
    for start, end, label in spans:
        if not 0 <= start < end <= length:
            raise ValueError(f"the span {start}:{end} is not inside {length} tokens")
        if any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"the span {start}:{end} overlaps another one")
        tags[start] = f"B-{label}"
        tags[start + 1 : end] = [f"I-{label}"] * (end - start - 1)
    return tuple(tags)


def faults(tags: Sequence[str]) -> tuple[int, int, int]:
    """Count I where a chunk begins, B that only BIO needs, and chunks that BIOES would close.

    The second tells BIO from IOB1 and IO, where the first is no fault: a B that follows no chunk
    of its own label. The third is a fault only where a file closes chunks at all.
    """
    bare = begun = unclosed = 0
    before, kind = "O", ""
    for tag in [*tags, "O"]:
        prefix, label = parted(tag)
        goes_on = before not in "OELSU" and label == kind and prefix in "IEML"
        if prefix in "IEML" and (before == "O" or label != kind or before in LAST):
            bare += 1
        if prefix in "BSU" and (before == "O" or label != kind):
            begun += 1
        if before != "O" and before not in LAST and not goes_on:
            unclosed += 1
        before, kind = prefix, label
    return bare, begun, unclosed


def is_dense(tokens: Iterable[str]) -> bool:
    """Tell whether most tokens are of a script that is written without spaces."""
    total = dense = 0
    for token in tokens:
        if any(char.isalnum() for char in token):
            total += 1
            dense += UNSPACED.search(token) is not None
    return total > 0 and dense >= DENSE * total


def join_tokens(
    tokens: Sequence[str], *, dense: bool | None = None
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return the text of `tokens` and where each stands in it: ``text[start:end] == token``.

    Joined by single spaces, or by nothing where `dense` (by default told from the tokens): then
    only two words or numbers of several Latin characters each keep a space between them.

    >>> join_tokens(["Mr", ".", "Li"]), join_tokens(["李", "先", "生"])[0]
    (('Mr . Li', ((0, 2), (3, 4), (5, 7))), '李先生')
    """
    dense = is_dense(tokens) if dense is None else dense
    pieces: list[str] = []
    offsets: list[tuple[int, int]] = []
    at, before = 0, ""
    for place, token in enumerate(tokens):
        if place and (not dense or _apart(before, token)):
            pieces.append(" ")
            at += 1
        pieces.append(token)
        offsets.append((at, at + len(token)))
        at += len(token)
        before = token
    return "".join(pieces), tuple(offsets)


def _apart(one: str, other: str) -> bool:
    """Tell whether two neighbours in a dense text are words that would run together."""
    if len(one) < 2 or len(other) < 2:
        return False  # single characters: the text was cut into characters
    last, first = one[-1], other[0]
    return (
        last.isalnum()
        and first.isalnum()
        and not UNSPACED.match(last)
        and not UNSPACED.match(first)
    )


def mark_pair(text: str, head: tuple[int, int], tail: tuple[int, int]) -> str:
    """Return the text with the two spans in marks (Baldini Soares et al., 2019, section 3.2).

    The spans may hold each other; where they cross, the marks do.

    >>> mark_pair("Ann met Bo", (0, 3), (8, 10))
    '<head>Ann</head> met <tail>Bo</tail>'
    """
    marks: list[tuple[int, int, int, str]] = []  # (where, closing first, longer outside, mark)
    for (start, end), (opened, closed) in ((head, HEAD), (tail, TAIL)):
        marks.append((start, 1, -end, opened))
        marks.append((end, 0, -start, closed))
    pieces: list[str] = []
    at = 0
    same = head == tail  # opened head first, so closed head last
    for where, _, _, mark in sorted(marks, key=lambda m: (*m[:3], same and m[3] == HEAD[1])):
        pieces += [text[at:where], mark]
        at = where
    return "".join([*pieces, text[at:]])
