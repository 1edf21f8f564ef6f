"""The sources as one stream of records, cut into pieces of fixed size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sapwood.corpora import FORMATS
from sapwood.corpora.cleaning import Piece, Record
from sapwood.corpora.draft import Drop, Format, Meter
from sapwood.corpora.settings import Settings
from sapwood.corpora.sources import Given, SourceFile
from sapwood.corpora.streams import Damaged
from sapwood.errors import DataError
from sapwood.registry import resolve

# A piece is what a kill loses and what a worker holds: some seconds of work, some megabytes.
RECORDS, BYTES = 256, 4 << 20


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How far the stream has come, for the person who waits; `damaged` files and how."""

    meter: Meter = field(default_factory=Meter)
    done: list[int] = field(default_factory=lambda: [0])
    damaged: list[str] = field(default_factory=list)

    def position(self) -> int:
        """Return the bytes read, as they lie on disk."""
        return self.done[0] + self.meter.position()


def pieces(
    given: Sequence[Given], settings: Settings, build: Path, reading: Reading
) -> Iterator[Piece]:
    """Yield all pieces, numbered from 0; the same for the same sources, whoever works on them.

    Raises DataError E-DATA-195 where a file is cut off, unless such are to be kept.
    """
    number, size = 0, 0
    waiting: list[Record] = []
    for source in given:
        for file in source.files:
            for record in _records(file, settings, reading, alone=len(source.files) == 1):
                waiting.append(record)
                size += 64 if isinstance(record.raw, Drop) else len(record.raw.data)
                if len(waiting) >= RECORDS or size >= BYTES:
                    yield Piece(
                        number=number, records=tuple(waiting), build=build, settings=settings
                    )
                    number, size, waiting = number + 1, 0, []
            reading.done[0] += file.bytes
            reading.meter.file = None
    if waiting:
        yield Piece(number=number, records=tuple(waiting), build=build, settings=settings)


def _records(
    file: SourceFile, settings: Settings, reading: Reading, *, alone: bool
) -> Iterator[Record]:
    form: Format = resolve("format", FORMATS, file.format)
    base = file.source if alone else f"{file.source}/{file.name}"
    count = 0
    try:
        for raw in form.records(file.path, reading.meter):
            count += 1
            yield Record(source=file.source, format=file.format, id=base + raw.id, raw=raw)
    except Damaged as damaged:
        if settings.damaged == "stop":
            raise DataError(
                "E-DATA-195",
                f"{file.path} {damaged}.",
                details=[f"{count:,} records were read before; what was finished is kept"],
                fix="fetch the file again and rerun, or pass --damaged keep to use what was read",
            ) from None
        reading.damaged.append(f"{file.source}/{file.name} {damaged} ({count:,} records read)")
