"""Wikipedia and other MediaWiki dumps: pages cut out of the stream, one at a time.

Pages are found by their tags, so that a dump of any size takes the memory of one page, pages that
other workers clean cost no parsing, and no document type (with entities that grow) is ever read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from sapwood.corpora.draft import LARGEST_RECORD, Draft, Drop, Format, Meter, Raw
from sapwood.corpora.markup import plain_text
from sapwood.corpora.streams import BLOCK, Damaged, opened

FILES, CATEGORIES, MEDIA = "6", "14", "-2"  # numbers of namespaces, the same in every wiki
NAMESPACE = re.compile(r'<namespace key="(-?\d+)"[^>]*>([^<]*)</namespace>')


def records(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield the pages of a dump; redirects and pages that are no articles are dropped unread.

    Raises Damaged where the dump ends inside a page or before its end.
    """
    about: dict[str, str] = {}
    waiting, number, ended = b"", 0, False
    with opened(path, meter) as file:
        while block := file.read1(BLOCK):
            waiting += block
            while True:
                start = waiting.find(b"<page>")
                if start < 0:
                    ended = ended or b"</mediawiki>" in waiting
                    if number or len(waiting) > LARGEST_RECORD:
                        waiting = waiting[-16:]
                    break
                if not number:
                    about = _site(waiting[:start])
                end = waiting.find(b"</page>", start)
                if end < 0:
                    if len(waiting) - start > LARGEST_RECORD:
                        yield Drop(id=f"#{number + 1}", reason="larger than 16 MiB")
                        number += 1
                        waiting = waiting[start + 6 :][-LARGEST_RECORD // 2 :]
                        waiting = (
                            waiting[waiting.find(b"<page>") :] if b"<page>" in waiting else b""
                        )
                    break
                number += 1
                yield _page(waiting[start : end + 7], f"#{number}", about)
                waiting = waiting[end + 7 :]
    if not ended:
        raise Damaged(f"ends too early: no </mediawiki> after {number:,} pages")


def _site(head: bytes) -> dict[str, str]:
    """Return what the head of a dump says: names of namespaces without prose, address, licence."""
    text = head.decode("utf-8", "replace")
    hidden = [name for key, name in NAMESPACE.findall(text) if key in (FILES, CATEGORIES, MEDIA)]
    base = re.search(r"<base>([^<]*)</base>", text)
    return {
        "hidden": "|".join(re.escape(name) for name in hidden if name),
        "base": base[1].rsplit("/", 1)[0] + "/" if base else "",
    }


def _page(data: bytes, name: str, about: dict[str, str]) -> Raw | Drop:
    if b"<ns>" in data and b"<ns>0</ns>" not in data:
        return Drop(id=name, reason="no article (another namespace)")
    if b"<redirect" in data:
        return Drop(id=name, reason="redirect")
    return Raw(id=name, data=data, about=about)


def extract(raw: Raw) -> Iterator[Draft | Drop]:
    """Yield the article of a page as plain text, from its last revision."""
    try:
        page = ElementTree.fromstring(raw.data)
    except ElementTree.ParseError as error:
        yield Drop(id=raw.id, reason="damaged XML", detail=str(error))
        return
    title = (page.findtext("title") or "").strip()
    revisions = page.findall("revision")
    element = revisions[-1].find("text") if revisions else None
    markup = (element.text or "") if element is not None else ""
    if not markup.strip():
        yield Drop(id=raw.id, reason="empty", detail=title)
        return
    if re.match(r"\s*#(redirect|重定向)", markup, re.I):
        yield Drop(id=raw.id, reason="redirect", detail=title)
        return
    base = raw.about.get("base", "")
    url = base + title.replace(" ", "_") if base else ""
    text = plain_text(markup, raw.about.get("hidden", ""))
    yield Draft(id=raw.id, text=text, title=title, url=url)


WIKI = Format(
    name="wiki", about="MediaWiki XML dump", rules="light", records=records, extract=extract
)
