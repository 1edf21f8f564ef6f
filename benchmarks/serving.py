"""Many adaptations served from one base: throughput, latencies under load, memory, a soak drill.

Rows of eight prompts of 64 tokens and 48 tokens of answer each, greedily, LoRA of rank 8 on all
linear layers. The base alone, eight adaptations in one batch, and the same eight one after the
other take turns in one process; so do the peers: PEFT with switched adapters and in a mixed batch,
`transformers serve` and llama.cpp's server (base only, and a LoRA a request), each on the same
weights. Answers are compared with the pool's before anything is said of speed. `--soak MINUTES`
runs the drill alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _serving_first import cold_row, context_row, memory_row
from _serving_load import load_rows
from _serving_sides import (
    ROWS,
    Work,
    drawn,
    in_turn,
    open_one,
    paired,
    prompts_of,
    together,
    warm,
    write_loras,
)
from _serving_soak import Drill, soak_row
from _serving_versus import peer_rows
from common import (
    arguments,
    contention,
    finish,
    machine,
    median,
    require,
    say,
    settle,
    timed,
    versions,
)

PARTS = ("memory", "throughput", "peers", "first", "load")
RANK, ALPHA = 8, 16.0
RESIDENT = 16


@dataclass(frozen=True, kw_only=True)
class Size:
    """Tokens of prompts, answers and contexts; adaptations registered; seconds of load; repeats.

    `table` and `peers`: repeats of the table and of the peers.
    """

    prompt: int = 64
    tokens: int = 48
    context: int = 500
    registered: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    seconds: float = 60.0
    repeats: int = 5
    table: int = 3
    peers: int = 3


QUICK = Size(registered=(8, 64), seconds=15.0, repeats=2, table=1, peers=1)
SMOKE = Size(
    prompt=8, tokens=4, context=40, registered=(1, 9), seconds=0.5, repeats=1, table=1, peers=1
)


def prepare(options: Any, dtype: str, size: Size, root: Path) -> Work:
    """Load the base, write the adaptations, tokenise prompts."""
    from sapwood.evaluation import Bases
    from sapwood.launch import choose_runtime
    from sapwood.methods.lora import Lora

    bases = Bases(choose_runtime("cpu", dtype))
    method = Lora(rank=RANK, alpha=ALPHA)
    count = max(size.registered)
    folders = write_loras(bases, options.model, root / dtype, count, method)
    tokenizer = bases.get(options.model).tokenizer
    prompts = prompts_of(tokenizer, size.prompt, ROWS * (size.repeats + 1), smoke=options.smoke)
    return Work(
        bases=bases, base=options.model, folders=folders, prompts=prompts, tokens=size.tokens
    )


def headline(
    work: Work, dtype: str, size: Size, about: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return rows and ratios of eight rows: the base's, of eight adaptations, one after another."""
    names = work.names[:ROWS]
    paces: dict[str, list[float]] = {"base": [], "distinct": [], "serial": []}
    cpu: dict[str, list[float]] = {side: [] for side in paces}
    base, pool = open_one(work, ()), open_one(work, names)
    differ = 0
    try:
        warm(base, work, [work.base])
        warm(pool, work, names)
        for number in range(size.repeats):
            now = work.turn(number)
            with contention(about):
                runs = {
                    "base": timed(partial(together, base, now, [work.base] * ROWS)),
                    "distinct": timed(partial(together, pool, now, names)),
                    "serial": timed(partial(in_turn, pool, now, names)),
                }
            for side, ((pace, _), _, spent) in runs.items():
                paces[side].append(pace)
                cpu[side].append(spent / (ROWS * work.tokens))
            answers, alone = (runs[side][0][1] for side in ("distinct", "serial"))
            differ += sum(a != b for a, b in zip(answers, alone, strict=True))
            say(f"  {dtype}: " + ", ".join(f"{s} {own[-1]:.1f}" for s, own in paces.items()))
    finally:
        base.stop(1)
        pool.stop(1)
    rows = [
        {"row": "headline", "side": side, "dtype": dtype, "rows": ROWS,
         "prompt_tokens": size.prompt, "tokens": size.tokens,
         "tokens_per_second": median(found), "tokens_per_second_repeats": found,
         "cpu_ms_per_token": 1000 * median(cpu[side]),
         **({"answers_unlike_alone": differ} if side == "distinct" else {})}
        for side, found in paces.items()
    ]  # fmt: skip
    end = "" if dtype == "float32" else f"_{dtype}"
    return rows, {
        f"distinct8_vs_base{end}": paired(paces["distinct"], paces["base"]),
        f"distinct8_vs_serial{end}": paired(paces["distinct"], paces["serial"]),
        f"distinct8_vs_base_cpu_time{end}": paired(cpu["base"], cpu["distinct"]),
        f"distinct8_vs_serial_cpu_time{end}": paired(cpu["serial"], cpu["distinct"]),
    }


