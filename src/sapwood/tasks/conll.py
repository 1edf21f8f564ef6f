"""Column files: one token a line with its tag in the last column, a blank line after a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

PEEK = 200  # lines; a sentence or two is enough to tell columns from prose
LIKE_A_TAG = re.compile(r"O|[BIESLUM][-_]\S+")


def fields_of(line: str) -> list[str]:
    """Return the columns of a line, split at tabs where it has any, else at white space."""
    line = line.rstrip("\r\n")
    parts = line.split("\t") if "\t" in line else line.split()
    while len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    return parts


def is_columns(path: Path, encoding: str) -> bool:
    """Tell whether a text file holds tokens with tags: most last columns look like tags."""
    with path.open(encoding=encoding) as file:
        lines = [fields_of(line) for line in islice(file, PEEK) if line.strip("\ufeff \t\r\n")]
    told = [parts for parts in lines if not _is_border(parts)]
    tagged = [parts for parts in told if len(parts) > 1 and LIKE_A_TAG.fullmatch(parts[-1])]
    return len(told) > 0 and len(tagged) * 10 >= len(told) * 8


def sentences(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, object] | str]]:
    """Yield (sentence, 1-based, its tokens and tags or the reason it cannot be read).

    ``-DOCSTART-`` lines and comments ("# id ...") are no sentences.
    """
    row = 0
    tokens: list[str] = []
    tags: list[str] = []
    fault = ""
    with path.open(encoding=encoding) as file:
        for number, line in enumerate(file, 1):
            if not line.strip("\ufeff \t\r\n"):
                if tokens or fault:
                    row += 1
                    yield row, fault or {"tokens": tokens, "ner_tags": tags}
                tokens, tags, fault = [], [], ""
                continue
            parts = fields_of(line.lstrip("\ufeff") if number == 1 else line)
            if _is_border(parts):
                continue
            if len(parts) == 1 or not parts[-1].strip():
                fault = fault or "a line with a token and no tag, or a tag and no token"
                continue
            tokens.append(parts[0])
            tags.append(parts[-1].strip())
    if tokens or fault:
        yield row + 1, fault or {"tokens": tokens, "ner_tags": tags}


def _is_border(parts: list[str]) -> bool:
    first = parts[0]
    comment = first.startswith("#") and len(parts) > 1 and not LIKE_A_TAG.fullmatch(parts[-1])
    return first.startswith("-DOCSTART-") or comment
