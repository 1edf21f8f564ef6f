"""Tuning with LoRA: Sapwood against PEFT under transformers' Trainer, on the same batches.

Both sides get the same rows in the same order, the same first weights, AdamW, learning rates and
clipping, and learn the answer tokens by the language-model loss. Each arm (a side, a number format,
a setting of malloc) runs in a process of its own, so that its peak memory is its own; repeats are
interleaved and medians are taken. Loading and tokenising are outside the times, batching inside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from _tuning_arms import (
    RANK,
    Arm,
    attach_peft,
    attach_sapwood,
    collate,
    features,
    load,
    prepare,
    prompts,
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

TOLERANCE = 1e-4
# side, number format: float32; bfloat16 base (LoRA stays float32 on both sides); autocast
ARMS = (
    ("sapwood", "float32"), ("trainer", "float32"), ("sapwood", "bfloat16"),
    ("trainer", "bfloat16"), ("trainer", "autocast"),
)  # fmt: skip
MALLOC = ("plain", "raised")
KEPT = ("cpu_seconds_per_example", "peak_bytes", "peak_bytes_when_loaded", "loaded_bytes")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured; `rows` is the epoch that is trained for the final score."""

    steps: int = 12
    warm: int = 3
    repeats: int = 3
    rows: int = 800
    dev: int = 400
    batch: int = 16


QUICK = Size(steps=5, warm=1, repeats=1, rows=64, dev=64)
SMOKE = Size(steps=2, warm=1, repeats=1, rows=8, dev=8, batch=4)


