"""Tuning with LoRA: Sapwood against PEFT under transformers' Trainer, on the same batches.

Both sides get the same rows in the same order, the same first weights, AdamW, learning rates and
clipping, and learn the answer tokens by the language-model loss. Each arm (a side, a number format,
a setting of malloc) runs in a process of its own, so that its peak memory is its own; repeats are
interleaved and medians are taken. Loading and tokenising are outside the times, batching inside.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import (
    arguments, contention, finish, machine, median, require, say, sentiment_rows, settle, shuffled,
    versions,
)  # fmt: skip

RANK, ALPHA, RATE = 8, 16.0, 5e-4
TOLERANCE = 1e-4
# side, number format: float32; bfloat16 base (LoRA stays float32 on both sides); autocast
ARMS = (
    ("sapwood", "float32"), ("trainer", "float32"), ("sapwood", "bfloat16"),
    ("trainer", "bfloat16"), ("trainer", "autocast"),
)  # fmt: skip
MALLOC = ("plain", "raised")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One process: what it runs, and where it keeps its adapter when `save` is not empty."""

    side: str
    dtype: str
    malloc: str
    model: str
    steps: int
    warm: int
    batch: int = 16
    save: str = ""
    smoke: bool = False

    @property
    def name(self) -> str:
        """Return the arm's name in ratios."""
        return f"{self.side}_{self.dtype}_{self.malloc}"


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


@dataclass(frozen=True, kw_only=True)
class Work:
    """The rows of one run, tokenised: `prefix + rests[n]` is the prompt of row n."""

    prefix: tuple[int, ...]
    rests: list[list[int]]
    gold: list[int]
    trie: Any
    recipe: Any
    total: int
    pad: int

    def order(self) -> list[int]:
        """Return the row numbers of every step, one after the other."""
        from sapwood.training import batch_of

        steps = range(1, self.total + 1)
        return [n for step in steps for n in batch_of(step, len(self.gold), self.recipe)]


def examples(smoke: bool) -> tuple[tuple[str, ...], list[Any], list[Any], str]:
    """Return (labels, train, dev, source)."""
    if smoke:
        from sapwood.interfaces import Example

        made = [Example(text=f"it is {n}", label=("bad", "good")[n % 2]) for n in range(40)]
        return ("bad", "good"), made, made, "made up"
    rows = sentiment_rows()
    return rows.labels, shuffled(rows.train), shuffled(rows.dev), rows.source


def prepare(tokenizer: Any, arm: Arm) -> Work:
    """Tokenise as many rows as the steps need, in the default template without demonstrations."""
    from sapwood.context.prompter import Context, Prompter
    from sapwood.context.template import default_template
    from sapwood.models.trie import build_trie
    from sapwood.training import Recipe

    labels, train, _, _ = examples(arm.smoke)
    template = default_template(labels, [e.text for e in train[:200]])
    prompter = Prompter(tokenizer, Context(template=template))
    rows = train[: arm.steps * arm.batch]
    rests = prompter.rest([e.text for e in rows])
    return Work(
        prefix=prompter.prefix,
        rests=rests,
        gold=[labels.index(e.label) for e in rows],
        trie=build_trie(prompter.labels(labels)),
        recipe=Recipe(learning_rate=RATE, batch_size=arm.batch, loss="vocabulary", epochs=1),
        total=arm.steps,
        pad=tokenizer.pad_token_id,
    )


def load(arm: Arm) -> Any:
    """Return the frozen base; autocast keeps its weights in float32."""
    from sapwood.launch import choose_runtime
    from sapwood.models.load import load_base

    return load_base(
        arm.model, choose_runtime("cpu", "float32" if arm.dtype == "autocast" else arm.dtype)
    )


def first_weights(net: Any) -> dict[str, Any]:
    """Return the same first A for every side: a tensor for each linear layer but the head."""
    import torch

    generator = torch.Generator().manual_seed(0)
    head = net.get_output_embeddings()
    found = {}
    for path, module in net.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            bound = module.in_features**-0.5
            draw = torch.rand(RANK, module.in_features, generator=generator)
            found[path] = (draw * 2 - 1) * bound
    return found


def attach_sapwood(net: Any) -> dict[str, tuple[Any, Any]]:
    """Attach LoRA and return its (A, B) by path."""
    import torch
    from sapwood.methods.lora import Lora, branches

    first = first_weights(net)
    Lora(rank=RANK, alpha=ALPHA).attach(net)
    with torch.no_grad():
        for path, layer in branches(net):
            layer.lora_A.copy_(first[path])
    return {path: (layer.lora_A, layer.lora_B) for path, layer in branches(net)}


