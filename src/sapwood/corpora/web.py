"""Pages of the web: crawls in WARC and WET, and saved HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapwood.corpora.draft import LARGEST_RECORD, Draft, Drop, Format, Meter, Raw, missing_package
from sapwood.corpora.streams import Damaged, compression, decoded, opened

PAGES = re.compile(r"text/html|application/xhtml\+xml|^$")
CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w-]{3,20})""", re.I)
# What a page shows beside its text and what `main_content` does not always recognise.
BESIDE = ["nav", "script", "style", "template", "[role=navigation]", "[aria-hidden=true]"]


def records(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield the pages of a crawl: HTML of `response` records, text of `conversion` records (WET).

    Requests, headers and records of other kinds are no documents and are not counted. Raises
    Damaged where the file is cut off or is no WARC.
    """
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError:
        raise missing_package("fastwarc", "A WARC file") from None
    wanted = WarcRecordType.response | WarcRecordType.conversion
    number = 0
    with opened(path, meter) as file:  # the library's own reader takes a cut file for a whole one
        crawl = iter(ArchiveIterator(file, record_types=wanted, parse_http=True, auto_decode="all"))
        while True:
            try:
                record = next(crawl, None)
                if record is None:
                    break
                number += 1
                found = _record(record, f"#{number}")
            except (OSError, EOFError, ValueError) as error:
                if getattr(error, "errno", None) is not None:
                    raise
                raise Damaged(f"is damaged after {number:,} pages: {error}") from None
            except BaseException as error:  # a panic of the library is no Exception
                if type(error).__name__ != "PanicException":
                    raise
                raise Damaged(f"is damaged after {number:,} pages") from None
            yield found
    if not compression(path) and not _ends_a_line(path):
        raise Damaged(f"ends too early: inside page {number:,}")


def _ends_a_line(path: Path) -> bool:
    """Tell whether a file that is not compressed ends as records do."""
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _record(record: Any, name: str) -> Raw | Drop:
    headers = record.headers
    url = headers.get("WARC-Target-URI") or ""
    if record.content_length > LARGEST_RECORD:
        return Drop(id=name, reason="larger than 16 MiB", detail=url)
    about = {"url": url}
    if (headers.get("WARC-Type") or "").lower() == "conversion":
        about["kind"] = "text"
    else:
        if not record.is_http:
            return Drop(id=name, reason="no HTTP answer", detail=url)
        status = str(getattr(record.http_headers, "status_code", "") or "")
        if status and status != "200":
            return Drop(id=name, reason="HTTP status is not 200", detail=f"{status} {url}")
        kind = (record.http_content_type or "").lower()
        if not PAGES.search(kind):
            return Drop(id=name, reason="no HTML", detail=f"{kind} {url}")
        about["kind"], about["charset"] = "html", record.http_charset or ""
    data = record.reader.read(LARGEST_RECORD + 1)
    if len(data) > LARGEST_RECORD:
        return Drop(id=name, reason="larger than 16 MiB", detail=url)
    return Raw(id=name, data=data, about=about)


def whole_file(path: Path, meter: Meter) -> Iterator[Raw | Drop]:
    """Yield a saved page as one record."""
    with opened(path, meter) as file:
        data = file.read(LARGEST_RECORD + 1)
    if len(data) > LARGEST_RECORD:
        yield Drop(id="", reason="larger than 16 MiB")
    else:
        yield Raw(id="", data=data, about={"kind": "html"})


def extract(raw: Raw) -> Iterator[Draft | Drop]:
    """Yield the main text of a page; a WET record is text already."""
    url = raw.about.get("url", "")
    named = raw.about.get("charset") or None
    html = raw.about.get("kind") != "text"
    if named is None and html and (found := CHARSET.search(raw.data[:4096])):
        named = found[1].decode("ascii")
    text = decoded(raw.data, named)
    if text is None:
        yield Drop(id=raw.id, reason="encoding not known", detail=url)
        return
    title = ""
    if html:
        title = _title(text)
        text = html_text(text, main=True)
    yield Draft(id=raw.id, text=text, title=title, url=url, rules="web")


def html_text(page: str, *, main: bool) -> str:
    """Return the text of HTML; with `main` without what surrounds the content of a page."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError:
        raise missing_package("resiliparse", "HTML") from None
    return extract_plain_text(
        page, preserve_formatting=True, main_content=main, list_bullets=False, alt_texts=False,
        skip_elements=BESIDE,
    )  # fmt: skip


def _title(page: str) -> str:
    found = re.search(r"<title[^>]*>([^<]{1,300})", page[:65536], re.I)
    return " ".join(found[1].split()) if found else ""


WARC = Format(
    name="warc", about="crawl (WARC or WET)", rules="web", records=records, extract=extract
)
HTML = Format(name="html", about="saved HTML", rules="web", records=whole_file, extract=extract)
