"""`build`: sources in, a corpus folder out; a killed build goes on and ends in the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sapwood.corpora.card import write_card
from sapwood.corpora.cleaning import KEEP_OUT, Piece, clean, place
from sapwood.corpora.corpus import MAIN
from sapwood.corpora.gathering import Gathered, gather, shards, write_drops, write_shard
from sapwood.corpora.job import STATE, check_folder, clear, identity, locked, prepare
from sapwood.corpora.overlap import kept_out
from sapwood.corpora.packing import pack
from sapwood.corpora.reading import Reading, pieces
from sapwood.corpora.settings import Settings, check
from sapwood.corpora.shelf import read_object, read_rows, whole, write_object
from sapwood.corpora.sources import Given
from sapwood.corpora.tokenizing import adopt, opened, train, vocabulary_size
from sapwood.corpora.workers import each
from sapwood.errors import DataError
from sapwood.interfaces import Event

T = TypeVar("T")
Events = Generator[Event, None, T]


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which pieces this process cleans: those whose number is `rank` modulo `world`."""

    rank: int = 0
    world: int = 1
    workers: int = 1


def build(
    given: Sequence[Given], out: Path, settings: Settings, share: Share, *, fresh: bool = False
) -> Events[dict[str, Any]]:
    """Build a corpus in the folder `out`, saying how far it is; return its card.

    What is finished is found again, so that a build which was stopped anywhere goes on. With a
    share of several, this process cleans its pieces and returns {"pieces": n}: when all have, the
    build without a share does the rest. Raises what the sources, the settings or the folder give.
    """
    check(settings)
    check_folder(out)
    job = identity(given, settings)
    with locked(out, f"rank-{share.rank}-of-{share.world}"):
        state = out / STATE
        if prepare(out, job, fresh=fresh and share.world == 1):
            clear(out)
            yield Event(kind="note", note=f"{out} is finished already, of the same sources")
            return read_object(out / MAIN) or {}
        if settings.keep_out:
            _index(state, settings)
        reading = Reading()
        count = yield from _clean(given, settings, state, share, reading)
        if share.world > 1:
            return {"pieces": count}
        start = time.monotonic()
        yield Event(kind="progress", candidate="duplicates", note="comparing all documents")
        gathered = gather(state, count, settings)
        kept = int(gathered.found.kept.sum())
        if not kept:
            write_drops(gathered, out / "drops.jsonl.gz")
            raise _nothing_left(out, gathered)
        yield _end("duplicates", start, f"{len(gathered.found.kept) - kept:,} repeated")
        written = yield from _documents(gathered, out, share)
        tokenizer = yield from _tokenizer(written, out, settings)
        packed = yield from _packed(out, len(written), tokenizer["vocabulary"], share)
        drops = write_drops(gathered, out / "drops.jsonl.gz")
        made = {"written": written, "tokenizer": tokenizer, "packed": packed, "drops": drops}
        card = write_card(out, given, job, {**made, "damaged": list(reading.damaged)})
        clear(out)
    return card


def _end(name: str, start: float, words: str) -> Event:
    return Event(kind="end", candidate=name, note=f"{words} in {time.monotonic() - start:.1f} s")


def _index(state: Path, settings: Settings) -> None:
    """Write the n-grams of the evaluation texts where every worker finds them."""
    path = state / KEEP_OUT
    if not path.is_file():
        found = kept_out(settings.keep_out)
        if not found:
            raise DataError(
                "E-DATA-191", "The files of --keep-out hold no text of 8 words or more",
                fix="give the evaluation texts, one row or line each",
            )  # fmt: skip
        with whole(path) as file:
            np.savez(file, **found)  # type: ignore[arg-type,unused-ignore]


