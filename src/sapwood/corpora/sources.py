"""What a corpus is made of: files and folders, told apart by what they hold."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sapwood.config import home
from sapwood.corpora import ALIASES, FORMATS
from sapwood.corpora.samples import SAMPLES
from sapwood.corpora.streams import HEAD, Damaged, decoded, head_of
from sapwood.corpora.tables import COLUMNS, column_of
from sapwood.errors import ConfigError, DataError
from sapwood.registry import did_you_mean

NOT_STATED = "not stated"
LICENCES = {
    "gutenberg": "public domain in the United States (Project Gutenberg)",
    "wiki": "CC BY-SA (as Wikipedia; see the wiki's own terms)",
}
OTHER_FILES = (  # first bytes of what people try, and what to do instead
    (b"%PDF", "a PDF document", "export its text"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "save it as plain text"),
    (b"SQLite format 3", "an SQLite database", "export the column as JSONL"),
    (b"ARROW1", "an Arrow file", "save it as Parquet"),
    (b"\x89PNG", "a picture", "give files of text"),
    (b"\xff\xd8\xff", "a picture", "give files of text"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first: 7z x FILE"),
)


CONTINUED = bytes(range(0x80, 0xC0))  # what follows the first byte of a UTF-8 character
# How a WARC in zstd with a dictionary of its own begins: a frame that other readers skip.
DICTIONARY = b"\x5d\x2a\x4d\x18"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a source: `name` is relative to what was given, `bytes` its size on disk."""

    source: str
    name: str
    path: Path
    format: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Given:
    """One source as given: its files, its licence as far as known, what was left out of it."""

    name: str
    files: tuple[SourceFile, ...]
    licence: str
    skipped: tuple[str, ...] = ()


def find_sources(places: Sequence[str], licences: Mapping[str, str] | None = None) -> list[Given]:
    """Return the sources in the order given. A place is `PATH`, `FORMAT=PATH` or a sample's name.

    Raises ConfigError E-CONFIG-230 for a format or licence that fits nothing, DataError E-DATA-190
    with every problem of every source at once.
    """
    found: list[Given] = []
    problems: list[str] = []
    names: set[str] = set()
    for place in places:
        form, path = _split(place)
        try:
            given = _given(path, form, names)
        except _Problem as problem:
            problems.append(str(problem))
            continue
        names.add(given.name)
        found.append(given)
    if problems:
        raise DataError(
            "E-DATA-190",
            f"{len(problems)} of {len(places)} sources cannot be used"
            if len(places) > 1
            else "The source cannot be used",
            details=problems,
            fix="mend or leave out these sources; FORMAT=PATH says how one is to be read "
            f"({', '.join(FORMATS)})",
        )
    return _licensed(found, licences or {})


class _Problem(Exception):
    """Why one source cannot be used."""


def _split(place: str) -> tuple[str | None, Path | str]:
    """Return (format, path or sample's name)."""
    if Path(place).exists():
        return None, Path(place)
    match = re.fullmatch(r"([a-z]+)=(.+)", place)
    if match is None:
        return None, place if place in SAMPLES else Path(place)
    name = ALIASES.get(match[1], match[1])
    if name not in FORMATS:
        raise ConfigError(
            "E-CONFIG-230",
            f"Unknown format '{match[1]}' in {place}."
            f"{did_you_mean(match[1], [*FORMATS, *ALIASES])}",
            fix=f"use one of: {', '.join(FORMATS)}",
        )
    return name, match[2] if match[2] in SAMPLES else Path(match[2])


def _given(place: Path | str, form: str | None, names: set[str]) -> Given:
    if isinstance(place, str):
        path = home() / "corpora" / place
        if not (path / "SOURCE.md").is_file():
            raise _Problem(f"{place} is not here yet; fetch it with: sapwood corpus pull {place}")
    else:
        path = place
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise _Problem(f"{path}: no such file or folder.{did_you_mean(path.name, beside)}")
    name = _unique(_stem(path), names)
    if path.is_file():
        return Given(
            name=name, files=(_file(name, path.name, path, form),), licence=_licence(path.parent)
        )
    files, skipped = [], []
    for inside in sorted(p for p in path.rglob("*") if p.is_file()):
        relative = inside.relative_to(path).as_posix()
        if relative == "SOURCE.md" or any(part.startswith(".") for part in Path(relative).parts):
            continue
        try:
            files.append(_file(name, relative, inside, form))
        except _Problem as problem:
            skipped.append(str(problem))
    if not files:
        raise _Problem(f"{path}: no file in this folder can be used" + "".join(
            f"; {why}" for why in skipped[:3]))  # fmt: skip
    return Given(name=name, files=tuple(files), licence=_licence(path), skipped=tuple(skipped))


def _stem(path: Path) -> str:
    """Return a short name: no suffixes, no characters that a file name would mind."""
    plain = path.resolve().name.split(".")[0] or "source"
    return re.sub(r"[^\w-]+", "-", plain)[:40].strip("-") or "source"