def spawned(arm: Arm, script: str = __file__) -> dict[str, Any]:
    """Run one arm of `script` in a process of its own, with the settings of this one."""
    command = [sys.executable, script, "--arm", json.dumps(asdict(arm))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say(done.stderr[-3000:])
        raise SystemExit(f"the arm {arm.name} failed")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(arm: Arm) -> dict[str, Any]:
    """Compare the first step's loss and LoRA gradients of both sides in float32.

    B starts at zero, which hides the gradient of A; here it is drawn at random, for both alike.
    """
    import torch

    own, other = load(arm), load(arm)
    work = prepare(own.tokenizer, arm)
    trained = attach_sapwood(own.net, arm.method)
    wrapped, peers = attach_peft(other.net, arm.method)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in trained.items():
            if name.endswith("lora_B.weight"):
                tensor.normal_(std=0.02, generator=generator)
            peers[name].copy_(tensor.view_as(peers[name]))
    numbers = work.order()[: arm.batch]
    lossy = supervision(own.net, work)
    loss = torch.zeros(())
    for part, _ in lossy.losses(numbers, work.recipe.pack_tokens):
        (part / lossy.supervised(numbers)).backward()
        loss += part.detach() / lossy.supervised(numbers)
    rows = features(work)
    peer = wrapped(**collate([rows[n] for n in numbers], work.pad)).loss
    peer.backward()
    gaps = [
        float((tensor.grad - peers[name].grad.view_as(tensor)).abs().max())
        for name, tensor in trained.items()
    ]
    largest = max(float(tensor.grad.abs().max()) for tensor in trained.values())
    return {
        "row": "first step",
        "method": arm.method,
        "loss_sapwood": float(loss),
        "loss_trainer": float(peer.detach()),
        "difference_of_loss": abs(float(loss) - float(peer.detach())),
        "largest_difference_of_gradients": max(gaps),
        "largest_gradient": largest,
        "tensors": len(gaps),
        "equal": max(*gaps, abs(float(loss) - float(peer.detach()))) <= TOLERANCE,
    }


def final_scores(arm: Arm, size: Size) -> list[dict[str, Any]]:
    """Train both sides one epoch and score the same rows with the same scorer."""
    rows = []
    for side in ("sapwood", "trainer"):
        with tempfile.TemporaryDirectory() as folder:
            steps = size.rows // size.batch
            one = replace(arm, side=side, steps=steps, warm=1, save=folder)
            say(f"one epoch of {steps * size.batch} rows: {one.name}")
            found = spawned(one)
            losses = found["losses"]
            rows.append({
                "row": "final score",
                "side": side,
                "dtype": arm.dtype,
                "rows": steps * size.batch,
                "first_loss": losses[0],
                "mean_loss_last_ten": sum(losses[-10:]) / len(losses[-10:]),
                "dev": _score(one, folder, size.dev),
            })  # fmt: skip
    return rows


def _score(arm: Arm, folder: str, count: int) -> dict[str, Any]:
    """Load an adapter as PEFT wrote it into Sapwood and return its accuracy with an interval."""
    from sapwood.methods.folder import load_trained
    from sapwood.metrics import bootstrap_interval
    from sapwood.models.decoder import Decoder
    from sapwood.models.trie import build_trie

    base = load(arm)
    load_trained(base.net, Path(folder))
    prompter, data = prompts(base.tokenizer, arm.smoke)
    dev = data.dev[:count]
    rest = prompter.rest([e.text for e in dev])
    decoder = Decoder(base.net)
    trie = build_trie(prompter.labels(data.labels))
    scores = decoder.label_scores(rest, trie, decoder.encode(prompter.prefix))
    predicted = [data.labels[n] for n in scores.argmax(1)]
    score = bootstrap_interval(([e.label for e in dev], predicted))
    return asdict(score) | {"rows": len(predicted)}


def measure(arms: Sequence[Arm], repeats: int, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Run every arm `repeats` times, in turn, and return a row for each with medians."""
    found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for number in range(repeats):
        for arm in arms:
            with contention(about):
                got = spawned(arm)
            found[arm.name].append(got)
            pace, peak = got["examples_per_second"], got["peak_bytes"] / 2**20
            say(f"  {number + 1}/{repeats} {arm.name}: {pace:.2f} examples/s, peak {peak:.0f} MiB")
    rows = []
    for arm in arms:
        runs = found[arm.name]
        paces = [run["examples_per_second"] for run in runs]
        middle = {key: median([run[key] for run in runs]) for key in KEPT}
        rows.append({
            "row": "speed", "arm": arm.name, "side": arm.side, "dtype": arm.dtype,
            "malloc": arm.malloc, "batch": arm.batch, "steps_timed": arm.steps - arm.warm,
            "examples_per_second": median(paces), "examples_per_second_repeats": paces,
            **middle, "peak_bytes_above_base": middle["peak_bytes"] - middle["loaded_bytes"],
        })  # fmt: skip
    return rows


def ratios_of(rows: Sequence[dict[str, Any]], auto: str) -> dict[str, float]:
    """Return every fair pairing, and the two of the claim: float32, malloc raised.

    `auto`: the format that Sapwood picks on this machine, for the pairing of each as it comes.
    """
    at = {row["arm"]: row for row in rows if row["row"] == "speed"}
    found: dict[str, float] = {}
    for dtype, peers in (("float32", ("float32",)), ("bfloat16", ("bfloat16", "autocast"))):
        for malloc in MALLOC:
            own = at[f"sapwood_{dtype}_{malloc}"]
            others = [at[f"trainer_{peer}_{malloc}"] for peer in peers]
            for peer, other in zip(peers, others, strict=True):
                name = f"speed_{dtype}_vs_trainer_{peer}_malloc_{malloc}"
                found[name] = own["examples_per_second"] / other["examples_per_second"]
            cpu = min(row["cpu_seconds_per_example"] for row in others)
            found[f"cpu_time_{dtype}_malloc_{malloc}"] = cpu / own["cpu_seconds_per_example"]
            best = max(others, key=lambda row: row["examples_per_second"])
            least = min(others, key=lambda row: row["peak_bytes"])
            smallest = min(others, key=lambda row: row["peak_bytes_above_base"])
            above = own["peak_bytes_above_base"] / smallest["peak_bytes_above_base"]
            found[f"peak_memory_{dtype}_malloc_{malloc}"] = own["peak_bytes"] / least["peak_bytes"]
            found[f"peak_memory_above_base_{dtype}_malloc_{malloc}"] = above
            if (dtype, malloc) == ("float32", "raised"):  # where both sides compute the same
                pace = own["examples_per_second"] / best["examples_per_second"]
                found["examples_per_second_vs_peft_trainer"] = pace
                found["peak_memory_vs_peft_trainer"] = own["peak_bytes"] / least["peak_bytes"]
    as_shipped = at[f"trainer_{auto}_plain"]["examples_per_second"]
    own_pace = at[f"sapwood_{auto}_raised"]["examples_per_second"]
    found = dict(sorted(found.items(), key=lambda pair: not pair[0].endswith("_vs_peft_trainer")))
    return found | {"speed_each_as_it_comes": own_pace / as_shipped}


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    from sapwood.launch import choose_runtime

    size = SMOKE if options.smoke else QUICK if options.quick else Size()
    about = machine(options.threads)
    auto = choose_runtime("cpu").dtype
    shape: dict[str, Any] = {"model": options.model, "batch": size.batch, "smoke": options.smoke}
    arms = [
        Arm(side=side, dtype=dtype, malloc=malloc, steps=size.steps, warm=size.warm, **shape)
        for malloc in MALLOC
        for side, dtype in ARMS
    ]
    first = check(Arm(side="", dtype="float32", malloc="plain", steps=1, warm=0, **shape))
    say(f"first step: {first}")
    rows = [first, *measure(arms, size.repeats, about)]
    final = Arm(side="", dtype=auto, malloc="raised", steps=1, warm=1, **shape)
    rows += final_scores(final, size)
    return {
        "claim": (
            "Examples a second of Sapwood's tuning divided by those of PEFT under the Trainer: "
            f"same LoRA (r {RANK}, all linear), rows, order, optimiser and loss, base in float32 "
            "on both sides (where the first step's loss and gradients are equal), malloc "
            f"thresholds raised on both sides; Sapwood itself would pick {auto} on this machine, "
            "whose pairings stand beside it. Peak memory: Sapwood's as a share "
            "of the Trainer's smaller arm (below 1 is less), the whole process with the base"
        ),
        "machine": about,
        "versions": versions(),
        "data": sentiment_rows(smoke=options.smoke).source,
        "rows": rows,
        "ratios": ratios_of(rows, auto),
    }


def main() -> None:
    """Measure and print, or be one arm."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arm", help="one process of the comparison, as this script starts it")
    options = parser.parse_args()
    require("peft", "accelerate")
    if options.arm:
        arm = Arm(**json.loads(options.arm))
        settle(int(os.environ.get("OMP_NUM_THREADS", options.threads)))
        print(json.dumps(run_arm(arm)))
        return
    settle(options.threads)
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
