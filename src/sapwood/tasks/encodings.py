"""What bytes a data file holds: its kind, its encoding and its hash, in one pass."""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass
from pathlib import Path

from sapwood.errors import DataError

BLOCK = 1 << 20
BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "save it as CSV (UTF-8) first"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save it as CSV (UTF-8) first"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: zstd -d FILE"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2 FILE"),
    (b"%PDF", "a PDF document", "export its table as CSV"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"ARROW1", "an Arrow file", "save it as Parquet or JSONL"),
    (b"\x89PNG", "a picture", "give a file of texts and labels"),
)
# Share of decoded two-byte characters that must lie in GB 2312, the zone of everyday Chinese,
# before bytes that are not UTF-8 are believed to be GB 18030. Real Chinese scores above 0.98;
# Western European bytes read as GB 18030 land outside that zone almost always.
EVERYDAY = 0.9


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a file holds: `encoding` is None for Parquet; `sha256` has 64 hexadecimal digits."""

    encoding: str | None
    sha256: str
    size: int
    note: str = ""


def inspect(path: Path) -> Content:
    """Hash a file and find its encoding: UTF-8, UTF-16/32 by mark, else GB 18030 if Chinese.

    Raises DataError: E-DATA-002 not a text file, E-DATA-003 an encoding that is not known.
    """
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    fault: UnicodeDecodeError | None = None
    head, size, fault_at = b"", 0, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            head = head or block
            digest.update(block)
            if fault is None:
                pending = len(decoder.getstate()[0])
                try:
                    decoder.decode(block)
                except UnicodeDecodeError as error:
                    fault, fault_at = error, size - pending + error.start
            size += len(block)
    sha256 = digest.hexdigest()
    if head.startswith(b"PAR1"):
        return Content(encoding=None, sha256=sha256, size=size)
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return Content(encoding=encoding, sha256=sha256, size=size)
    _refuse_binary(path, head[: 1 << 16])
    if fault is None and decoder.getstate()[0]:
        fault, fault_at = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "cut off"), size - 1
    if fault is None:
        return Content(encoding="utf-8", sha256=sha256, size=size)
    if _is_chinese(path):
        note = "read as GB 18030 (Chinese), since the bytes are not UTF-8"
        return Content(encoding="gb18030", sha256=sha256, size=size, note=note)
    raise _unknown(path, fault_at)


def _refuse_binary(path: Path, head: bytes) -> None:
    for start, kind, fix in SIGNATURES:
        if head.startswith(start):
            raise DataError(
                "E-DATA-002",
                f"{path.name} is {kind}, not a file of rows",
                fix=fix.replace("FILE", path.name),
            )
    nuls = head.count(0)
    if nuls * 10 > len(head) * 3:
        raise DataError(
            "E-DATA-002",
            f"{path.name} looks like UTF-16 without its byte order mark",
            fix=f"iconv -f utf-16le -t utf-8 {path.name} > utf8-{path.name}",
        )
    control = sum(head.count(c) for c in range(32) if c not in (8, 9, 10, 12, 13, 27))
    if control * 50 > len(head):
        raise DataError(
            "E-DATA-002",
            f"{path.name} is a binary file, not a file of rows",
            details=[f"{control} control bytes in its first {len(head)}"],
            fix="give CSV, TSV, JSONL, JSON or Parquet",
        )


def _is_chinese(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("gb18030")()
    everyday = wide = 0
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError:
                return False
            foreign = [char for char in text if ord(char) > 127]
            wide += len(foreign)
            everyday += len("".join(foreign).encode("gb2312", "ignore")) // 2
            if not block:
                return wide > 0 and everyday >= EVERYDAY * wide


def _unknown(path: Path, fault_at: int) -> DataError:
    with path.open("rb") as file:
        before = file.read(fault_at)
        byte = file.read(1)
    line = before.count(b"\n") + 1
    column = fault_at - (before.rfind(b"\n") + 1) + 1
    shown = f"byte 0x{byte.hex().upper()}" if byte else "a character cut off by the end"
    return DataError(
        "E-DATA-003",
        f"{path.name}:{line}:{column} is not UTF-8 ({shown}), nor Chinese in GB 18030",
        details=["the encoding cannot be guessed safely, so nothing was read"],
        fix=f"iconv -f windows-1252 -t utf-8 {path.name} > utf8-{path.name}"
        "   (or -f big5, -f shift_jis)",
    )
