"""Open what may be compressed, in bounded memory, and decode what may be text."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sapwood.corpora.draft import LARGEST_RECORD, Meter, missing_package

HEAD = 1 << 16  # bytes by which a format is told
BLOCK = 1 << 20
# A file that grows more than this many times over is no text: natural language shrinks 3 to 8
# times, tables and logs up to 50. Below the first bytes there is nothing to protect.
MOST_GROWTH, HARMLESS = 200, 64 << 20
WINDOW = 1 << 27  # bytes: the largest zstd window that `zstd` itself opens without being asked
MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
# The share of replaced characters up to which a broken text is still worth having.
BROKEN = 0.001
LINE_ENDS = b"\r\n"


class Damaged(Exception):
    """A file that ends too early or unpacks to nonsense; says how in one clause."""


class Guarded(io.RawIOBase):
    """A decompressed stream that refuses to grow without bound and tells damage by one name."""

    def __init__(self, inner: Any, raw: IO[bytes], kind: str) -> None:
        self.inner, self.raw, self.kind = inner, raw, kind
        self.given = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the bytes given so far."""
        return self.given

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; return the bytes written, 0 at the end. Raises Damaged."""
        # What is ready, not more: where the data are cut off, all before the cut has been given.
        with damage(self.kind):
            block = self.inner.read1(min(len(buffer), BLOCK))
        self.given += len(block)
        if self.given > HARMLESS and self.given > MOST_GROWTH * max(1, self.raw.tell()):
            raise Damaged(
                f"unpacks to more than {MOST_GROWTH} times its size, which no text does "
                f"(stopped at {self.given >> 20:,} MiB)"
            )
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        """Close both streams."""
        if not self.closed:
            self.inner.close()
            self.raw.close()
        super().close()


@contextmanager
def damage(kind: str) -> Iterator[None]:
    """Turn a decompressor's complaints into Damaged."""
    try:
        yield
    except EOFError:
        raise Damaged(f"ends too early: the {kind} data are cut off") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, ValueError) as error:
        raise Damaged(f"is damaged: {kind} says {error}") from None
    except OSError as error:
        if error.errno is not None:  # the disk's own faults are not the file's
            raise
        raise Damaged(f"is damaged: {kind} says {error}") from None


def compression(path: Path) -> str:
    """Return "gzip", "bzip2", "xz", "zstd" or "" by the first bytes."""
    with path.open("rb") as file:
        head = file.read(8)
    return next((kind for magic, kind in MAGIC if head.startswith(magic)), "")


def opened(path: Path, meter: Meter | None = None) -> io.BufferedReader:
    """Open a file for reading, decompressed whatever its name says; `meter` then follows it.

    Reading raises Damaged where the data end too early or grow without bound.
    """
    kind = compression(path)
    raw = path.open("rb")
    if meter is not None:
        meter.file = raw
    if not kind:
        return raw
    openers: dict[str, Callable[[IO[bytes]], Any]] = {
        "gzip": lambda file: gzip.GzipFile(fileobj=file),
        "bzip2": bz2.BZ2File,
        "xz": lzma.LZMAFile,
        "zstd": _zstd,
    }
    inner = openers[kind](raw)
    return io.BufferedReader(Guarded(inner, raw, kind), BLOCK)


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise missing_package("zstandard", "A .zst file") from None

    return io.BufferedReader(_Frames(raw, zstandard), BLOCK)


class _Frames(io.RawIOBase):
    """A zstd stream of any number of frames; an end inside one is an error (see `_zstd`).

    The library's own reader takes a cut file for a whole one. Input goes in by the kilobyte: that
    bounds what one call may return, since a block of 128 KiB can be written in 4 bytes.
    """

    def __init__(self, raw: IO[bytes], zstandard: Any) -> None:
        self.raw, self.zstandard = raw, zstandard
        self.frames = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self.frame: Any = None
        self.ready, self.rest = b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            block = self.rest or self.raw.read(1 << 10)
            if not block:
                if self.frame is not None:
                    raise EOFError
                return 0
            self.frame = self.frame or self.frames.decompressobj()
            try:
                self.ready = self.frame.decompress(block)
            except self.zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
            self.rest = self.frame.unused_data if self.frame.eof else b""
            self.frame = None if self.frame.eof else self.frame
        count = min(len(buffer), len(self.ready))
        buffer[:count], self.ready = self.ready[:count], self.ready[count:]
        return count


def head_of(path: Path) -> bytes:
    """Return the first 64 KiB, decompressed; what there is of them where the file is cut off."""
    head = b""
    with opened(path) as file:
        try:
            while len(head) < HEAD and (block := file.read1(HEAD - len(head))):
                head += block
        except Damaged:
            if not head:
                raise
    return head


def lines_of(
    path: Path, meter: Meter | None = None, largest: int = LARGEST_RECORD
) -> Iterator[bytes | None]:
    """Yield lines without their ends; None stands for one longer than `largest` bytes."""
    with opened(path, meter) as file:
        while line := file.readline(largest + 1):
            if len(line) <= largest or line.endswith(b"\n"):
                yield line.rstrip(LINE_ENDS)
                continue
            yield None
            while line and not line.endswith(b"\n"):
                line = file.readline(BLOCK)


def decoded(data: bytes, named: str | None = None) -> str | None:
    """Return bytes as text, or None where no encoding fits.

    Tried in order: a byte order mark, UTF-8, the encoding that the source names, the one that a
    detector finds; last UTF-8 with at most one in a thousand characters replaced.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        named = "utf-16"
    for encoding in ("utf-8-sig", named):
        if encoding is not None:
            try:
                return data.decode(encoding)
            except (UnicodeDecodeError, LookupError):
                continue
    text = data.decode("utf-8", "replace")
    if text.count("\ufffd") <= BROKEN * len(text):
        return text
    try:
        from resiliparse.parse.encoding import detect_encoding

        return data.decode(detect_encoding(data[:HEAD]) or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return None
    except ImportError:
        raise missing_package("resiliparse", "A text that is not UTF-8") from None
