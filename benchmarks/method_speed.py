"""Speed and memory of tuning, method by method: Sapwood against PEFT under transformers' Trainer.

As benchmarks/tuning.py does it for LoRA (same rows, order, first weights, AdamW, clipping; base in
float32, malloc thresholds raised on both sides; each arm a process of its own), for LoRA, DoRA,
IA3, a prefix and a prompt. Beside examples a second stand the bytes that autograd saves for one
batch's backward pass, counted with torch's own hooks on both sides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

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

METHODS = ("lora", "dora", "ia3", "prefix", "prompt")
SIDES = ("sapwood", "trainer")
MIDDLE = Size(steps=8, warm=2, repeats=3)


@contextmanager
def counted(skip: set[int]) -> Iterator[dict[int, int]]:
    """Yield {storage: bytes} of what autograd saves inside, each storage once, without `skip`."""
    import torch

    saved: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skip:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


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
        weights = {p.untyped_storage().data_ptr() for p in base.net.parameters()}
        losses = lossy.losses(numbers, work.recipe.pack_tokens)
        while True:
            with counted(weights) as saved:
                part = next(losses, None)
            if part is None:
                return most
            most = max(most, sum(saved.values()))
            part[0].backward()
    wrapped, _ = attach_peft(base.net, arm.method)
    weights = {p.untyped_storage().data_ptr() for p in wrapped.parameters()}
    rows = features(work)
    with counted(weights) as saved:
        loss = wrapped(**collate([rows[n] for n in numbers], work.pad)).loss
    del loss
    return sum(saved.values())


def run_one(arm: Arm) -> dict[str, Any]:
    """Run one arm in this process: its speed, or with 0 steps what autograd saves."""
    if arm.steps:
        return run_arm(arm)
    return {"saved_bytes": saved_bytes(replace(arm, steps=1))}


def measure(method: str, arms: list[Arm], size: Size, about: dict[str, Any]) -> dict[str, Any]:
    """Return a row of one method: both sides, interleaved."""
    found: dict[str, list[dict[str, Any]]] = {arm.side: [] for arm in arms}
    for number in range(size.repeats):
        for arm in arms:
            with contention(about):
                got = spawned(arm, __file__)
            found[arm.side].append(got)
            pace = got["examples_per_second"]
            say(f"  {number + 1}/{size.repeats} {method} {arm.side}: {pace:.2f} examples/s")
    row: dict[str, Any] = {"row": "speed", "method": method}
    for arm in arms:
        runs = found[arm.side]
        for key in ("examples_per_second", "cpu_seconds_per_example", "peak_bytes"):
            row[f"{key}_{arm.side}"] = median([run[key] for run in runs])
        saved = spawned(replace(arm, steps=0), __file__)["saved_bytes"]
        row[f"saved_bytes_{arm.side}"] = saved
    return row


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    size = SMOKE if options.smoke else QUICK if options.quick else MIDDLE
    about = machine(options.threads)
    rows: list[dict[str, Any]] = []
    ratios = {}
    for method in options.methods:
        shape: dict[str, Any] = {
            "model": options.model, "batch": size.batch, "smoke": options.smoke, "method": method,
            "dtype": "float32", "malloc": "raised",
        }  # fmt: skip
        first = check(Arm(side="", steps=1, warm=0, **shape))
        say(f"{method}, first step: {first['largest_difference_of_gradients']:.1e}")
        arms = [Arm(side=side, steps=size.steps, warm=size.warm, **shape) for side in SIDES]
        row = measure(method, arms, size, about)
        rows += [first, row]
        for key, name in (("examples_per_second", "speed"), ("cpu_seconds_per_example", "cpu")):
            own, peer = row[f"{key}_sapwood"], row[f"{key}_trainer"]
            ratios[f"{method}_{name}_vs_peft"] = own / peer if name == "speed" else peer / own
        for key in ("saved_bytes", "peak_bytes"):
            ratios[f"{method}_{key}_vs_peft"] = row[f"{key}_sapwood"] / row[f"{key}_trainer"]
    return {
        "claim": (
            "Examples a second of Sapwood's tuning divided by PEFT's under the Trainer, and what "
            "autograd saves for a batch and the whole process's peak as shares of PEFT's (below 1 "
            "is less): same method, rows, order, first weights, optimiser and loss, float32"
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
