"""Tuning a Llama of a billion parameters on a GPU: Sapwood against PEFT under the Trainer.

The base has the shape of Llama 3.2 1B and random weights in bfloat16, rows are random tokens of
which the last quarter is learnt; both sides train the same method on the same rows with AdamW. The
first losses stand in the result: those of LoRA, DoRA and IA3 begin as the base's and are equal up
to rounding, prefixes and prompts begin at random. "limit" is what no method can go below: a
forward and a backward pass of the frozen base alone, with gradients of the activations and of
nothing else. "equal" rows have one length, so nothing is gained by not padding; "unlike" rows have
the lengths of instructions. Each arm is a process of its own. Without CUDA nothing is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from common import arguments, contention, finish, machine, median, require, say, settle, versions

METHODS = ("lora", "dora", "ia3", "prefix", "prompt")
SIDES = ("sapwood", "trainer", "limit")
SHAPE = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256,
    "max_position_embeddings": 8192, "tie_word_embeddings": True, "rope_theta": 500_000.0,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 500, "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}  # fmt: skip
RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One process: a side, a method, the kind of rows, and how many steps it takes."""

    side: str
    method: str
    lengths: str
    steps: int = 12
    warm: int = 4
    smoke: bool = False


def rows_of(arm: Arm) -> list[list[list[int]]]:
    """Return for every step the token ids of its rows; the last quarter of a row is learnt."""
    rng = np.random.default_rng(0)
    vocabulary = (TINY if arm.smoke else SHAPE)["vocab_size"]
    found = []
    for _ in range(arm.steps):
        if arm.lengths == "equal":
            sizes = [1024] * 8
        else:  # median 180 tokens, one in twenty over 800: what instruction sets look like
            sizes = np.clip(rng.lognormal(5.2, 0.9, 32), 16, 1024).astype(int).tolist()
        if arm.smoke:
            sizes = [max(8, n // 32) for n in sizes[:4]]
        found.append([rng.integers(10, vocabulary, n).tolist() for n in sizes])
    return found


def learnt(row: Sequence[int]) -> int:
    """Return at which place of a row the answer begins."""
    return len(row) - max(1, len(row) // 4)


def make_net(arm: Arm) -> Any:
    """Return the random base, frozen, in bfloat16 on the GPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    device = "cpu" if arm.smoke else "cuda"
    torch.manual_seed(0)
    config = LlamaConfig(**(TINY if arm.smoke else SHAPE))
    with torch.device(device):
        net = LlamaForCausalLM(config).to(torch.bfloat16)
    return net.eval().requires_grad_(False)


def own_method(name: str) -> Any:
    """Return Sapwood's method, configured as `peer_config` configures PEFT's."""
    from sapwood.methods import METHODS as TABLE
    from sapwood.registry import resolve

    given: dict[str, Any] = {"tokens": 32} if name in ("prefix", "prompt") else {}
    given = {"rank": 16, "alpha": 32.0} if name in ("lora", "dora") else given
    given |= {"start": "random"} if name in ("prefix", "prompt") else {}
    return resolve("method", TABLE, name)(**given)


def peer_config(name: str) -> Any:
    """Return PEFT's configuration of a method."""
    import peft

    task = {"task_type": "CAUSAL_LM"}
    if name in ("lora", "dora"):
        return peft.LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear",
            use_dora=name == "dora", **task,
        )  # fmt: skip
    if name == "ia3":
        targets = ["k_proj", "v_proj", "down_proj"]
        return peft.IA3Config(target_modules=targets, feedforward_modules=["down_proj"], **task)
    kind = peft.PrefixTuningConfig if name == "prefix" else peft.PromptTuningConfig
    return kind(num_virtual_tokens=32, **task)


def targets_of(rows: Sequence[Sequence[int]]) -> list[Any]:
    """Return Sapwood's targets of rows."""
    from sapwood.models.layout import Row
    from sapwood.training.answers import AnswerTarget

    return [
        AnswerTarget(
            row=Row(ids=row[:-1], wanted=range(learnt(row) - 1, len(row) - 1)),
            answers=tuple(row[learnt(row) :]),
        )
        for row in rows
    ]


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Pad a batch to its longest row."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    filled = {"input_ids": 0, "labels": -100}
    batch = {
        name: torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])
        for name, fill in filled.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(longest)[None] < lengths[:, None]).long()
    return batch


class Clock:
    """When each step ended on the device."""

    def __init__(self, smoke: bool) -> None:
        self.smoke = smoke
        self.ends: list[float] = []

    def tick(self) -> None:
        """Note that a step has ended, once the device has finished it."""
        import torch

        if not self.smoke:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def run_sapwood(arm: Arm, clock: Clock) -> list[float]:
    """Train with Sapwood; return the losses."""
    from sapwood.methods.parts import weights
    from sapwood.methods.prompt import virtual_ids
    from sapwood.models.decoder import Decoder
    from sapwood.training import Recipe, fit, make_optimiser
    from sapwood.training.answers import AnswerSupervision

    net = make_net(arm)
    own_method(arm.method).attach(net)
    steps = rows_of(arm)
    net.train()
    size = len(steps[0])
    supervision = AnswerSupervision(
        Decoder(net), targets_of([row for rows in steps for row in rows]), shared=virtual_ids(net)
    )

    class InOrder:
        """The rows in the order in which the Trainer sees them."""

        def __init__(self) -> None:
            self.step = -1

        def __len__(self) -> int:
            return len(supervision)

        def supervised(self, numbers: Sequence[int]) -> int:
            self.step += 1
            return supervision.supervised(self.own())

        def own(self) -> list[int]:
            return list(range(self.step * size, (self.step + 1) * size))

        def losses(self, numbers: Sequence[int], budget: int) -> Any:
            return supervision.losses(self.own(), budget)

    recipe = Recipe(learning_rate=RATE, batch_size=size, loss="vocabulary")
    optimiser = make_optimiser(list(weights(net).values()), recipe)
    losses = []
    for step in fit(InOrder(), optimiser, recipe, total=len(steps)):
        clock.tick()
        losses.append(step.loss)
    return losses


