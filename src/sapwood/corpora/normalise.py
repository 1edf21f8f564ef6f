"""One way to write each character: NFC, line ends, white space, no control characters.

Mojibake is left alone: guessing what it was is right often and wrong silently.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

from sapwood.corpora.draft import Draft, Drop

# C0 and C1 controls but tab and line feed, the byte order mark and the soft hyphen, directional
# marks, and the characters that are none (Unicode 16, table 23-1).
UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\xad\ufeff\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ufdd0-\ufdef\ufffe\uffff]"
)
LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Spaces of all widths but the ideographic one, which begins Chinese paragraphs and is taken off
# with the other margins.
SPACES = re.compile("[\t\xa0\u1680\u2000-\u200a\u202f\u205f]")
RUNS = re.compile(r"[ \u3000]{2,}")
MARGINS = re.compile(r"(?m)^[ \u3000]+|[ \u3000]+$")
BLANK_LINES = re.compile(r"\n{3,}")


def normalise(draft: Draft) -> Draft | Drop:
    """Return the draft with its text normalised; dropped when nothing is left."""
    text = normal(draft.text)
    return replace(draft, text=text) if text else Drop(reason="empty")


def normal(text: str) -> str:
    r"""Return text in NFC with plain spaces and line feeds, at most one blank line in a row.

    >>> normal("  Cafe\u0301\u00a0 noir \r\n\r\n\r\n\u3000\u3000春眠。\x00 ")
    'Café noir\n\n春眠。'
    """
    text = LINE_ENDS.sub("\n", unicodedata.normalize("NFC", text))
    text = SPACES.sub(" ", UNSEEN.sub("", text))
    text = MARGINS.sub("", RUNS.sub(" ", text))
    # Taking characters out may bring two together that compose.
    return unicodedata.normalize("NFC", BLANK_LINES.sub("\n\n", text).strip())
