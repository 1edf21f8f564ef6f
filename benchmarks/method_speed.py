"""Speed and memory of tuning, method by method: Sapwood against PEFT under transformers' Trainer.

As benchmarks/tuning.py does it for LoRA (same rows, order, first weights, AdamW, clipping; base in
float32, malloc thresholds raised on both sides; each arm a process of its own), for LoRA, DoRA,
IA3, a prefix and a prompt; bottleneck adapters against AdapterHub's `adapters` under its
AdapterTrainer, where SAPWOOD_HUB_PYTHON names an interpreter that has it. Beside examples a second
stand the bytes that autograd saves for one batch's backward pass, counted with torch's own hooks on
both sides.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import _hub_arms
from _hub_arms import Hub
from _saved_bytes import counted, storages
from _tuning_arms import (
    Arm,
    attach_peft,
    attach_sapwood,
    collate,
    features,
    load,
    prepare,
    run_arm,
    supervision,
)
from common import (
    arguments,
    contention,
    finish,
    machine,
    median,
    require,
    say,
    sentiment_rows,
    settle,
    versions,
)
from tuning import QUICK, SMOKE, Size, check, spawned

METHODS = ("lora", "dora", "ia3", "prefix", "prompt", "adapter")
Side = Callable[[str], dict[str, Any]]  # does "train" or "saved" in a process of its own
MIDDLE = Size(steps=8, warm=2, repeats=3)


def saved_bytes(arm: Arm) -> int:
    """Return what one batch's forward pass leaves for the backward pass, weights not counted."""
    base = load(arm)
    work = prepare(base.tokenizer, arm)
    numbers = work.order()[: arm.batch]
    base.net.train()
    if arm.side == "sapwood":
        attach_sapwood(base.net, arm.method)
        lossy = supervision(base.net, work)
        most = 0
        weights = storages(base.net)
        losses = lossy.losses(numbers, work.recipe.pack_tokens)
        while True:
            with counted(weights) as saved:
                part = next(losses, None)
            if part is None:
                return most
            most = max(most, sum(saved.values()))
            part[0].backward()
    wrapped, _ = attach_peft(base.net, arm.method)
    rows = features(work)
    with counted(storages(wrapped)) as saved:
        loss = wrapped(**collate([rows[n] for n in numbers], work.pad)).loss
    del loss
    return sum(saved.values())


def run_one(arm: Arm) -> dict[str, Any]:
    """Run one arm in this process: its speed, or with 0 steps what autograd saves."""
    if arm.steps:
        return run_arm(arm)
    return {"saved_bytes": saved_bytes(replace(arm, steps=1))}


def here(arm: Arm) -> Side:
    """Return a side that this script runs as an arm."""
    return lambda work: spawned(arm if work == "train" else replace(arm, steps=0), __file__)


def measure(
    method: str, sides: Mapping[str, Side], repeats: int, about: dict[str, Any]
) -> dict[str, Any]:
    """Return a row of one method: both sides, interleaved."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(repeats):
        for side, run in sides.items():
            with contention(about):
                got = run("train")
            found[side].append(got)
            pace = got["examples_per_second"]
            say(f"  {number + 1}/{repeats} {method} {side}: {pace:.2f} examples/s")
    row: dict[str, Any] = {"row": "speed", "method": method}
    for side, run in sides.items():
        for key in ("examples_per_second", "cpu_seconds_per_example", "peak_bytes"):
            row[f"{key}_{side}"] = median([got[key] for got in found[side]])
        row[f"saved_bytes_{side}"] = run("saved")["saved_bytes"]
    return row


def compared(arm: Arm, folder: Path, size: Size, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of one method: the first step of both sides, and what each took."""
    one = replace(arm, steps=1, warm=0)
    own = here(replace(arm, side="sapwood"))
    if arm.method == "adapter":
        first = _hub_arms.check(one, folder)
        many, few = Hub(arm=arm, folder=folder), Hub(arm=one, folder=folder)
        many.prepare(drawn=False)
        sides = {"sapwood": own, "adapterhub": lambda w: (many if w == "train" else few).run(w)}
    else:
        first = check(one)
        sides = {"sapwood": own, "trainer": here(replace(arm, side="trainer"))}
    say(f"{arm.method}, first step: {first['largest_difference_of_gradients']:.1e}")
    return [first, measure(arm.method, sides, size.repeats, about)]


def ratios_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what Sapwood took of one method against the other side."""
    method, hub = row["method"], "saved_bytes_adapterhub" in row
    side, peer = ("adapterhub", "adapterhub") if hub else ("trainer", "peft")
    found = {}
    for key, name in (("examples_per_second", "speed"), ("cpu_seconds_per_example", "cpu")):
        own, other = row[f"{key}_sapwood"], row[f"{key}_{side}"]
        found[f"{method}_{name}_vs_{peer}"] = own / other if name == "speed" else other / own
    for key in ("saved_bytes", "peak_bytes"):
        found[f"{method}_{key}_vs_{peer}"] = row[f"{key}_sapwood"] / row[f"{key}_{side}"]
    return found


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    size = SMOKE if options.smoke else QUICK if options.quick else MIDDLE
    about = machine(options.threads)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for method in options.methods:
        if method == "adapter" and not _hub_arms.interpreter():
            say(_hub_arms.SKIPPED)
            rows.append({"row": "skipped", "method": method, "why": _hub_arms.SKIPPED})
            continue
        arm = Arm(
            side="", model=options.model, batch=size.batch, smoke=options.smoke, method=method,
            dtype="float32", malloc="raised", steps=size.steps, warm=size.warm,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            rows += compared(arm, Path(folder), size, about)
        ratios |= ratios_of(rows[-1])
    return {
        "claim": (
            "Examples a second of Sapwood's tuning divided by PEFT's under the Trainer, for "
            "bottleneck adapters by AdapterHub's under its AdapterTrainer, and what autograd saves "
            "for a batch and the whole process's peak as shares of theirs (below 1 is less): same "
            "method, rows, order, first weights, optimiser and loss, float32"
        ),
        "machine": about,
        "versions": versions(),
        "data": sentiment_rows(smoke=options.smoke).source,
        "rows": rows,
        "ratios": ratios,
    }


def main() -> None:
    """Measure and print, or be one arm."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arm", help="one process of the comparison, as this script starts it")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    require("peft", "accelerate")
    if options.arm:
        arm = Arm(**json.loads(options.arm))
        settle(int(os.environ.get("OMP_NUM_THREADS", options.threads)))
        print(json.dumps(run_one(arm)))
        return
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