def run_trainer(arm: Arm, clock: Clock) -> list[float]:
    """Train with PEFT under the Trainer; return the losses."""
    from peft import get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    steps = rows_of(arm)
    wrapped: Any = get_peft_model(make_net(arm), peer_config(arm.method))
    flat = [
        {"input_ids": row, "labels": [-100] * learnt(row) + row[learnt(row) :]}
        for rows in steps for row in rows
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, max_steps=len(steps), per_device_train_batch_size=len(steps[0]),
            learning_rate=RATE, weight_decay=0.0, use_cpu=arm.smoke, save_strategy="no",
            train_sampling_strategy="sequential", logging_steps=1, report_to="none",
            disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=not arm.smoke,
        )  # fmt: skip
        trainer = Trainer(
            model=wrapped, args=settings, train_dataset=flat, data_collator=collate,
            callbacks=[Ticks()],
        )  # fmt: skip
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def run_limit(arm: Arm, clock: Clock) -> list[float]:
    """Run the frozen base forward and backward, gradients of activations alone."""
    from sapwood.models.decoder import Decoder
    from sapwood.training.answers import AnswerSupervision

    net = make_net(arm)
    net.get_input_embeddings().register_forward_hook(lambda *a: a[2].requires_grad_())
    decoder, losses = Decoder(net), []
    for rows in rows_of(arm):
        supervision = AnswerSupervision(decoder, targets_of(rows))
        numbers = list(range(len(rows)))
        total = 0.0
        for loss, _ in supervision.losses(numbers, 16_384):
            loss.backward()
            total += float(loss.detach())
        losses.append(total / supervision.supervised(numbers))
        clock.tick()
    return losses


def run_arm(arm: Arm) -> dict[str, Any]:
    """Run one arm in this process and return what it took."""
    import torch

    clock = Clock(arm.smoke)
    run = {"sapwood": run_sapwood, "trainer": run_trainer, "limit": run_limit}[arm.side]
    losses = run(arm, clock)
    tokens = sum(len(row) for rows in rows_of(arm)[arm.warm :] for row in rows)
    return {
        "tokens_per_second": tokens / (clock.ends[-1] - clock.ends[arm.warm - 1]),
        "peak_bytes": 0 if arm.smoke else torch.cuda.max_memory_allocated(),
        "first_loss": losses[0],
        "losses": losses,
    }


def spawned(arm: Arm) -> dict[str, Any]:
    """Run an arm in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--arm", json.dumps(asdict(arm))],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{arm} failed")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run(options: Any) -> dict[str, Any]:
    """Return the result."""
    about = machine(options.threads)
    if not options.smoke:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("this measures a GPU, and there is none that torch can use")
        about["gpu"] = torch.cuda.get_device_name()
    rows, ratios = [], {}
    for lengths in options.lengths:
        for method in options.methods:
            arm = Arm(side="", method=method, lengths=lengths, smoke=options.smoke)
            arm = replace(arm, steps=3, warm=1) if options.smoke else arm
            found = {}
            for side in SIDES:
                repeats = 1 if options.quick or options.smoke else 3
                with contention(about):
                    took = [spawned(replace(arm, side=side)) for _ in range(repeats)]
                found[side] = took[0] | {
                    key: median([one[key] for one in took])
                    for key in ("tokens_per_second", "peak_bytes")
                }
                rows.append({"side": side, "method": method, "lengths": lengths, **found[side]})
                say(
                    f"{lengths} {method} {side}: {found[side]['tokens_per_second']:,.0f} tokens/s, "
                    f"{found[side]['peak_bytes'] / 2**30:.2f} GB, loss {took[0]['first_loss']:.4f}"
                )
            own, peer, limit = (found[side] for side in SIDES)
            name = f"{lengths}_{method}"
            ratios[f"{name}_speed_vs_trainer"] = (
                own["tokens_per_second"] / peer["tokens_per_second"]
            )
            ratios[f"{name}_speed_vs_limit"] = own["tokens_per_second"] / limit["tokens_per_second"]
            if peer["peak_bytes"]:
                ratios[f"{name}_peak_vs_trainer"] = own["peak_bytes"] / peer["peak_bytes"]
                ratios[f"{name}_peak_vs_limit"] = own["peak_bytes"] / limit["peak_bytes"]
    return {
        "claim": (
            "Tokens a second (padding not counted) and peak memory of the device of tuning a "
            "Llama of 1.2 billion random weights in bfloat16, against PEFT under the Trainer and "
            "against a forward and backward pass of the frozen base alone"
        ),
        "machine": about, "versions": versions(), "rows": rows, "ratios": ratios,
    }  # fmt: skip


def main() -> None:
    """Measure and print, or be one arm."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arm", help="one process of the comparison, as this script starts it")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--lengths", nargs="+", default=["equal", "unlike"])
    options = parser.parse_args()
    require("peft", "accelerate")
    settle(options.threads)
    if options.arm:
        print(json.dumps(run_arm(Arm(**json.loads(options.arm)))))
        return
    finish(run(options), compact=options.json)


if __name__ == "__main__":
    main()
