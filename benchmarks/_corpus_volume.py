"""A corpus of very much text: peak memory of all processes of one build together, and its pace.

Documents are sentences of Austen's novels and of a Wikipedia excerpt in a random order, so that no
two are near duplicates, with a made-up word every so often: there are then as many different words
as so much real text would hold, which is what a tokenizer's trainer keeps in memory.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import contention, say

MEGABYTE = 10**6
DOCUMENT, PARAGRAPH = 4000, 600  # characters; each paragraph has one word that is in no other
SAMPLES = ("austen", "enwiki-excerpt")
LETTERS = "bcdfghjklmnpqrstvwxz"
INTERVAL = 0.5  # seconds between looks at the memory
NAMES = ("river", "garden", "window", "letter", "winter", "market", "tower", "king", "valley")
INVENTED = [f"The {a} of the {b} was seen by many, who told of it." for a in NAMES for b in NAMES]


def sentences() -> list[str]:
    """Return the sentences of the samples, of 40 to 400 characters."""
    from sapwood.config import home
    from sapwood.corpora.draft import Meter, Raw
    from sapwood.corpora.samples import pull
    from sapwood.corpora.sentences import sentence_starts
    from sapwood.corpora.wiki import extract, records

    austen, dump = (pull(name, home()) for name in SAMPLES)
    texts = [path.read_text(encoding="utf-8") for path in sorted(austen.glob("*.txt"))]
    for raw in records(dump / "enwiki-excerpt.xml.bz2", Meter()):
        if isinstance(raw, Raw):
            texts += [draft.text for draft in extract(raw) if hasattr(draft, "text")]
    found = []
    for text in texts:
        starts = [*sentence_starts(text).tolist(), len(text)]
        pieces = (text[a:b] for a, b in pairwise(starts))
        found += [" ".join(piece.split()) for piece in pieces]
    return [sentence for sentence in found if 40 <= len(sentence) <= 400]


def documents(size: int, known: Sequence[str]) -> Iterator[str]:
    """Yield documents of `size` bytes in all, of known sentences."""
    rng, number, written = random.Random(0), 0, 0
    while written < size:
        paragraphs: list[str] = []
        while sum(map(len, paragraphs)) < DOCUMENT:
            number += 1
            chosen = [made_up(number).capitalize() + " is another word."]
            while sum(map(len, chosen)) < PARAGRAPH:
                chosen.append(rng.choice(known))
            paragraphs.append(" ".join(chosen))
        text = "\n\n".join(paragraphs)
        written += len(text.encode())
        yield text


def made_up(number: int) -> str:
    """Return a word that no other number gives, from 1."""
    letters = ""
    while number:
        number, rest = divmod(number, len(LETTERS))
        letters += LETTERS[rest]
    return letters + "ing"


def volume(megabytes: float, about: dict[str, Any], folder: Path, *, smoke: bool) -> dict[str, Any]:
    """Build a corpus of so much text with the default number of workers; return the result."""
    known = INVENTED if smoke else sentences()
    source, out = folder / "text.jsonl.gz", folder / "corpus"
    written = size = 0
    with gzip.open(source, "wt", compresslevel=1, encoding="utf-8") as file:
        for text in documents(int(megabytes * MEGABYTE), known):
            written += 1
            size += len(text.encode())
            file.write(json.dumps({"text": text}) + "\n")
    say(f"{size / MEGABYTE:,.0f} MB of text in {written:,} documents")
    rules = "light" if smoke else "web"
    command = [sys.executable, "-m", "sapwood", "corpus", "build", str(source), "--rules", rules,
               "--languages", "en", "--out", str(out), "--json"]  # fmt: skip
    start = time.perf_counter()
    with contention(about):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watch = Watch(process.pid)
        printed = process.communicate()[0]
        watch.end()
    if process.returncode:
        raise SystemExit("the build failed")
    seconds, counts = time.perf_counter() - start, json.loads(printed)["counts"]
    return {
        "rows": [{"text_mb": size / MEGABYTE, "written": written, "seconds": seconds,
                  "peak_mb": watch.peak / MEGABYTE, "counts": counts}],
        "ratios": {"peak_memory_of_text": watch.peak / size,
                   "megabytes_a_second": size / MEGABYTE / seconds},
    }  # fmt: skip


class Watch:
    """Looks at what a process and its children hold in memory, shared pages counted once."""

    def __init__(self, root: int) -> None:
        self.root, self.peak = root, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(INTERVAL):
            self.peak = max(self.peak, sum(map(_held, _family(self.root))))


def _family(root: int) -> list[int]:
    """Return a process and all that it started."""
    found = [root]
    for process in found:
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except OSError:
                continue  # it ended meanwhile
    return found


def _held(process: int) -> int:
    """Return the bytes that a process holds, its share of what it shares."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
