"""Nine tasks in English and Chinese, each from a file to a report by one command: the main job.

For each set `sapwood adapt` runs as its user would run it, with the same budget, and this table is
read from the reports it leaves: the cheap baseline, the best that prompting gave, the best that
trained, what was recommended and how far it is ahead of the baseline on the same test rows. Runs
are kept under --cache, where a second call goes on. Published figures are on the full data of each
set, which these cuts are not; sources stand beside them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments, contention, finish, machine, say, settle, shared_folder, versions

ENGLISH, CHINESE = "smollm2-135m", "gemma3-270m"


@dataclass(frozen=True, kw_only=True)
class Set:
    """One data set: its folder, its task, and what others published on all of it."""

    where: str
    task: str
    published: str = ""

    @property
    def name(self) -> str:
        """Return the folder's own name, which ends in its language."""
        return self.where.rpartition("/")[2]

    @property
    def base(self) -> str:
        """Return the base that reads its language."""
        return CHINESE if self.name.endswith("_zh") else ENGLISH


SETS = (
    Set(where="sentiment/sst2_en", task="classification",
        published="RoBERTa-base, LoRA 95.1 (67k rows; arXiv 2106.09685)"),
    Set(where="sentiment/chnsenticorp_zh", task="classification",
        published="BERT 95.0 (Chinese-BERT-wwm)"),
    Set(where="topic/agnews_en", task="classification", published="BERT-base about 94.5"),
    Set(where="topic/thucnews_titles_zh", task="classification",
        published="BERT 94.8 (180k rows)"),
    Set(where="intent/banking77_en", task="classification",
        published="10 rows a label: RoBERTa 84.3, ICDA 89.8"),
    Set(where="intent/smp2019_zh", task="classification"),
    Set(where="ner/conll2003_en", task="entities", published="BERT-base 92.4"),
    Set(where="ner/weibo_zh", task="entities", published="Ma et al. 2020 70.5"),
    Set(where="relation/semeval2010task8_en", task="pairs",
        published="R-BERT 89.3 macro F1 of 9 relations"),
    Set(where="relation/sanwen_zh", task="pairs", published="MG Lattice 65.6 F1"),
    Set(where="event/casie_en", task="events",
        published="UIE-large, triggers 69.3, arguments 61.3"),
    Set(where="event/duee1_dev_zh", task="events"),
    Set(where="dialogue/xdailydialog_en", task="dialogue"),
    Set(where="dialogue/xdailydialog_zh", task="dialogue"),
    Set(where="story/rocstories_en", task="story"),
    Set(where="story/tinychinesestories_zh", task="story"),
    Set(where="poetry/gutenberg_sonnets_en", task="poetry"),
    Set(where="poetry/quantangshi_zh", task="poetry"),
)  # fmt: skip
BASELINES = ("tf-idf", "dictionary", "n-gram", "majority")
PROMPTED = ("zero-shot", "few-shot")
# Neither prompted nor trained in the base: readouts on its frozen features.
FROZEN = ("probe", "knn")


def adapt(one: Set, out: Path, options: Any) -> dict[str, Any]:
    """Run the command and return its report with the seconds it took; {} where it failed."""
    report = out / "report.json"
    took = out.with_suffix(".seconds")
    if not report.is_file():
        data = options.data or shared_folder(one.where)
        command = [
            sys.executable, "-m", "sapwood", "adapt", str(data), "--task", one.task,
            "--model", options.model if options.smoke else one.base, "--budget", options.budget,
            "--limit", str(options.limit), "--out", str(out), "--lang", "en",
            *(["--encoder", "none"] if options.smoke else []),
        ]  # fmt: skip
        began = time.perf_counter()
        log = out.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as words:
            code = subprocess.run(command, stdout=words, stderr=words, check=False).returncode
        if code:
            say(f"{one.name}: failed with {code}, see {log}")
            return {}
        took.write_text(str(time.perf_counter() - began), encoding="utf-8")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found | {"seconds": float(took.read_text(encoding="utf-8"))}