def attach_peft(net: Any) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """Attach PEFT's LoRA and return (the PEFT net, its (A, B) by path)."""
    import torch
    from peft import LoraConfig, get_peft_model

    first = first_weights(net)
    config = LoraConfig(
        r=RANK,
        lora_alpha=int(ALPHA),
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(net, config)
    found = {}
    with torch.no_grad():
        for path, module in wrapped.base_model.model.named_modules():
            if hasattr(module, "lora_A"):
                pair = (module.lora_A["default"].weight, module.lora_B["default"].weight)
                pair[0].copy_(first[path])
                found[path] = pair
    return wrapped, found


def supervision(net: Any, work: Work) -> Any:
    """Return Sapwood's loss over the rows, the instruction computed once a pack."""
    from sapwood.models.decoder import Decoder
    from sapwood.training import Supervision, target

    targets = [target(r, g, work.trie) for r, g in zip(work.rests, work.gold, strict=True)]
    return Supervision(Decoder(net), targets, work.trie, shared=work.prefix, loss="vocabulary")


def features(work: Work) -> list[dict[str, list[int]]]:
    """Return every row for the Trainer: all tokens, and labels at the answer only."""
    rows = []
    for rest, gold in zip(work.rests, work.gold, strict=True):
        prompt = [*work.prefix, *rest]
        answer = [token for _, token in work.trie.paths[gold]]
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return rows


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, Any]:
    """Pad a batch to its longest row."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    filled = {"input_ids": pad, "labels": -100}
    batch = {
        name: torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])
        for name, fill in filled.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(longest)[None] < lengths[:, None]).long()
    return batch


def run_sapwood(net: Any, work: Work) -> tuple[list[float], list[float]]:
    """Train; return (end of every step in seconds, losses)."""
    from sapwood.training import fit, make_optimiser

    pairs = attach_sapwood(net)
    optimiser = make_optimiser([p for pair in pairs.values() for p in pair], work.recipe)
    ends, losses = [], []
    for step in fit(supervision(net, work), optimiser, work.recipe, total=work.total):
        ends.append(time.perf_counter())
        losses.append(step.loss)
    return ends, losses


def run_trainer(net: Any, work: Work, arm: Arm) -> tuple[list[float], list[float], Any]:
    """Train; return (end of every step in seconds, losses, the PEFT net)."""
    import torch
    from sapwood.training import learning_rate
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    wrapped, _ = attach_peft(net)
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)  # its default
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: learning_rate(work.recipe, s + 1, work.total) / RATE
    )
    rows = features(work)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=work.total,
            per_device_train_batch_size=work.recipe.batch_size,
            max_grad_norm=work.recipe.clip,
            bf16=arm.dtype == "autocast",
            use_cpu=True,
            train_sampling_strategy="sequential",
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            logging_strategy="steps" if arm.save else "no",
            logging_steps=1,
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(
            model=wrapped,
            args=settings,
            train_dataset=[rows[n] for n in work.order()],  # type: ignore[arg-type]
            data_collator=lambda batch: collate(batch, work.pad),
            optimizers=(optimiser, schedule),
            callbacks=[Clock()],
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return ends, losses, wrapped


def run_arm(arm: Arm) -> dict[str, Any]:
    """Run one arm in this process and return what it took."""
    from sapwood.launch import raise_malloc_thresholds
    if arm.malloc == "raised":
        raise_malloc_thresholds()
    base = load(arm)
    work = prepare(base.tokenizer, arm)
    loaded = _resident()
    before = _peak()
    base.net.train()
    if arm.side == "sapwood":
        ends, losses = run_sapwood(base.net, work)
        if arm.save:
            save_sapwood(base.net, arm)
    else:
        ends, losses, wrapped = run_trainer(base.net, work, arm)
        if arm.save:
            wrapped.save_pretrained(arm.save)
    counted = arm.steps - arm.warm
    return {
        "examples_per_second": counted * arm.batch / (ends[-1] - ends[arm.warm - 1]),
        "peak_bytes": _peak(),
        "peak_bytes_when_loaded": before,
        "loaded_bytes": loaded,
        "losses": losses,
    }


def save_sapwood(net: Any, arm: Arm) -> None:
    """Write the adapter in PEFT's layout, as the Trainer's side is written."""
    from sapwood.methods.lora import Lora, weights
    from sapwood.methods.peft_folder import write_peft

    method = Lora(rank=RANK, alpha=ALPHA)
    write_peft(weights(net), method, Path(arm.save), base=arm.model, transposed=False)


def _peak() -> int:
    """Return this process's largest resident size so far, bytes (Linux counts in KiB)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    """Return this process's resident size, bytes, or its peak where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return _peak()
    return pages * os.sysconf("SC_PAGE_SIZE")


