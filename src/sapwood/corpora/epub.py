"""EPUB books: the XHTML files of a zip archive in reading order, one document a book."""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from sapwood.corpora.draft import Draft, Drop, Format, Meter, Raw
from sapwood.corpora.streams import decoded
from sapwood.corpora.web import html_text

# Bytes of all text files of a book: War and Peace in XHTML has 4 million. A zip archive can claim
# any size, so members are read up to this and no further.
LARGEST_BOOK = 64 << 20
CONTAINER = "META-INF/container.xml"
NOT_PROSE = frozenset({"nav", "ncx", "cover-image"})
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError)


def records(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield the book: its XHTML files joined by form feeds, its title and language."""
    del meter  # a zip archive is not read from front to back
    try:
        with zipfile.ZipFile(path) as book:
            if "META-INF/encryption.xml" in book.namelist() and _locked(book):
                yield Drop(id="", reason="encrypted book")
                return
            opf, base = _package(book)
            parts, room = [], LARGEST_BOOK
            for name in _spine(opf, base):
                with book.open(name) as member:
                    data = member.read(room + 1)
                room -= len(data)
                if room < 0:
                    yield Drop(id="", reason="larger than 64 MiB unpacked")
                    return
                parts.append(data)
            about = {tag: _metadata(opf, tag) for tag in ("title", "language", "rights")}
    except BROKEN_ZIP as error:
        yield Drop(id="", reason="damaged EPUB", detail=str(error))
        return
    except (ElementTree.ParseError, RuntimeError) as error:
        yield Drop(id="", reason="damaged EPUB", detail=str(error))
        return
    yield Raw(id="", data=b"\f".join(parts), about=about)


def _read(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    """Parse a small XML member; ValueError where it is large or defines entities."""
    with book.open(name) as member:
        data = member.read((1 << 20) + 1)
    if len(data) > 1 << 20 or b"<!ENTITY" in data:
        raise ValueError(f"{name} is too large or defines entities")
    return ElementTree.fromstring(data)


def _local(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _package(book: zipfile.ZipFile) -> tuple[ElementTree.Element, str]:
    for element in _read(book, CONTAINER).iter():
        if _local(element) == "rootfile":
            path = element.get("full-path", "")
            return _read(book, path), posixpath.dirname(path)
    raise ValueError(f"{CONTAINER} names no package")


def _spine(opf: ElementTree.Element, base: str) -> Iterator[str]:
    """Yield the names of the text files in reading order, without the table of contents."""
    items = {e.get("id"): e for e in opf.iter() if _local(e) == "item"}
    for element in opf.iter():
        if _local(element) != "itemref" or element.get("linear") == "no":
            continue
        item = items.get(element.get("idref"))
        if item is None or NOT_PROSE & set((item.get("properties") or "").split()):
            continue
        if "html" in (item.get("media-type") or ""):
            yield posixpath.normpath(posixpath.join(base, unquote(item.get("href", ""))))


def _metadata(opf: ElementTree.Element, tag: str) -> str:
    found = (e.text for e in opf.iter() if _local(e) == tag and e.text)
    return " ".join(next(found, "").split())


def _locked(book: zipfile.ZipFile) -> bool:
    """Tell whether text is encrypted; fonts are often obfuscated, which locks nothing."""
    for element in _read(book, "META-INF/encryption.xml").iter():
        if _local(element) == "CipherReference" and "html" in element.get("URI", ""):
            return True
    return False


def extract(raw: Raw) -> Iterator[Draft | Drop]:
    """Yield the book as one document, its chapters joined by blank lines."""
    chapters = []
    for part in raw.data.split(b"\f"):
        page = decoded(part)
        if page is None:
            yield Drop(id=raw.id, reason="encoding not known")
            return
        page = re.sub(r"^\s*<\?xml[^>]*\?>", "", page)
        chapters.append(html_text(page, main=False).strip())
    yield Draft(
        id=raw.id, text="\n\n".join(filter(None, chapters)), title=raw.about.get("title", "")
    )


EPUB = Format(name="epub", about="EPUB book", rules="light", records=records, extract=extract)