def table(work: Work, size: Size, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows by adaptations registered and how they are asked, each beside the base's."""
    rows: list[dict[str, Any]] = []
    base = open_one(work, ())
    try:
        for count in size.registered:
            names = work.names[:count]
            pool = open_one(work, names, resident=RESIDENT)
            try:
                kinds = ("identical", "zipf", "distinct") if count > 1 else ("identical",)
                for popularity in kinds:
                    rows.append(_cell(base, pool, work, popularity, size.table, about))
                    rows[-1] |= {"registered": count, "resident_at_most": RESIDENT}
            finally:
                pool.stop(1)
    finally:
        base.stop(1)
    plain = median([row["base_tokens_per_second"] for row in rows])
    return [{"row": "throughput", "registered": 0, "popularity": "base",
             "tokens_per_second": plain}, *rows]  # fmt: skip


def _cell(
    base: Any, pool: Any, work: Work, popularity: str, repeats: int, about: dict[str, Any]
) -> dict[str, Any]:
    """Return one row: a batch a repeat; beyond what is in memory, distinct ones are all loaded."""
    names = [found.name for found in pool.models() if found.parent]
    asked = drawn(names, popularity, ROWS * repeats)
    paces: dict[str, list[float]] = {"own": [], "base": []}
    cpu: dict[str, list[float]] = {"own": [], "base": []}
    warm(base, work, [work.base])
    if len(names) <= RESIDENT:
        warm(pool, work, names)
    for number in range(repeats):
        now, models = work.turn(number), asked[ROWS * number : ROWS * (number + 1)]
        with contention(about):
            runs = {
                "own": timed(partial(together, pool, now, models)),
                "base": timed(partial(together, base, now, [work.base] * ROWS)),
            }
        for side, ((pace, _), _, spent) in runs.items():
            paces[side].append(pace)
            cpu[side].append(spent)
    row = {
        "row": "throughput", "popularity": popularity,
        "tokens_per_second": median(paces["own"]), "base_tokens_per_second": median(paces["base"]),
        "vs_base": paired(paces["own"], paces["base"]),
        "vs_base_cpu_time": paired(cpu["base"], cpu["own"]),
    }  # fmt: skip
    say(f"  {len(names)} registered, {popularity}: {row['tokens_per_second']:.1f} tokens/s")
    return row


def loaded(work: Work, size: Size, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of load on eight adaptations with half as long answers."""
    names = work.names[:ROWS]
    small = Work(bases=work.bases, base=work.base, folders={n: work.folders[n] for n in names},
                 prompts=work.prompts, tokens=max(2, work.tokens // 2))  # fmt: skip
    pool, tight = open_one(small, names), open_one(small, names, queue=ROWS)
    try:
        with contention(about):
            return load_rows(pool, tight, small, size.seconds)
    finally:
        pool.stop(1)
        tight.stop(1)


def measured(
    options: Any, size: Size, root: Path, about: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the rows and ratios of the parts that are asked for."""
    from sapwood.launch import choose_runtime

    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    work = prepare(options, "float32", size, root)
    parts: Sequence[str] = options.parts
    if "memory" in parts:
        rows.append(memory_row(work))
    if "throughput" in parts:
        found, ratios = headline(work, "float32", size, about)
        rows += found + table(work, size, about)
    if "peers" in parts:
        found, more = peer_rows(work, size.peers, options, root, about)
        rows, ratios = rows + found, ratios | more
    if "first" in parts:
        with contention(about):
            rows += [cold_row(work, size.repeats),
                     context_row(work, root, size, smoke=options.smoke)]  # fmt: skip
        ratios["context_first_token_miss_vs_hit"] = (
            rows[-1]["miss_first_token_ms"] / rows[-1]["hit_first_token_ms"]
        )
    if "load" in parts:
        rows += loaded(work, size, about)
    dtype = choose_runtime("cpu").dtype
    if "throughput" in parts and dtype != "float32":
        found, more = headline(prepare(options, dtype, size, root), dtype, size, about)
        rows, ratios = rows + found, ratios | more
    return rows, ratios


def soaked(options: Any, root: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the drill: LoRA of rank 2 on query and value, small enough for 1,000."""
    from sapwood.evaluation import Bases
    from sapwood.launch import choose_runtime
    from sapwood.methods.lora import Lora

    bases = Bases(choose_runtime("cpu", "float32"))
    tokenizer = bases.get(options.model).tokenizer
    texts = prompts_of(tokenizer, 24, 2, smoke=options.smoke)
    work = Work(bases=bases, base=options.model, folders={}, tokens=1,
                prompts=[texts[0], texts[1][:9]])  # fmt: skip
    drill = Drill(minutes=options.soak, registered=options.registered, resident=options.resident)
    method = Lora(rank=2, alpha=4.0, targets=("q_proj", "v_proj"))
    with contention(about):
        return soak_row(work, root, drill, method)


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    import torch

    torch.set_num_threads(options.threads)
    size = SMOKE if options.smoke else QUICK if options.quick else Size()
    about = machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.soak:
            rows, ratios = [soaked(options, Path(folder), about)], {}
        else:
            rows, ratios = measured(options, size, Path(folder), about)
    return {
        "claim": (
            "Tokens a second of eight rows of eight LoRA adaptations (r 8, all linear) in one "
            "batch divided by those of eight rows of the base (aim 0.8) and of the same requests "
            "one after the other (aim 2.5), by the peers', and latencies, refusals and memory"
        ),
        "machine": about,
        "versions": versions(),
        "rows": rows,
        "ratios": ratios,
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES",
                        help="only the drill, for so long")  # fmt: skip
    parser.add_argument("--registered", type=int, default=1000, help="of the drill (default 1000)")
    parser.add_argument("--resident", type=int, default=16, help="of the drill (default 16)")
    options = parser.parse_args()
    if not options.soak and "peers" in options.parts:
        require("peft")
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
