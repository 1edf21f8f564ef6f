"""Does what a net learns from text reach a task? Probes on frozen features, before and after.

Each net is trained by its objective for the same steps, and once not at all (one step at a rate
that changes nothing). A linear probe, one of `adapt`'s candidates, reads the frozen features of
each, on the same rows, and `sapwood compare` puts the two side by side on the same test rows.
Runs stay under --cache: the same call goes on there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import arguments, contention, finish, machine, say, settle, versions, wanted_folder

ARMS = (
    ("bert-mini", "mlm"), ("bert-mini", "nsp"), ("bert-mini", "mlm+nsp"), ("xlnet-mini", "plm"),
    ("decoder-mini", "clm"),
)  # fmt: skip
SMOKE = (("bert-tiny", "mlm"),)
STILL = 1e-12  # a learning rate that moves no weight by as much as its last digit


def sapwood(*words: object) -> Any:
    """Run one command and return the JSON object it prints."""
    command = [sys.executable, "-m", "sapwood", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def probe(data: str, base: Path, out: Path, limit: int) -> None:
    """Judge a probe on the frozen features of a base, as `adapt` does among its candidates."""
    from sapwood.launch import choose_runtime
    from sapwood.report import model_card
    from sapwood.search.adapt import adapt
    from sapwood.search.job import Job

    job = Job(data=data, out=out, model=str(base), seconds=900.0, limit=limit, only=("probe",))
    for _ in adapt(job, choose_runtime(), card=model_card):
        pass


def probed(net: str, objective: str, steps: int, options: Any) -> Any:
    """Return the run of a probe on a net after so many steps, 0 for none."""
    place = options.cache / f"{net}-{objective}-{steps}".replace("+", "-")
    more = ["--learning-rate", STILL] if not steps else []
    more += ["--batch-size", options.batch_size] if options.batch_size else []
    if not (place / "base" / "pretraining.json").is_file():
        sapwood("pretrain", options.corpus, "--model", net, "--objective", objective, "--steps",
                steps or 1, "--length", options.length, "--out", place / "base", *more)  # fmt: skip
    run = place / "run"
    if not (run / "report.json").is_file():
        data = options.data or wanted_folder("topic/agnews_en")
        probe(str(data), place / "base", run, options.limit)
    return run


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    about = machine(options.threads)
    rows = []
    arms = [arm for arm in ARMS if not options.objectives or arm[1] in options.objectives]
    for net, objective in SMOKE if options.smoke else arms:
        with contention(about):
            start, after = (probed(net, objective, n, options) for n in (0, options.steps))
        runs = sapwood("compare", start, after)
        rows.append({"net": net, "objective": objective, "steps": options.steps, **read(runs)})
        say(f"{net} {objective}: {rows[-1]['random']['value']:.3f} at its random start, "
            f"{rows[-1]['trained']['value']:.3f} after {options.steps} steps")  # fmt: skip
    return {
        "claim": "accuracy of a linear probe on frozen features after pretraining, and on the same "
        "net at its random start; paired difference on the same test rows, 95 %",
        "machine": about, "versions": versions(), "rows": rows,
        "ratios": {f"{r['net']} {r['objective']}": r["trained"]["value"] / r["random"]["value"]
                   for r in rows},
    }  # fmt: skip


def read(compared: dict[str, Any]) -> dict[str, Any]:
    """Return both scores and their paired difference from what `compare` printed."""
    start, after = (each["test"] for each in compared["runs"])
    if not (start and after and compared["differences"]):
        raise SystemExit("a probe did not finish: see the reasons in the run folders under --cache")
    (difference,) = compared["differences"]
    keys = ("value", "low", "high")
    return {
        "random": {key: start[key] for key in keys},
        "trained": {key: after[key] for key in keys},
        "difference": {key: difference[key] for key in ("difference", "low", "high")},
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--corpus", type=Path, help="a folder of `sapwood corpus build`")
    parser.add_argument("--steps", type=int, default=600, help="of every net (default 600)")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row (default 128)")
    parser.add_argument("--batch-size", type=int, help="rows a step (default: that of pretrain)")
    parser.add_argument("--objectives", nargs="+", help="only these (default: all)")
    parser.add_argument("--limit", type=int, default=1000, help="training rows (default 1000)")
    parser.add_argument("--data", help="a task in place of AG News")
    parser.add_argument("--cache", type=Path, help="finished runs")
    options = parser.parse_args()
    settle(options.threads)
    from sapwood.config import home

    if options.quick:
        options.steps = 100
    options.cache = options.cache or home() / "benchmarks" / "probes"
    if options.smoke:
        from sapwood.testing.corpora import tiny_corpus

        options.steps, options.length = 2, 32
        options.corpus = tiny_corpus(options.cache / "corpus", count=40, held=8)
    if options.corpus is None:
        raise SystemExit("--corpus is missing: the folder of a corpus to learn from")
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
