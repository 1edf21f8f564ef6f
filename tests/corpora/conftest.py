"""Small sources of every kind, made in the tests."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import zipfile
from types import SimpleNamespace

import pytest

from sapwood.corpora.build import Share, build
from sapwood.corpora.samples import warc_record
from sapwood.corpora.settings import Settings
from sapwood.corpora.sources import find_sources


def listed(words: str) -> list[str]:
    return words.split()


NOUNS = listed(
    "river garden letter morning window sister carriage weather kitchen village teacher "
    "mountain bridge "
    "winter harbour captain market lantern orchard piano stranger cousin forest island "
    "summer tailor "
    "station mirror shepherd candle basket engine library uncle meadow thunder ribbon "
    "doctor cottage "
    "parcel sparrow valley blanket painter evening chapel whistle neighbour farmer "
    "journey"
)
VERBS = listed(
    "crossed remembered painted watched repaired visited described carried opened "
    "followed admired sold "
    "borrowed measured forgot discovered cleaned noticed lifted drew copied lost praised "
    "counted"
)
KINDS = listed(
    "old quiet narrow distant broken golden wooden friendly empty famous gentle heavy pale warm"
)
FORMS = (
    "The {k} {a} {v} the {b} before {n}.",
    "In that {k} {a}, the {b} {v} a {c} with {n} others.",
    "Nobody had {v} the {a} of the {b}, and the {c} was {k}.",
    "When {n} people came, the {a} {v} every {b} to be near a {k} {c}.",
    "A {c} is what the {k} {a} {v} that year, they have said.",
)
WHO = listed("老师 妈妈 邻居 司机 医生 渔夫 农民 学生 画家 船长 爷爷 朋友")
WHEN = listed("清晨 去年 昨天晚上 下雨的时候 夏天 过年以前 很久以前 星期天 中午 那一刻")
WHERE = listed("河边 厨房里 山上 车站 图书馆 小桥旁 果园 村口 海港 院子里 窗前")
WHAT = listed(
    "读了一封信 修好了旧钟 画了一座桥 喝了一杯茶 唱起了歌 想起了家乡 数着星星 卖掉了马车 "
    "遇见了陌生人 等着火车 种下苹果树 写了日记"
)
AND = listed("然后又 可是没有人 于是大家 后来才知道他 因为他 所以我们也 谁都不相信她")


def prose(seed: int, sentences: int = 12) -> str:
    """English that all quality rules take, different for every seed."""
    rng = random.Random(seed)
    said = []
    for number in range(sentences):
        a, b, c = rng.sample(NOUNS, 3)
        form = FORMS[(seed + number) % len(FORMS)] if number % 2 else rng.choice(FORMS)
        words = {"a": a, "b": b, "c": c, "v": rng.choice(VERBS), "k": rng.choice(KINDS)}
        said.append(form.format(n=rng.randrange(10_000), **words))
    return " ".join(said)


def chinese(seed: int, sentences: int = 12) -> str:
    """Chinese prose, different for every seed."""
    rng = random.Random(seed)
    said = []
    for _ in range(sentences):
        one, other = rng.sample(WHAT, 2)
        who, when, where = rng.choice(WHO), rng.choice(WHEN), rng.choice(WHERE)
        said.append(f"{when}{who}在{where}{one}，{rng.choice(AND)}{other}。")
    return "".join(said)


ARTICLE = """{{Infobox settlement|name=Rome|pop={{formatnum:2873000}}}}
'''Rome''' ({{lang-it|Roma}} {{IPA|roma}}) is the [[capital city|capital]] of [[Italy]].<ref
name="a">A note that {{cite web|title=must not}} stay.</ref> It lies on the [[Tiber]]<ref name="a"/>
and is {{convert|21|km|mi}} from the sea.<!-- hidden -->
[[File:Rome.jpg|thumb|A caption with a [[link]] in it]]
{| class="wikitable"
! Year !! People
|-
| 1900 || {{nowrap|400,000}}
|}
== History ==
Its history spans 28 centuries.<math>x^2</math> See [http://example.org the site].
<gallery>
File:A.jpg|One
</gallery>
=== Kings ===
== References ==
{{reflist}}
* A book nobody reads.
[[Category:Capitals]]
"""


def page(title: str, text: str, ns: int = 0, extra: str = "") -> str:
    body = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        f"  <page>\n    <title>{title}</title>\n    <ns>{ns}</ns>\n    <id>1</id>\n{extra}"
        f'    <revision>\n      <id>2</id>\n      <text xml:space="preserve">{body}</text>\n'
        "    </revision>\n  </page>\n"
    )


def dump(pages: list[str]) -> str:
    return (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="en">\n'
        "  <siteinfo>\n"
        "    <base>https://en.wikipedia.org/wiki/Main_Page</base>\n    <namespaces>\n"
        '      <namespace key="6" case="first-letter">Datei</namespace>\n'
        '      <namespace key="14" case="first-letter">Kategorie</namespace>\n'
        "    </namespaces>\n  </siteinfo>\n" + "".join(pages) + "</mediawiki>\n"
    )


def html(text: str, title: str = "A page") -> bytes:
    paragraphs = "".join(f"<p>{part}</p>" for part in text.split("\n"))
    return (
        f"<!doctype html><html><head><title>{title}</title><script>var x = {{}};</script>"
        "</head><body>"
        f'<nav><a href="/">Home</a></nav><main><article>{paragraphs}</article></main></body></html>'
    ).encode()


def warc(texts: list[str]) -> bytes:
    """A crawl of pages, a record a gzip member as crawlers write it."""
    return b"".join(
        gzip.compress(warc_record(f"https://example.org/{n}", html(text)), mtime=0)
        for n, text in enumerate(texts)
    )


def wet(texts: list[str]) -> bytes:
    parts = []
    for n, text in enumerate(texts):
        body = text.encode()
        head = (
            f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://example.org/w{n}\r\n"
            f"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-"
            f"{n:012d}>\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        parts.append(gzip.compress(head.encode() + body + b"\r\n\r\n", mtime=0))
    return b"".join(parts)


def epub(path, chapters: list[str], extra: dict[str, bytes] | None = None) -> None:
    items = "".join(
        f'<item id="c{n}" href="text/c{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    opf = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>A Tale</dc:title>'
        "<dc:language>en</dc:language></metadata><manifest>"
        '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
        f'{items}</manifest><spine><itemref idref="nav"/>{spine}</spine></package>'
    )
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>',
        )
        book.writestr("OEBPS/content.opf", opf)
        book.writestr("OEBPS/nav.xhtml", "<html><body>Contents to skip</body></html>")
        for n, chapter in enumerate(chapters):
            book.writestr(f"OEBPS/text/c{n}.xhtml", f"<html><body><p>{chapter}</p></body></html>")
        for name, content in (extra or {}).items():
            book.writestr(name, content)


@pytest.fixture
def sources(tmp_path):
    """A folder with a source of every kind, and the places as a user names them."""
    folder = tmp_path / "sources"
    folder.mkdir()
    articles = [page(f"Article {n}", f"'''It''' is [[known|said]]. {prose(n)}") for n in range(12)]
    articles += [
        page("Rome", ARTICLE),
        page("Old", "#REDIRECT [[Rome]]", extra='<redirect title="Rome"/>'),
    ]
    (folder / "wiki.xml.bz2").write_bytes(bz2.compress(dump(articles).encode()))
    pages = [f"{prose(100 + n)}\n{prose(200 + n)}" for n in range(8)]
    (folder / "crawl.warc.gz").write_bytes(warc([*pages, pages[0]]))
    (folder / "texts.warc.wet.gz").write_bytes(wet([chinese(n) for n in range(8)]))
    epub(folder / "tale.epub", [prose(300), prose(301)])
    rows = [{"text": prose(400 + n), "url": f"https://example.org/j{n}"} for n in range(6)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    books = folder / "books"
    books.mkdir()
    (books / "one.txt").write_text(prose(500, 30))
    (books / "two.txt").write_text(chinese(501, 30), encoding="utf-8")
    names = (
        "wiki.xml.bz2",
        "crawl.warc.gz",
        "texts.warc.wet.gz",
        "tale.epub",
        "rows.jsonl",
        "books",
    )
    return [str(folder / name) for name in names]


def run(events):
    """Run a generator of events to its end; return (events, result)."""
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


@pytest.fixture
def make(tmp_path):
    """Builder of corpora: `make(places, name="corpus", workers=1, vocabulary=800, ...)`."""

    def maker(places, *, name="corpus", workers=1, fresh=False, **settings):
        given = find_sources([str(place) for place in places])
        chosen = Settings(**{"vocabulary": 800, "sentinels": 8, "held": 0.1, **settings})
        out = tmp_path / name
        card = run(build(given, out, chosen, Share(workers=workers), fresh=fresh))[1]
        return out, card

    return maker


def contents(folder) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def kit():
    """The makers of this file, for tests that cannot import it."""
    return SimpleNamespace(
        prose=prose, chinese=chinese, page=page, dump=dump, html=html, warc=warc, wet=wet,
        epub=epub, run=run, contents=contents, article=ARTICLE,
    )  # fmt: skip
