"""One arm of the tuning benchmark: the same LoRA trained by Sapwood, or by PEFT and the Trainer."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from common import Rows, clock, sentiment_rows, shuffled

RANK, ALPHA, RATE = 8, 16.0, 5e-4
VIRTUAL = 16  # tokens of a prefix or prompt
WIDTH = 36  # of a bottleneck: Pfeiffer's sixteenth of SmolLM2's 576
Ends = tuple[float, float]  # wall and CPU seconds


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
    method: str = "lora"

    @property
    def name(self) -> str:
        """Return the arm's name in ratios."""
        return f"{self.side}_{self.dtype}_{self.malloc}"


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


def prompts(tokenizer: Any, smoke: bool) -> tuple[Any, Rows]:
    """Return (the prompter of the default template without demonstrations, the shuffled rows)."""
    from sapwood.context.prompter import Context, Prompter
    from sapwood.context.template import default_template

    rows = sentiment_rows(smoke=smoke)
    rows = replace(rows, train=tuple(shuffled(rows.train)), dev=tuple(shuffled(rows.dev)))
    template = default_template(rows.labels, [e.text for e in rows.train[:200]])
    return Prompter(tokenizer, Context(template=template)), rows


def prepare(tokenizer: Any, arm: Arm) -> Work:
    """Tokenise as many rows as the steps need, in the default template without demonstrations."""
    from sapwood.models.trie import build_trie
    from sapwood.training import Recipe

    prompter, data = prompts(tokenizer, arm.smoke)
    rows = data.train[: arm.steps * arm.batch]
    rests = prompter.rest([e.text for e in rows])
    return Work(
        prefix=prompter.prefix,
        rests=rests,
        gold=[data.labels.index(e.label) for e in rows],
        trie=build_trie(prompter.labels(data.labels)),
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


def own_method(name: str) -> Any:
    """Return Sapwood's method, configured as `peer_config` configures PEFT's."""
    from sapwood.methods import METHODS
    from sapwood.registry import resolve

    settings: dict[str, dict[str, Any]] = {
        "lora": {"rank": RANK, "alpha": ALPHA},
        "dora": {"rank": RANK, "alpha": ALPHA},
        "ia3": {},
        "prefix": {"tokens": VIRTUAL},
        "prompt": {"tokens": VIRTUAL},
        "adapter": {"width": WIDTH, "placement": "pfeiffer"},
    }
    return resolve("method", METHODS, name)(**settings[name])


def peer_config(name: str) -> Any:
    """Return PEFT's configuration of a method."""
    import peft

    task = {"task_type": "CAUSAL_LM"}
    if name in ("lora", "dora"):
        return peft.LoraConfig(
            r=RANK, lora_alpha=int(ALPHA), lora_dropout=0.0, target_modules="all-linear",
            use_dora=name == "dora", **task,
        )  # fmt: skip
    if name == "ia3":
        return peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"],
            **task,
        )  # fmt: skip
    kind = peft.PrefixTuningConfig if name == "prefix" else peft.PromptTuningConfig
    return kind(num_virtual_tokens=VIRTUAL, **task)


def first_weights(name: str, tensor: Any) -> None:
    """Set what starts at random (A, prefixes, prompts) from the tensor's name, on every side."""
    import torch

    if not name.endswith(("lora_A.weight", "prompt_embeddings")):
        return
    generator = torch.Generator().manual_seed(int(sha256(name.encode()).hexdigest()[:8], 16))
    draw = torch.rand(tensor.shape, generator=generator) * 2 - 1
    width = tensor.shape[1] ** -0.5 if name.endswith("lora_A.weight") else 0.5
    with torch.no_grad():
        tensor.copy_(draw * width)


def attach_sapwood(net: Any, method: str = "lora") -> dict[str, Any]:
    """Attach a method and return its trained tensors by path."""
    from sapwood.methods.parts import weights

    own_method(method).attach(net)
    found = dict(weights(net))
    for name, tensor in found.items():
        first_weights(name, tensor)
    return found


