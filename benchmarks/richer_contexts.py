"""Facts from a knowledge graph, and demonstrations in another language: do they help a small base?

Two parts. `graph`: true-or-false statements and relations between two entities of UMLS's held-out
triples, with facts from the train triples around them, beside random facts and none. `languages`:
Chinese reviews under English demonstrations, with label words in either language, a task aligner,
or demonstrations chosen by embedding, beside Chinese demonstrations. Accuracies are means over
seeds with 95 % intervals over queries. With --keep the raw answers are written as they come and a
run that was cut short goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import arguments, contention, finish, machine, say, settle, versions

MODELS = {"graph": "smollm2-135m", "languages": "gemma3-270m"}


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    import _richer_graph
    import _richer_languages
    from _richer_arms import QUICK, SMOKE, Kept, Size, load

    from sapwood.launch import raise_malloc_thresholds

    size = SMOKE if options.smoke else QUICK if options.quick else Size()
    if options.seeds:
        size = Size(**{**size.__dict__, "seeds": options.seeds})
    about = machine(options.threads) | {"malloc_thresholds_raised": raise_malloc_thresholds()}
    kept = Kept(path=Path(options.keep) if options.keep else None)
    rows: list[dict[str, Any]] = []
    compared: dict[str, Any] = {}
    parts = {"graph": _richer_graph.measure, "languages": _richer_languages.measure}
    for name, measure in parts.items():
        if options.part not in ("all", name):
            continue
        model = options.model or MODELS[name]
        say(f"{name}: {model}")
        with contention(about):
            found, differences = measure(load(model, size), kept, options.smoke)
        rows += [{"model": model, **row} for row in found]
        compared |= differences
    values = {f"{row['part']} / {row['arm']}": row for row in rows if "labels" in row}
    ratios = {
        f"error, {task}: facts / none": _error(values, task, "demonstrations + facts of each")
        / _error(values, task, "demonstrations")
        for task in ("graph: statement", "graph: relation")
        if f"{task} / demonstrations" in values
    }
    return {
        "claim": (
            "Accuracy under contexts with facts or of two languages, calibrated on "
            f"{size.fitted} labelled rows ('labels'), on the unlabelled queries ('batch') or not; "
            "the ratios are those of errors ('labels'), below 1 where facts help"
        ),
        "machine": about,
        "versions": versions(),
        "rows": rows,
        "differences": compared,
        "ratios": ratios,
    }


def _error(rows: dict[str, Any], task: str, arm: str) -> float:
    return max(1e-9, 1.0 - float(rows[f"{task} / {arm}"]["labels"]["value"]))


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.set_defaults(model=None)
    parser.add_argument("--part", choices=("all", *MODELS), default="all")
    parser.add_argument("--seeds", type=int, default=0, help="draws of demonstrations (default 3)")
    parser.add_argument("--keep", help="a JSON file that raw answers are added to and read from")
    options = parser.parse_args()
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