def _unique(name: str, names: set[str]) -> str:
    number, found = 2, name
    while found in names:
        found, number = f"{name}-{number}", number + 1
    return found


def _file(source: str, name: str, path: Path, form: str | None) -> SourceFile:
    try:
        found = form or told(path)
    except Damaged as damaged:
        raise _Problem(f"{name} {damaged}") from None
    except OSError as error:
        raise _Problem(f"{name}: {error.strerror or error}") from None
    return SourceFile(source=source, name=name, path=path, format=found, bytes=path.stat().st_size)


def told(path: Path) -> str:
    """Return the format of a file by its content; raises _Problem where it is none of ours."""
    head = head_of(path)
    if not head.strip():
        raise _Problem(f"{path.name} is empty")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    for magic, what, fix in OTHER_FILES:
        if head.startswith(magic):
            raise _Problem(f"{path.name} is {what}: {fix.replace('FILE', path.name)}")
    if head.startswith((b"WARC/", DICTIONARY)):
        return "warc"
    low = head[:4096].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if b"<mediawiki" in low[:1024]:
        return "wiki"
    if head.count(0) * 10 > len(head) and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Problem(f"{path.name} is a binary file of a kind that is not known")
    if low.startswith((b"<!doctype html", b"<html")) or re.match(
        rb"<\?xml[^>]*>\s*(<!doctype html|<html)", low
    ):
        return "html"
    if low.startswith(b"{") or low.startswith(b"["):
        return _json(path.name, head)
    if re.search(rb"project gutenberg", head[:20_000], re.I) and b"***" in head:
        return "gutenberg"
    return _plain(path, head)


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            if "META-INF/container.xml" in archive.namelist():
                return "epub"
            inside = ", ".join(archive.namelist()[:3])
    except zipfile.BadZipFile as error:
        raise _Problem(f"{path.name} is a damaged zip archive: {error}") from None
    raise _Problem(f"{path.name} is a zip archive and no EPUB ({inside}): unpack it first")


def _json(name: str, head: bytes) -> str:
    line = head.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    try:
        row = json.loads(line)
    except ValueError:
        if line.lstrip().startswith(b"{") and len(line) == len(head):
            return "jsonl"  # the first row is longer than the head
        raise _Problem(
            f"{name} begins like JSON, but its first line is no JSON object: give one object a line"
        ) from None
    if not isinstance(row, dict):
        raise _Problem(f"{name} is a JSON list: give one object a line (JSONL)")
    if column_of(list(row)) is None:
        raise _Problem(
            f"{name} has no column of text: it has {', '.join(map(repr, row))}; one of "
            f"{', '.join(COLUMNS)} is wanted"
        )
    return "jsonl"


def _plain(path: Path, head: bytes) -> str:
    """Return "csv" where the first line names a column of text, else "text"."""
    first = head.split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip()
    sign = "\t" if first.count("\t") > first.count(",") else ","
    names = [name.strip().strip('"') for name in first.split(sign)]
    table = path.name.lower().split(".")[1:2] in (["csv"], ["tsv"])
    if column_of(names) is not None and (table or len(names) > 1) and len(first) < 1000:
        return "csv"
    if table:
        raise _Problem(
            f"{path.name} has no column of text: its first line is {first[:60]!r}; one of "
            f"{', '.join(COLUMNS)} is wanted"
        )
    if len(head) == HEAD:  # the last character may be cut
        head = head[: head.rfind(b"\n") + 1] or head[:-1].rstrip(CONTINUED)[:-1]
    if decoded(head) is None:
        raise _Problem(f"{path.name} is in an encoding that is not known: save it as UTF-8")
    return "text"


def _licence(folder: Path) -> str:
    """Return the licence that the SOURCE.md of a folder states."""
    place = folder / "SOURCE.md"
    if place.is_file():
        found = re.search(r"^- Licence: (.+)$", place.read_text("utf-8", "replace"), re.M)
        if found:
            return found[1].strip()
    return NOT_STATED


def _licensed(found: list[Given], licences: Mapping[str, str]) -> list[Given]:
    """Fill in the licences that were named, and those that follow from the format."""
    known = [given.name for given in found]
    for name in licences:
        if name not in known:
            raise ConfigError(
                "E-CONFIG-230",
                f"--licence names the source '{name}', which is not given."
                f"{did_you_mean(name, known)}",
                fix=f"use one of: {', '.join(known)}",
            )
    filled = []
    for given in found:
        forms = {file.format for file in given.files}
        usual = LICENCES.get(next(iter(forms)), NOT_STATED) if len(forms) == 1 else NOT_STATED
        stated = licences.get(given.name) or (
            given.licence if given.licence != NOT_STATED else usual
        )
        filled.append(
            Given(name=given.name, files=given.files, licence=stated, skipped=given.skipped)
        )
    return filled
