"""Accuracy in context: scorer x bias x number of demonstrations, on English and Chinese sets.

Stage 1 collects raw label scores into a cache, one file a cell, so that it may be stopped and
started again; stage 2 fits every bias on them and reports. `--report` does the second alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _icl_cells import (
    FOLDERS,
    Cell,
    Size,
    collect,
    draw,
    grid,
    load,
    score_channel,
    score_direct,
    score_features,
    score_generated,
)
from _icl_words import PUBLISHED, markdown, placed
from common import arguments, contention, finish, machine, say, settle, versions

BASES = ("gemma3-270m", "smollm2-135m")
SCORERS = {
    "direct": score_direct, "features": score_features, "generated": score_generated,
    "channel": score_channel,
}  # fmt: skip
QUICK = Size(queries=60, bias_rows=48, domain=8)
SMOKE = Size(queries=8, bias_rows=8, domain=3, tokens=6)
TIMED_ONLY = 4  # test rows of a channel that is priced out, see `_icl_cells.CHANNEL`


class Work:
    """Scores cells, holding one base at a time."""

    def __init__(self, size: Size, *, smoke: bool) -> None:
        from sapwood.launch import choose_runtime

        self.size, self.smoke = size, smoke
        self.runtime = choose_runtime("cpu", "float32" if smoke else "auto")
        self._loaded: dict[str, Any] = {}
        say(self.runtime.describe())

    def sides(self, base: str) -> Any:
        """Return (decoder, tokenizer) of `base`."""
        if base not in self._loaded:
            self._loaded[base] = load(base, self.runtime)
        return self._loaded[base]

    def __call__(self, cell: Cell) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (arrays, about) of one cell."""
        size = self.size.of(cell)
        rows = draw(cell, size, smoke=self.smoke)
        score = SCORERS[cell.scorer if cell.part == "scores" else cell.part]
        arrays = score(cell, rows, size, self.sides(cell.base))
        return arrays, {"runtime": self.runtime.describe(), "versions": versions()}


def report(folder: Path, cells: list[Cell], about: dict[str, Any]) -> dict[str, Any]:
    """Return the result from whatever cells have a file."""
    from _icl_grid import compared, seeds_of, table

    found = seeds_of(folder, cells)
    rows, right = table(found)
    abouts = [arrays["about"] for several in found.values() for arrays in several]
    # A set whose channel is only timed says nothing of accuracy.
    telling = {key: hits for key, hits in right.items() if hits.shape[1] > TIMED_ONLY}
    return {
        "claim": (
            "Accuracy of a frozen base by scorer, bias and number of demonstrations: mean and "
            "worst over draws of demonstrations and of labelled rows, 95 % intervals from draws "
            "of seeds and of queries; differences are paired. Milliseconds are of the scoring "
            "process alone and were taken while other work ran: no claim rests on them"
        ),
        "machine": about,
        "versions": versions(),
        "collected": {
            "runtime": sorted({about["runtime"] for about in abouts}),
            "sapwood": sorted({about["versions"]["sapwood"] for about in abouts}),
            "hours": round(sum(about["seconds"] for about in abouts) / 3600, 2),
        },
        "rows": rows,
        "summary": compared(telling),
        "published": PUBLISHED,
        "missing": [cell.path(folder).name for cell in cells if not cell.path(folder).is_file()],
        "ratios": {},
    }


def main() -> None:
    """Collect, then report."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cache", type=Path, help="where raw scores are kept")
    parser.add_argument("--sets", nargs="+", default=list(FOLDERS), choices=list(FOLDERS))
    parser.add_argument("--bases", nargs="+", help=f"default: {' '.join(BASES)}")
    parser.add_argument("--scorers", nargs="+", default=list(SCORERS), choices=list(SCORERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=Size.queries)
    parser.add_argument("--report", action="store_true", help="score nothing more")
    parser.add_argument(
        "--markdown", type=Path, help="also write the tables to this file, or between its marks"
    )
    options = parser.parse_args()
    settle(options.threads)
    from sapwood.config import home
    from sapwood.files import write_text
    from sapwood.launch import raise_malloc_thresholds

    raise_malloc_thresholds()
    folder = options.cache or home() / "benchmarks" / "icl_table"
    if options.quick or options.smoke:
        options.sets, options.seeds = ["sst2_en"], 2
        options.bases = options.bases or [options.model]
        folder /= "smoke" if options.smoke else "quick"
    size = SMOKE if options.smoke else QUICK if options.quick else Size(queries=options.queries)
    cells = [
        cell
        for scorer in options.scorers
        for cell in grid(options.sets, options.bases or BASES, options.seeds, scorer)
    ]
    about = machine(options.threads)
    with contention(about):
        if not options.report:
            for line in collect(cells, folder, Work(size, smoke=options.smoke)):
                say(line)
    result = report(folder, cells, about)
    if options.markdown:
        old = options.markdown.read_text(encoding="utf-8") if options.markdown.is_file() else ""
        write_text(options.markdown, placed(markdown(result), old))
    finish(result, compact=options.json)


if __name__ == "__main__":
    main()
