"""Plain text: books with Project Gutenberg's frame, files, blocks and lines as documents."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from sapwood.corpora.draft import LARGEST_RECORD, Draft, Drop, Format, Meter, Raw
from sapwood.corpora.streams import BLOCK, decoded, lines_of, opened

# How Project Gutenberg's files frame a book, from 1991 to today.
BEGINS = re.compile(
    r"^\s*\*{3}\s*START OF (?:THE|THIS) PROJECT GUTENBERG[^*]{0,500}\*{3}[^\n]*\n"
    r"|^\*END\*? ?THE SMALL PRINT[^\n]*\n",
    re.I | re.M,
)
ENDS = re.compile(
    r"^\s*\*{3}\s*END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|^\s*End of (?:the |this )?Project Gutenberg",
    re.I | re.M,
)
CREDITS = re.compile(
    r"\A\s*(?:(?:Produced|Prepared|Transcribed|E-?text prepared|This e(?:book|text) was) [^\n]*"
    r"(?:\n[^\n]+)*\n\s*\n)+",
    re.I,
)
GUTENBERG_NAME = re.compile(r"Project Gutenberg", re.I)
PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
# A paragraph was wrapped by a program when its lines are full: the next line's first word would
# not have fitted, give or take SLACK columns for dashes and editors' habits. Measured on six
# novels: of 8,584 paragraphs of several lines, a slack of 8 leaves 32, nearly all of them verse.
FULL, SLACK, NARROWEST, WIDEST = 0.9, 8, 40, 100
# Letters inside novels are indented and narrower; a paragraph of so many lines may have a width of
# its own, if wider than lines of verse are (a pentameter has about 45 characters).
OWN_LINES, OWN_WIDTH = 6, 55
FILES_AT_ONCE = 4 << 20  # bytes of a text file taken as one record, see `records`


def records(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield a text file as one record; a file over 4 MiB in parts that end with a blank line."""
    number, waiting = 0, b""
    with opened(path, meter) as file:
        while block := file.read1(BLOCK):
            waiting += block
            while len(waiting) > FILES_AT_ONCE:
                cut = waiting.rfind(b"\n\n", 0, FILES_AT_ONCE) + 2
                if cut < 2:
                    cut = waiting.rfind(b"\n", 0, FILES_AT_ONCE) + 1
                if cut < 1:
                    if len(waiting) < LARGEST_RECORD:
                        break
                    cut = FILES_AT_ONCE
                    while waiting[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
                        cut -= 1
                number += 1
                yield Raw(id=f"#{number}", data=waiting[:cut])
                waiting = waiting[cut:]
    if waiting.strip() or not number:
        yield Raw(id=f"#{number + 1}" if number else "", data=waiting)


def blocks(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield what stands between blank lines, one record each: a sentence a line, as BERT wants."""
    number, lines, size = 0, [], 0
    for line in lines_of(path, meter):
        if line is not None and line.strip() and size <= LARGEST_RECORD:
            lines.append(line)
            size += len(line)
        elif line is None or line.strip() or lines:
            number += 1
            too_large = line is None or size > LARGEST_RECORD
            yield (
                Drop(id=f"#{number}", reason="larger than 16 MiB")
                if too_large
                else Raw(id=f"#{number}", data=b"\n".join(lines))
            )
            lines, size = [], 0
    if lines:
        yield Raw(id=f"#{number + 1}", data=b"\n".join(lines))


def single_lines(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield every line that is not blank as one record."""
    for number, line in enumerate(lines_of(path, meter), 1):
        if line is None:
            yield Drop(id=f"#{number}", reason="larger than 16 MiB")
        elif line.strip():
            yield Raw(id=f"#{number}", data=line)


def _text(raw: Raw) -> str | Drop:
    text = decoded(raw.data)
    if text is None:
        return Drop(id=raw.id, reason="encoding not known")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def extract(raw: Raw) -> Iterator[Draft | Drop]:
    """Yield a text with its wrapped lines joined; lines of verse stay lines."""
    text = _text(raw)
    yield text if isinstance(text, Drop) else Draft(id=raw.id, text=unwrapped(text))


def extract_lines(raw: Raw) -> Iterator[Draft | Drop]:
    """Yield a text whose lines are kept as they are."""
    text = _text(raw)
    yield text if isinstance(text, Drop) else Draft(id=raw.id, text=text)


def extract_book(raw: Raw) -> Iterator[Draft | Drop]:
    """Yield a book without Project Gutenberg's header, licence and credits."""
    text = _text(raw)
    if isinstance(text, Drop):
        yield text
        return
    title = re.search(r"^Title: *(\S[^\n]*)", text[:20_000], re.M)
    yield Draft(id=raw.id, text=unwrapped(unframed(text)), title=title[1].strip() if title else "")


def unframed(text: str) -> str:
    r"""Return what stands between Project Gutenberg's header and its licence.

    >>> unframed("x\n*** START OF THE PROJECT GUTENBERG EBOOK E ***\nEmma.\n*** END OF THE "
    ...          "PROJECT GUTENBERG EBOOK E ***\nlicence")
    'Emma.'
    """
    starts = [match.end() for match in BEGINS.finditer(text[: len(text) // 2 + 30_000])]
    text = text[starts[-1] :] if starts else text
    for match in ENDS.finditer(text):
        if match.start() > len(text) // 2 or "***" in match[0]:
            text = text[: match.start()]
            break
    return CREDITS.sub("", text).strip()


def unwrapped(text: str) -> str:
    """Return paragraphs on a line each where a program wrapped them; verse keeps its lines.

    The width is the longest line but for one in a hundred. A paragraph whose lines could have taken
    the next word is no wrapped prose: verse, addresses, tables.
    """
    lengths = sorted(len(line) for line in text.split("\n") if line.strip())
    if not lengths:
        return ""
    width = lengths[int(0.99 * (len(lengths) - 1))]
    paragraphs = PARAGRAPH.split(text.strip("\n"))
    if NARROWEST <= width <= WIDEST:
        paragraphs = [_joined(paragraph, width) for paragraph in paragraphs]
    return "\n\n".join(filter(None, (p.strip("\n") for p in paragraphs)))


def _joined(paragraph: str, width: int) -> str:
    lines = paragraph.split("\n")
    if len(lines) < 2:
        return paragraph
    own = max(len(line.rstrip()) for line in lines)
    if _full(lines, width) or (len(lines) >= OWN_LINES and own >= OWN_WIDTH and _full(lines, own)):
        return " ".join(line.strip() for line in lines)
    return paragraph


def _full(lines: list[str], width: int) -> bool:
    """Tell whether all but a tenth of the lines could not have taken the next line's first word."""
    full = sum(
        len(line.rstrip()) + 1 + len((after.split(maxsplit=1) or [""])[0]) > width - SLACK
        for line, after in itertools.pairwise(lines)
    )
    return full >= FULL * (len(lines) - 1)


GUTENBERG = Format(
    name="gutenberg", about="Project Gutenberg text", rules="light", records=records,
    extract=extract_book,
)  # fmt: skip
TEXT = Format(name="text", about="plain text", rules="light", records=records, extract=extract)
BLOCKS = Format(
    name="blocks", about="text, blank lines between documents", rules="light", records=blocks,
    extract=extract_lines,
)  # fmt: skip
LINES = Format(
    name="lines", about="text, one document a line", rules="light", records=single_lines,
    extract=extract_lines,
)  # fmt: skip