def spawn(arm: Arm) -> dict[str, Any]:
    """Run one arm in a process of its own, with the settings of this one."""
    command = [sys.executable, __file__, "--arm", json.dumps(asdict(arm))]
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
    pairs = attach_sapwood(own.net)
    wrapped, peers = attach_peft(other.net)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for path, (_, b) in pairs.items():
            b.normal_(std=0.02, generator=generator)
            peers[path][1].copy_(b)
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
        float((mine.grad - theirs.grad).abs().max())
        for path, pair in pairs.items()
        for mine, theirs in zip(pair, peers[path], strict=True)
    ]
    largest = max(float(p.grad.abs().max()) for pair in pairs.values() for p in pair)
    return {
        "row": "first step",
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
    from dataclasses import replace

    rows = []
    for side in ("sapwood", "trainer"):
        with tempfile.TemporaryDirectory() as folder:
            steps = size.rows // size.batch
            one = replace(arm, side=side, steps=steps, warm=1, save=folder)
            say(f"one epoch of {steps * size.batch} rows: {one.name}")
            found = spawn(one)
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
    from sapwood.context.prompter import Context, Prompter
    from sapwood.context.template import default_template
    from sapwood.methods.peft_folder import read_peft
    from sapwood.metrics import bootstrap_interval
    from sapwood.models.decoder import Decoder
    from sapwood.models.trie import build_trie

    base = load(arm)
    read_peft(base.net, Path(folder))
    labels, train, dev, _ = examples(arm.smoke)
    template = default_template(labels, [e.text for e in train[:200]])
    prompter = Prompter(base.tokenizer, Context(template=template))
    rest = prompter.rest([e.text for e in dev[:count]])
    decoder = Decoder(base.net)
    trie = build_trie(prompter.labels(labels))
    scores = decoder.label_scores(rest, trie, decoder.encode(prompter.prefix))
    predicted = [labels[n] for n in scores.argmax(1)]
    score = bootstrap_interval(([e.label for e in dev[:count]], predicted))
    return asdict(score) | {"rows": len(predicted)}


def measure(arms: Sequence[Arm], repeats: int, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Run every arm `repeats` times, in turn, and return a row for each with medians."""
    found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for number in range(repeats):
        for arm in arms:
            with contention(about):
                got = spawn(arm)
            found[arm.name].append(got)
            pace, peak = got["examples_per_second"], got["peak_bytes"] / 2**20
            say(f"  {number + 1}/{repeats} {arm.name}: {pace:.2f} examples/s, peak {peak:.0f} MiB")
    rows = []
    for arm in arms:
        runs = found[arm.name]
        paces = [run["examples_per_second"] for run in runs]
        middle = {
            key: median([run[key] for run in runs])
            for key in ("peak_bytes", "peak_bytes_when_loaded", "loaded_bytes")
        }
        rows.append({
            "row": "speed", "arm": arm.name, "side": arm.side, "dtype": arm.dtype,
            "malloc": arm.malloc, "batch": arm.batch, "steps_timed": arm.steps - arm.warm,
            "examples_per_second": median(paces), "examples_per_second_repeats": paces,
            **middle, "peak_bytes_above_base": middle["peak_bytes"] - middle["loaded_bytes"],
        })  # fmt: skip
    return rows


def ratios_of(rows: Sequence[dict[str, Any]], auto: str) -> dict[str, float]:
    """Return every fair pairing, and the two of the claim: `auto` format, malloc raised."""
    at = {row["arm"]: row for row in rows if row["row"] == "speed"}
    found: dict[str, float] = {}
    for dtype, peers in (("float32", ("float32",)), ("bfloat16", ("bfloat16", "autocast"))):
        for malloc in MALLOC:
            own = at[f"sapwood_{dtype}_{malloc}"]
            others = [at[f"trainer_{peer}_{malloc}"] for peer in peers]
            for peer, other in zip(peers, others, strict=True):
                name = f"speed_{dtype}_vs_trainer_{peer}_malloc_{malloc}"
                found[name] = own["examples_per_second"] / other["examples_per_second"]
            best = max(others, key=lambda row: row["examples_per_second"])
            least = min(others, key=lambda row: row["peak_bytes"])
            smallest = min(others, key=lambda row: row["peak_bytes_above_base"])
            above = own["peak_bytes_above_base"] / smallest["peak_bytes_above_base"]
            found[f"peak_memory_{dtype}_malloc_{malloc}"] = own["peak_bytes"] / least["peak_bytes"]
            found[f"peak_memory_above_base_{dtype}_malloc_{malloc}"] = above
            if (dtype, malloc) == (auto, "raised"):
                pace = own["examples_per_second"] / best["examples_per_second"]
                found["examples_per_second_vs_peft_trainer"] = pace
                found["peak_memory_vs_peft_trainer"] = own["peak_bytes"] / least["peak_bytes"]
    as_shipped = at[f"trainer_{auto}_plain"]["examples_per_second"]
    own_pace = at[f"sapwood_{auto}_raised"]["examples_per_second"]
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
            f"same LoRA (r {RANK}, all linear), rows, order, optimiser and loss, base in {auto} "
            "(what Sapwood picks on this machine) against the Trainer's faster arm of that "
            "format, malloc thresholds raised on both sides. Peak memory: Sapwood's as a share "
            "of the Trainer's smaller arm (below 1 is less), the whole process with the base"
        ),
        "machine": about,
        "versions": versions(),
        "data": examples(options.smoke)[3],
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
