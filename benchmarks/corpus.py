"""Building corpora: documents a second and memory beside datatrove and wikiextractor; 10x input.

- `crawl`: one WARC file to text, language, Gopher's rules and near duplicates, by Sapwood with one
  worker and by datatrove with one task (trafilatura, GopherRepetitionFilter, GopherQualityFilter,
  MinHash in four stages), each in its own process. `--datatrove PYTHON` names an interpreter that
  has `datatrove[io,processing]`, `spacy` and `lxml_html_clean`.
- `dump`: one MediaWiki dump to text by Sapwood's own markup reader and by wikiextractor, with one
  process each. `--wikiextractor PYTHON` names an interpreter that has it (AGPL: it is only run).
- `growth`: the crawl once, then ten different crawls of its size: seconds and peak memory.

`--volume 1000` measures something else instead: a thousand megabytes of text, with two workers, and
the most memory that all of its processes held together.

A peer whose interpreter is not named is left out, with a message. Sources come from
`sapwood corpus pull` (debian-handbook, enwiki-excerpt), or from --warc and --dump.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _corpus_volume import made_up, volume
from common import arguments, contention, finish, machine, median, say, settle, versions

CLAIM = "corpora: documents a second and peak memory beside the peers; ten times the input"
REPEATS, QUICK_REPEATS, GROWTH = 3, 1, 10

# Each side runs as a program of its own, so that its peak memory is its own.
WATCH = (
    "import re, resource, sys, json, time\n"
    "start = time.perf_counter()\n"
    "{code}\n"
    "seconds = time.perf_counter() - start\n"
    # Not ru_maxrss, which a process takes over from the one that started it.
    "own = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    "children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
    "print(json.dumps({{'seconds': seconds, 'peak_mb': max(own, children) / 1024, **found}}))\n"
)
SAPWOOD = """
from pathlib import Path
from sapwood.corpora.build import Share, build
from sapwood.corpora.settings import Settings
from sapwood.corpora.sources import find_sources
source, out = sys.argv[1:3]
settings = Settings(languages=("en",), vocabulary=4096)
stages, last = {}, time.perf_counter()
events = build(find_sources([source]), Path(out), settings, Share(workers=1))
while True:
    try:
        event = next(events)
    except StopIteration as end:
        card = end.value
        break
    if event.kind == "end":
        stages[event.candidate] = time.perf_counter() - last
        last = time.perf_counter()
found = {"records": card["counts"]["records"], "documents": card["counts"]["documents"],
         "clean_seconds": stages["clean"] + stages["duplicates"]}
"""
DATATROVE = """
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
from datatrove.pipeline.dedup import MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.writers import JsonlWriter
source, out = sys.argv[1:3]
folder, name = source.rsplit("/", 1)
config = MinhashConfig(num_buckets=14, hashes_per_bucket=8)
def run(steps, tasks=1):
    run.number += 1  # its logs go into the working folder otherwise
    logs = f"{out}/logs/{run.number}"
    LocalPipelineExecutor(pipeline=steps, tasks=tasks, workers=1, logging_dir=logs).run()
run.number = 0
run([WarcReader(folder, glob_pattern=name), Trafilatura(), GopherRepetitionFilter(),
     GopherQualityFilter(), JsonlWriter(out + "/kept")])
run([JsonlReader(out + "/kept"), MinhashDedupSignature(out + "/signatures", config=config)])
run([MinhashDedupBuckets(out + "/signatures", out + "/buckets", config=config)], tasks=14)
run([MinhashDedupCluster(out + "/buckets", out + "/remove", config=config)])
run([JsonlReader(out + "/kept"), MinhashDedupFilter(out + "/remove"), JsonlWriter(out + "/last")])
import glob, gzip
lines = [line for path in glob.glob(out + "/last/*") for line in gzip.open(path)]
found = {"documents": len(lines)}
"""
OUR_DUMP = """
from pathlib import Path
from sapwood.corpora.draft import Meter, Raw
from sapwood.corpora.wiki import extract, records
texts = [d.text for raw in records(Path(sys.argv[1]), Meter()) if isinstance(raw, Raw)
         for d in extract(raw) if hasattr(d, "text")]
found = {"documents": len(texts), "characters": sum(map(len, texts))}
"""
WIKIEXTRACTOR = """
import glob, json as j, subprocess
subprocess.run([sys.executable, "-m", "wikiextractor.WikiExtractor", sys.argv[1], "-o", sys.argv[2],
                "--json", "--no-templates", "--processes", "1", "-q"], check=True)
