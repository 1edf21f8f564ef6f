"""What the benchmarks share: settings of the process, real data, the machine, the report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
THREADS = 2
PEERS = ("sapwood", "torch", "transformers", "lm_eval", "peft", "accelerate", "numpy", "xllamacpp")
WAIT_POLICY = "PASSIVE"  # spinning threads starve each other as soon as anything else runs


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Texts with labels from one source; `train` and `dev` share no row."""

    source: str
    labels: tuple[str, ...]
    train: tuple[Any, ...]
    dev: tuple[Any, ...]


def settle(threads: int = THREADS) -> None:
    """Fix what must be equal for every side, before torch is imported."""
    assert "torch" not in sys.modules, "the OpenMP settings are read when torch is imported"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", WAIT_POLICY)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")


def arguments(about: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that every benchmark takes."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="at most 5 minutes on 2 cores")
    parser.add_argument("--json", action="store_true", help="the result on one line, not indented")
    parser.add_argument("--model", default="smollm2-135m", help="a base's name or folder")
    parser.add_argument("--threads", type=int, default=THREADS, help="for every side (default 2)")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)  # for the tests
    return parser


def say(words: str) -> None:
    """Talk to the person who waits."""
    print(words, file=sys.stderr, flush=True)


def require(*packages: str) -> None:
    """Leave with one sentence when a peer is not installed."""
    missing = []
    for name in packages:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        say(f"{', '.join(missing)} not installed; run: pip install -e '.[bench]'")
        raise SystemExit(2)


def shared_folder(inside: str) -> Path | None:
    """Return a data folder of SAPWOOD_SHARED (default: beside the repository), or None."""
    shared = Path(os.environ.get("SAPWOOD_SHARED") or ROOT.parent / "shared")
    folder = shared / "data" / inside
    return folder if (folder / "train.jsonl").is_file() else None


def wanted_folder(inside: str) -> Path:
    """Return a data folder of SAPWOOD_SHARED, or end the script with what is missing."""
    folder = shared_folder(inside)
    if folder is None:
        raise SystemExit(
            f"{inside} is not in the data folder of SAPWOOD_SHARED, by default {ROOT.parent}/shared"
        )
    return folder


def made_up(labels: Sequence[str]) -> Rows:
    """Return a few rows for the tests, which may have no data."""
    from sapwood.interfaces import Example

    # "t": the tests' tokenizer joins it with the space before, as real ones do with any letter.
    rows = [Example(text=f"this is {n}", label=labels[n % len(labels)]) for n in range(40)]
    return Rows(source="made up", labels=tuple(labels), train=tuple(rows), dev=tuple(rows))


def sentiment_rows(*, smoke: bool = False) -> Rows:
    """Return SST-2 where the shared data is, else the film reviews that Sapwood pulls."""
    if smoke:
        return made_up(("bad", "good"))
    from sapwood.config import home
    from sapwood.tasks.pull import pull
    from sapwood.tasks.readers import read_folder

    folder = shared_folder("sentiment/sst2_en")
    name = "sst2_en" if folder else "movie-reviews"
    tables = read_folder(folder or pull("movie-reviews", home()))
    train = tables["train"]
    dev = tables["dev" if "dev" in tables else "test"]
    return Rows(source=name, labels=train.labels, train=train.examples, dev=dev.examples)


def shuffled(examples: Sequence[Any], seed: int = 0) -> list[Any]:
    """Return the examples in an order drawn from `seed`."""
    order = list(examples)
    random.Random(seed).shuffle(order)
    return order


def machine(threads: int) -> dict[str, Any]:
    """Return what the timings depend on."""
    from sapwood.launch import processor

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": processor().model,
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 2**30, 1),
        "system": platform.platform(),
        "threads": threads,
        "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
        "load_average": [],
        "busy_elsewhere": [],
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that is compared."""
    found = {"python": platform.python_version()}
    for name in PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_jiffies() -> tuple[int, int]:
    """Return (busy, total) time of all cores in clock ticks, zeros where /proc is missing."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    except OSError:
        return 0, 0
    times = [int(field) for field in fields]
    return sum(times) - times[3] - times[4], sum(times)


@contextmanager
def contention(about: dict[str, Any]) -> Iterator[None]:
    """Note the load average, and the share of the cores that other processes took meanwhile."""
    busy, total = _cpu_jiffies()
    own = sum(os.times()[:4])
    yield
    now, end = _cpu_jiffies()
    mine = (sum(os.times()[:4]) - own) * os.sysconf("SC_CLK_TCK")
    about["load_average"].append(round(os.getloadavg()[0], 2))
    if end > total:
        about["busy_elsewhere"].append(round(max(0.0, (now - busy - mine) / (end - total)), 3))


def clock() -> tuple[float, float]:
    """Return (wall, this process's CPU) seconds; the second hardly feels a busy machine."""
    return time.perf_counter(), time.process_time()


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return (what `work` returns, wall seconds, CPU seconds of all threads)."""
    wall, cpu = clock()
    found = work()
    end, spent = clock()
    return found, end - wall, spent - cpu


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def finish(result: dict[str, Any], *, compact: bool) -> None:
    """Print the one JSON object; ratios once more for the reader of stderr."""
    for name, value in result["ratios"].items():
        say(f"{name}: {value:.2f}")
    print(json.dumps(result, indent=None if compact else 2), flush=True)
