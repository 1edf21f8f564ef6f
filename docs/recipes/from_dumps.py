"""From raw sources to a report, in one command: about 13 minutes on two cores.

Books, a Wikipedia dump and a crawl become a corpus; a small net learns from it, beside an n-gram
model as the floor; the net is adapted to a task like any other base, and judged.

    pip install 'sapwood[corpora]'
    python docs/recipes/from_dumps.py --out from-dumps

A second run goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

SOURCES = ("austen", "enwiki-excerpt", "debian-handbook")  # books, a dump, a crawl


def sapwood(*words: object) -> str:
    """Run one command of Sapwood; its talk is seen, what it prints is returned."""
    line = ["sapwood", *map(str, words)]
    print("\n$ " + " ".join(line), file=sys.stderr)
    command = [sys.executable, "-m", *line]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def main() -> None:
    """Build, pretrain, compare, adapt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("from-dumps"))
    parser.add_argument("--model", default="decoder-mini", help="see sapwood pretrain --models")
    parser.add_argument("--pretrain", default="6m", metavar="TIME", help="time to learn from text")
    parser.add_argument("--adapt", default="4m", metavar="TIME", help="time for the task")
    parser.add_argument("--sources", nargs="+", help="your own, in place of the samples")
    parser.add_argument("--task", help="your own labelled data, in place of film reviews")
    options = parser.parse_args()
    out, data = options.out, options.task
    corpus, base, counted = out / "corpus", out / "base", out / "ngram"
    if not options.sources:
        for name in SOURCES:
            sapwood("corpus", "pull", name)
    sources = options.sources or SOURCES
    sapwood("corpus", "build", *sources, "--languages", "en", "--held", "5%",
            "--vocabulary", 4096, "--out", corpus)  # fmt: skip
    sapwood("pretrain", corpus, "--model", "ngram-5", "--out", counted)
    sapwood("pretrain", corpus, "--model", options.model, "--budget", options.pretrain,
            "--length", 512, "--out", base)  # fmt: skip
    print(sapwood("compare", counted, base, "--data", corpus))
    if data is None:
        data = json.loads(sapwood("data", "pull", "movie-reviews", "--json"))["folder"]
    print(sapwood("adapt", data, "--task", "classification", "--model", base, "--encoder", "none",
                  "--budget", options.adapt, "--out", out / "run"))  # fmt: skip
    print(f"The report: {out / 'run' / 'report.html'}; the corpus card: {corpus / 'README.md'}")


if __name__ == "__main__":
    main()