def _clean(
    given: Sequence[Given], settings: Settings, state: Path, share: Share, reading: Reading
) -> Events[int]:
    """Clean all pieces that are this process's and not yet done; return how many there are."""
    total = sum(file.bytes for source in given for file in source.files)
    start, done, seen = time.monotonic(), 0, [0]

    def tasks() -> Iterator[Piece]:
        for piece in pieces(given, settings, state, reading):
            seen[0] += 1
            mine = piece.number % share.world == share.rank
            if mine and not place(state, piece.number).is_file():
                yield piece

    documents = 0
    for number in each(clean, tasks(), share.workers):
        done += 1
        documents += len((read_object(place(state, number)) or {}).get("kept", ()))
        seconds = time.monotonic() - start
        rate = f"{documents / max(seconds, 1e-9):,.0f} documents/s"
        at = min(reading.position(), total)
        yield Event(kind="progress", candidate="clean (kB)", done=at // 1000,
                    total=max(1, total // 1000), note=rate)  # fmt: skip
    found = f"{seen[0]:,} pieces" + (f", {seen[0] - done:,} from before" if done < seen[0] else "")
    yield _end("clean", start, f"{total / 1e6:,.1f} MB, {documents:,} documents, {found}")
    return seen[0]


def _nothing_left(out: Path, gathered: Gathered) -> DataError:
    found = write_drops(gathered, out / "drops.jsonl.gz")
    reasons = [
        f"{count:,}: {reason} ({step})"
        for step, by_reason in found["by_step"].items()
        for reason, count in by_reason.items()
    ]
    return DataError(
        "E-DATA-197", "No document is left of these sources",
        details=reasons or ["the sources hold no document"],
        fix=f"looser --rules or --languages; {out / 'drops.jsonl.gz'} lists every document with "
        "its reason",
    )  # fmt: skip


def _shown(name: str, results: Iterable[T], total: int) -> Events[list[T]]:
    """Collect results, showing how many there are."""
    start, found = time.monotonic(), []
    for result in results:
        found.append(result)
        yield Event(kind="progress", candidate=name, done=len(found), total=total)
    yield _end(name, start, f"{total:,} shards" if total != 1 else "1 shard")
    return found


def _documents(gathered: Gathered, out: Path, share: Share) -> Events[list[dict[str, Any]]]:
    cut = list(shards(gathered, out))
    return (yield from _shown("documents", each(write_shard, cut, share.workers), len(cut)))


def _tokenizer(
    written: Sequence[dict[str, Any]], out: Path, settings: Settings
) -> Events[dict[str, Any]]:
    """Train or adopt the tokenizer; return its kind, size and hash."""
    marker = out / STATE / "tokenizer.json"
    known = read_object(marker)
    if known is not None:
        return known
    start = time.monotonic()
    yield Event(kind="progress", candidate="tokenizer", note=settings.tokenizer)
    folder = out / "tokenizer"
    if settings.trains:
        size = sum(shard["sizes"].get("part train", 0) for shard in written)
        part = min(1.0, settings.tokenizer_bytes / max(1, size))
        texts = _texts(out, len(written), part)
        vocabulary = train(
            settings.tokenizer, texts, settings.vocabulary, settings.sentinels, folder
        )
        made: dict[str, Any] = {"kind": settings.tokenizer, "share": round(part, 4)}
    else:
        vocabulary = adopt(Path(settings.tokenizer), folder)
        made = {"kind": "adopted", "share": 0.0}
    made["vocabulary"] = max(vocabulary, vocabulary_size(opened(folder)))
    write_object(marker, made)
    yield _end("tokenizer", start, f"{made['kind']}, {made['vocabulary']:,} tokens")
    return made


def _texts(out: Path, count: int, part: float) -> Callable[[], Iterator[str]]:
    """Return a maker of the training texts, of evenly spread documents where `part` is below 1."""

    def texts() -> Iterator[str]:
        waiting = 0.0
        for number in range(count):
            for row in read_rows(out / "documents" / f"{number:05d}.jsonl.gz"):
                if row["part"] != "train":
                    continue
                waiting += part
                if waiting >= 1.0:
                    waiting -= 1.0
                    yield row["text"]

    return texts


@dataclass(frozen=True, kw_only=True)
class _Packing:
    """Shard `number`, to be packed with a vocabulary of `width`."""

    number: int
    out: Path
    width: int


def _pack(task: _Packing) -> dict[str, Any]:
    marker = task.out / STATE / "tokens" / f"{task.number:05d}.json"
    known = read_object(marker)
    if known is None:
        known = pack(task.out, task.number, task.width)
        write_object(marker, known)
    return known


def _packed(out: Path, count: int, width: int, share: Share) -> Events[list[dict[str, Any]]]:
    tasks = [_Packing(number=number, out=out, width=width) for number in range(count)]
    return (yield from _shown("tokens", each(_pack, tasks, share.workers), count))