def best(report: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the candidate of a kind that did best on development rows."""
    found = [
        c for c in report["candidates"]
        if c["status"] == "finished" and kind_of(c["name"]) == kind and c.get("dev")
    ]  # fmt: skip
    lower = report["metric"] == "bits_per_byte"
    return (min if lower else max)(found, key=lambda c: c["dev"]["value"], default=None)


def kind_of(name: str) -> str:
    """Return "baseline", "prompted", "frozen" or "trained".

    >>> [kind_of(n) for n in ("few-shot-16", "encoder-lora", "tf-idf", "knn-minilm-l6")]
    ['prompted', 'trained', 'baseline', 'frozen']
    """
    for kind, names in (("prompted", PROMPTED), ("frozen", FROZEN)):
        if name.startswith(names):
            return kind
    return "baseline" if name in BASELINES else "trained"


def row_of(one: Set, report: dict[str, Any]) -> dict[str, Any]:
    """Return one row of the table."""
    by_name = {c["name"]: c for c in report["candidates"]}
    chosen = by_name.get(report["recommended"] or "")
    baseline = next(
        (by_name[n] for n in BASELINES if n in by_name and by_name[n].get("test")), None
    )
    pair = (chosen and chosen["name"], baseline and baseline["name"])
    against = next(
        (c for c in report["comparisons"]
         if (c["candidate"], c["against"]) == pair and c["split"] == "test"),
        None,
    )  # fmt: skip
    kinds = {kind: best(report, kind) for kind in ("prompted", "frozen", "trained")}
    return {
        "set": one.name, "task": one.task, "metric": report["metric"],
        "recommended": chosen and chosen["name"], "test": chosen and chosen.get("test"),
        "baseline": baseline and {"name": baseline["name"], "test": baseline["test"]},
        "difference": against,
        **{kind: c and {"name": c["name"], "dev": c["dev"]["value"]} for kind, c in kinds.items()},
        "published": one.published, "seconds": report["seconds"], "verdict": report["verdict"],
    }  # fmt: skip


def shown(value: float, metric: str) -> str:
    """Return a score as the tables print it: percent, or bits a byte."""
    return f"{value:.3f}" if metric == "bits_per_byte" else f"{100 * value:.1f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    head = ("set", "metric", "baseline", "prompted (dev)", "frozen (dev)", "trained (dev)",
            "recommended, test (95 %)", "against the baseline", "published", "minutes")  # fmt: skip
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        metric = row["metric"]
        cells = [row["set"], metric.replace("_", " ")]
        base = row["baseline"]
        cells.append(f"{base['name']} {shown(base['test']['value'], metric)}" if base else "")
        for kind in ("prompted", "frozen", "trained"):
            one = row[kind]
            cells.append(f"{one['name']} {shown(one['dev'], metric)}" if one else "")
        test = row["test"]
        ends = f" ({shown(test['low'], metric)} to {shown(test['high'], metric)})" if test else ""
        cells.append(
            f"{row['recommended']} {shown(test['value'], metric)}{ends}" if test else "none"
        )
        cells.append(_difference(row))
        cells += [row["published"], f"{row['seconds'] / 60:.1f}"]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out) + "\n"


def _difference(row: dict[str, Any]) -> str:
    found = row["difference"]
    if found is None:
        return ""
    value, low, high = (found[key] for key in ("difference", "low", "high"))
    metric = row["metric"]
    return f"{shown(value, metric)} ({shown(low, metric)} to {shown(high, metric)})"


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    about = machine(options.threads)
    rows = []
    for one in [s for s in SETS if s.name in options.sets]:
        if not options.smoke and shared_folder(one.where) is None:
            say(f"{one.where} is not in the data folder of SAPWOOD_SHARED")
            continue
        with contention(about):
            report = adapt(one, options.cache / one.name, options)
        if report:
            rows.append(row_of(one, report))
            say(f"{one.name}: {report['verdict']}")
        if options.markdown:
            options.markdown.write_text(table(rows), encoding="utf-8")
    return {
        "claim": f"One command a set, {options.budget} and at most {options.limit} training rows "
        "each: baseline, prompting, frozen features and training beside one another",
        "machine": about, "versions": versions(), "rows": rows, "ratios": {},
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    names = [one.name for one in SETS]
    parser.add_argument("--sets", nargs="+", default=names, choices=names, metavar="SET")
    parser.add_argument("--budget", default="4m", help="of each run (default 4m)")
    parser.add_argument("--limit", type=int, default=1000, help="training rows (default 1000)")
    parser.add_argument("--cache", type=Path, help="finished runs")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--data", help="for the tests: read this instead")
    options = parser.parse_args()
    settle(options.threads)
    from sapwood.config import home

    if options.quick:
        options.budget, options.limit, options.sets = "60s", 200, options.sets[:2]
    options.cache = options.cache or home() / "benchmarks" / "nine-tasks"
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