rows = [j.loads(line) for path in glob.glob(sys.argv[2] + "/*/*") for line in open(path)]
texts = [row["text"] for row in rows if row["text"].strip()]
found = {"documents": len(texts), "characters": sum(map(len, texts))}
"""


def measured(python: str, code: str, source: Path, repeats: int) -> dict[str, Any]:
    """Return the medians of a side over runs in fresh processes and folders."""
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            call = [python, "-c", WATCH.format(code=code), str(source), f"{folder}/out"]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{python} failed:\n{done.stderr[-2000:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: median([run[name] for run in runs]) for name in runs[0]}


def grown(crawl: Path, folder: Path, times: int) -> Path:
    """Write a crawl of `times` as many pages, no two of them the same, and return it."""
    from sapwood.corpora.draft import Meter, Raw
    from sapwood.corpora.samples import warc_record
    from sapwood.corpora.web import records

    path = folder / f"grown-{times}.warc.gz"
    pages = [raw for raw in records(crawl, Meter()) if isinstance(raw, Raw)]
    with path.open("wb") as file:
        for turn in range(times):
            for number, raw in enumerate(pages):
                page = raw.data.replace(b" the ", f" the {_word(turn, number)} ".encode())
                url = f"https://example.org/{turn}/{number}"
                file.write(gzip.compress(warc_record(url, page), mtime=0))
    return path


def _word(turn: int, number: int) -> str:
    """Return a word of its own, so that no page is a near duplicate of another."""
    return made_up(turn * 7919 + number + 1)


def pulled(name: str, file: str, given: Path | None) -> Path:
    """Return the file that was given, else that of a sample."""
    if given is not None:
        return given
    from sapwood.config import home
    from sapwood.corpora.samples import pull

    return pull(name, home()) / file


def ready(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Return the crawl and the dump to work on."""
    if not options.smoke:
        crawl = pulled("debian-handbook", "debian-handbook.warc.gz", options.warc)
        return crawl, pulled("enwiki-excerpt", "enwiki-excerpt.xml.bz2", options.dump)
    from sapwood.corpora.samples import warc_record

    crawl, dump = folder / "tiny.warc.gz", folder / "tiny.xml"
    words = "The {} of the {} and a {} have {} that {} with {} in the {}. "
    pages = [
        "".join(words.format(*(_word(n, 40 * i + k) for k in range(7))) for i in range(12))
        for n in range(6)
    ]
    crawl.write_bytes(
        b"".join(
            gzip.compress(warc_record(f"https://example.org/{n}", f"<p>{page}</p>".encode()))
            for n, page in enumerate(pages)
        )
    )
    page = "<page><title>T{n}</title><ns>0</ns><revision><text>{text}</text></revision></page>"
    inside = "".join(page.format(n=n, text=text) for n, text in enumerate(pages))
    dump.write_text(f"<mediawiki>{inside}</mediawiki>")
    return crawl, dump


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what was measured of every side, a row each, and their ratios."""
    repeats = QUICK_REPEATS if options.quick or options.smoke else REPEATS
    crawl, dump = ready(options, folder)
    times = 2 if options.smoke else GROWTH
    sides = (
        ("crawl", "sapwood", sys.executable, SAPWOOD, crawl),
        ("crawl", "datatrove", options.datatrove, DATATROVE, crawl),
        ("dump", "sapwood", sys.executable, OUR_DUMP, dump),
        ("dump", "wikiextractor", options.wikiextractor, WIKIEXTRACTOR, dump),
        ("growth", "once", sys.executable, SAPWOOD, grown(crawl, folder, 1)),
        ("growth", f"{times} times", sys.executable, SAPWOOD, grown(crawl, folder, times)),
    )
    rows: list[dict[str, Any]] = []
    for task, side, python, code, source in sides:
        if not python:
            say(f"{side} left out: name an interpreter that has it with --{side} PYTHON")
            continue
        say(f"{task}: {side}")
        found = measured(python, code, source, 1 if "times" in side else repeats)
        rows.append({"task": task, "side": side, "source_bytes": source.stat().st_size, **found})
    by = {(row["task"], row["side"]): row for row in rows}
    ratios = {}
    for task, peer in (("crawl", "datatrove"), ("dump", "wikiextractor")):
        if (task, peer) in by:
            ours, theirs = by[task, "sapwood"], by[task, peer]
            ratios[f"{task}_speed_vs_{peer}"] = theirs["seconds"] / ours["seconds"]
            ratios[f"{task}_memory_vs_{peer}"] = theirs["peak_mb"] / ours["peak_mb"]
    once, many = by["growth", "once"], by["growth", f"{times} times"]
    ratios["growth_time"] = many["clean_seconds"] / once["clean_seconds"]
    ratios["growth_memory"] = many["peak_mb"] / once["peak_mb"]
    return {"rows": rows, "ratios": ratios}


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--datatrove", metavar="PYTHON", help="an interpreter with datatrove")
    parser.add_argument("--wikiextractor", metavar="PYTHON", help="one with wikiextractor")
    parser.add_argument("--warc", type=Path, help="a crawl  [default: debian-handbook]")
    parser.add_argument("--dump", type=Path, help="a MediaWiki dump  [default: enwiki-excerpt]")
    parser.add_argument("--volume", metavar="MEGABYTES", type=float, help="only this")
    options = parser.parse_args()
    settle(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    about, start = machine(options.threads), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if options.volume:
            result = volume(options.volume, about, Path(folder), smoke=options.smoke)
        else:
            with contention(about):
                result = compare(options, Path(folder))
    result = {"claim": CLAIM, "machine": about, "versions": versions(), **result}
    result["seconds"] = round(time.perf_counter() - start, 1)
    finish(result, compact=options.json)


if __name__ == "__main__":
    main()