def attach_peft(net: Any, method: str = "lora") -> tuple[Any, dict[str, Any]]:
    """Attach PEFT's method and return (the PEFT net, its trained tensors by Sapwood's names)."""
    from peft import get_peft_model

    wrapped: Any = get_peft_model(net, peer_config(method))
    found = {}
    for name, tensor in wrapped.named_parameters():
        if tensor.requires_grad:
            own = name.removeprefix("base_model.model.").replace(".default", "")
            own = own.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
            if own.startswith("prompt_encoder"):
                home = "trained_prefix" if method == "prefix" else "virtual_tokens"
                own = f"{home}.prompt_embeddings"
            found[own] = tensor
            first_weights(own, tensor)
    return wrapped, found


def supervision(net: Any, work: Work) -> Any:
    """Return Sapwood's loss over the rows, the instruction computed once a pack.

    Sapwood's own trained prefix stands behind what rows share, PEFT's before it: to compare the
    same function the instruction is then a part of each row on both sides.
    """
    from sapwood.methods.prompt import virtual_ids
    from sapwood.models.decoder import Decoder
    from sapwood.models.prefixes import trained_prefix
    from sapwood.training import Supervision, target

    shared, rests = (*virtual_ids(net), *work.prefix), work.rests
    if trained_prefix(net) is not None:
        shared, rests = (), [[*work.prefix, *rest] for rest in rests]
    targets = [target(r, g, work.trie) for r, g in zip(rests, work.gold, strict=True)]
    return Supervision(Decoder(net), targets, work.trie, shared=shared, loss="vocabulary")


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


def run_sapwood(net: Any, work: Work, method: str) -> tuple[list[Ends], list[float]]:
    """Train; return (clock at the end of every step, losses)."""
    from sapwood.training import fit, make_optimiser

    trained = attach_sapwood(net, method)
    optimiser = make_optimiser(list(trained.values()), work.recipe)
    ends: list[Ends] = []
    losses = []
    for step in fit(supervision(net, work), optimiser, work.recipe, total=work.total):
        ends.append(clock())
        losses.append(step.loss)
    return ends, losses


def run_trainer(net: Any, work: Work, arm: Arm) -> tuple[list[Ends], list[float], Any]:
    """Train; return (clock at the end of every step, losses, the PEFT net)."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from sapwood.training import learning_rate

    ends: list[Ends] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clock())

    wrapped, _ = attach_peft(net, arm.method)
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
            train_dataset=[rows[n] for n in work.order()],
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
        ends, losses = run_sapwood(base.net, work, arm.method)
        if arm.save:
            save_sapwood(base.net, arm)
    else:
        ends, losses, wrapped = run_trainer(base.net, work, arm)
        if arm.save:
            wrapped.save_pretrained(arm.save)
    counted = (arm.steps - arm.warm) * arm.batch
    wall, cpu = (end - start for end, start in zip(ends[-1], ends[arm.warm - 1], strict=True))
    return {
        "examples_per_second": counted / wall if counted else 0.0,
        "cpu_seconds_per_example": cpu / counted if counted else 0.0,
        "peak_bytes": _peak(),
        "peak_bytes_when_loaded": before,
        "loaded_bytes": loaded,
        "losses": losses,
    }


def save_sapwood(net: Any, arm: Arm) -> None:
    """Write the adapter in PEFT's layout, as the Trainer's side is written."""
    from sapwood.methods.folder import write_method
    from sapwood.methods.parts import stored

    method = own_method(arm.method)
    write_method(stored(net), method, Path(arm.save), base=arm.model, transposed=False)


def _peak() -> int:
    """Return this process's largest resident size so far, bytes.

    Not ru_maxrss where /proc is there: on Linux a child begins with its parent's.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident() -> int:
    """Return this process's resident size, bytes, or its peak where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return _peak()
    return pages * os.sysconf("SC_PAGE_SIZE")
