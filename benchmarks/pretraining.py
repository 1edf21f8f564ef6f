"""Pretraining: Sapwood against transformers' Trainer, and three families on one held-out book.

Both sides get the same rows in the same order, the same first weights, AdamW, rates and clipping.
Rows are pieces of documents; the Trainer pads them to the longest of a batch and its nets compute
their own loss, `BertForMaskedLM` over all positions as it does when labels are given. Each arm runs
in a process of its own; repeats are interleaved and medians are taken. Tokens are the real ones, so
that padding earns nothing; making examples is inside the times on both sides.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from _families import families
from common import (
    ROOT,
    arguments,
    clock,
    contention,
    finish,
    machine,
    median,
    require,
    say,
    settle,
    versions,
)

TOLERANCE = 1e-4
RATE, LENGTH, TOKENS = 1e-3, 256, 4096
OBJECTIVES = {"mlm": "bert-mini", "clm": "gpt-mini"}
WIKIPEDIA = "corpora/wikipedia/enwiki-gensim.xml.bz2"  # in the shared folder, else a sample
SAMPLE = "enwiki"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of one objective; `malloc`: whether freed memory is kept, on either side."""

    side: str
    objective: str
    corpus: str
    net: str
    steps: int
    warm: int
    malloc: str = "raised"
    batch: int = TOKENS // LENGTH
    length: int = LENGTH

    @property
    def name(self) -> str:
        """Return it in words."""
        return f"{self.objective} {self.net} {self.side} malloc={self.malloc}"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    steps: int = 40
    warm: int = 8
    repeats: int = 5


QUICK, SMOKE = Size(steps=10, warm=3, repeats=1), Size(steps=3, warm=1, repeats=1)


class Work:
    """What both sides train: the net, its examples by place, the recipe."""

    def __init__(self, arm: Arm) -> None:
        from transformers import AutoTokenizer

        from sapwood.corpora.corpus import Corpus
        from sapwood.models.kinds import new_net
        from sapwood.objectives import Draws, Vocabulary, objective
        from sapwood.training import Recipe
        from sapwood.training.stream import Stream

        corpus = Corpus.open(Path(arm.corpus))
        vocabulary = Vocabulary.of(AutoTokenizer.from_pretrained(str(corpus.tokenizer)))
        learns = objective(arm.objective)
        self.net = new_net(arm.net, vocabulary, arm.length, (arm.objective,))
        self.net.train()
        self.stream = Stream(Draws(learns, corpus.part("train"), vocabulary, arm.length, 0), 0)
        self.pad = vocabulary.pad or 0
        self.recipe = Recipe(
            learning_rate=RATE, batch_size=arm.batch, warmup=0.1, schedule="stable",
            order="stream", loss="vocabulary", pack_tokens=TOKENS,
        )  # fmt: skip

    def examples(self, step: int) -> list[Any]:
        """Return the examples of a step, from 1."""
        first = (step - 1) * self.recipe.batch_size
        return [self.stream.example(first + n) for n in range(self.recipe.batch_size)]

    def optimiser(self) -> Any:
        """Return torch's fused AdamW, the Trainer's own default."""
        import torch

        return torch.optim.AdamW(self.net.parameters(), lr=RATE, weight_decay=0.0, fused=True)


def collate(examples: Sequence[Any], pad: int) -> dict[str, Any]:
    """Return the rows of examples padded to the longest, as the Trainer's nets take them."""
    import torch

    from sapwood.training.pieces import pieces

    rows = [piece for example in examples for piece in pieces(example)]
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        size = len(row.ids)
        ids[number, :size] = torch.from_numpy(row.ids)
        labels[number, :size] = torch.from_numpy(row.labels)
        mask[number, :size] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def check(arm: Arm) -> dict[str, Any]:
    """Compare the first step's loss and gradients of both sides in float32."""
    import torch

    from sapwood.models.products import quickened
    from sapwood.training.readings import Pretraining, reading_for

    own, peer = Work(arm), Work(arm)
    theirs = peer.net(**collate(peer.examples(1), peer.pad)).loss
    theirs.backward()
    supervised = Pretraining(reading_for(quickened(own.net), (arm.objective,)), own.stream)
    numbers = list(range(arm.batch))
    supervised.supervised(numbers)
    loss = torch.zeros(())
    for part, _ in supervised.losses(numbers, TOKENS):
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    other = dict(peer.net.named_parameters())
    gaps = [
        float((weight.grad - other[name].grad).abs().max())
        for name, weight in own.net.named_parameters()
        if weight.grad is not None
    ]
    gap = abs(float(loss) - float(theirs.detach()))
    assert max(gap, *gaps) <= TOLERANCE, f"{arm.name}: losses {gap}, gradients {max(gaps)} apart"
    return {
        "row": "first step", "objective": arm.objective, "net": arm.net,
        "loss_sapwood": float(loss), "loss_trainer": float(theirs.detach()),
        "difference_of_loss": gap, "largest_difference_of_gradients": max(gaps),
    }  # fmt: skip


def run_sapwood(work: Work, arm: Arm) -> list[tuple[float, float]]:
    """Train; return the clock at the end of every step."""
    from sapwood.models.products import quickened
    from sapwood.training import fit
    from sapwood.training.readings import Pretraining, reading_for

    supervised = Pretraining(reading_for(quickened(work.net), (arm.objective,)), work.stream)
    steps = fit(supervised, work.optimiser(), work.recipe, total=arm.steps)
    return [clock() for _ in steps]


def run_trainer(work: Work, arm: Arm) -> list[tuple[float, float]]:
    """Train; return the clock at the end of every step."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from sapwood.training import learning_rate

    ends: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clock())

    class Places(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return arm.steps * arm.batch

        def __getitem__(self, place: int) -> Any:
            return work.stream.example(place)

    optimiser = work.optimiser()
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: learning_rate(work.recipe, s + 1, arm.steps) / RATE
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, max_steps=arm.steps, per_device_train_batch_size=arm.batch,
            max_grad_norm=work.recipe.clip, use_cpu=True, dataloader_num_workers=0,
            dataloader_pin_memory=False, logging_strategy="no", save_strategy="no",
            eval_strategy="no", report_to="none", disable_tqdm=True,
            remove_unused_columns=False, train_sampling_strategy="sequential",
        )  # fmt: skip
        Trainer(
            model=work.net, args=settings, train_dataset=Places(), callbacks=[Clock()],
            data_collator=lambda batch: collate(batch, work.pad),
            optimizers=(optimiser, schedule),
        ).train()  # fmt: skip
    return ends


def run_arm(arm: Arm) -> dict[str, Any]:
    """Run one arm in this process and return its speed."""
    from sapwood.launch import raise_malloc_thresholds

    if arm.malloc == "raised":
        raise_malloc_thresholds()
    work = Work(arm)
    ends = (run_sapwood if arm.side == "sapwood" else run_trainer)(work, arm)
    real = sum(
        len(example["input_ids"])
        for step in range(arm.warm + 1, arm.steps + 1)
        for example in work.examples(step)
    )
    wall, cpu = (end - start for end, start in zip(ends[-1], ends[arm.warm - 1], strict=True))
    return {"tokens_per_second": real / wall, "cpu_seconds_per_1000_tokens": 1000 * cpu / real}


def spawned(arm: Arm) -> dict[str, Any]:
    """Run one arm in a process of its own, with the settings of this one."""
    command = [sys.executable, __file__, "--arm", json.dumps(asdict(arm))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say(done.stderr[-3000:])
        raise SystemExit(f"the arm {arm.name} failed")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(arms: Sequence[Arm], repeats: int, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Run every arm `repeats` times, in turn; return a row for each with medians."""
    found: dict[Arm, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for number in range(repeats):
        for arm in arms:
            with contention(about):
                found[arm].append(spawned(arm))
            pace = found[arm][-1]["tokens_per_second"]
            say(f"  {number + 1}/{repeats} {arm.name}: {pace:,.0f} tokens/s")
    return [
        {
            "row": "speed", "arm": arm.name, "side": arm.side, "objective": arm.objective,
            "net": arm.net, "malloc": arm.malloc, "tokens_a_step": arm.batch * arm.length,
            "tokens_per_second": median([run["tokens_per_second"] for run in runs]),
            "repeats": [run["tokens_per_second"] for run in runs],
            "cpu_seconds_per_1000_tokens": median(
                [run["cpu_seconds_per_1000_tokens"] for run in runs]
            ),
        }
        for arm, runs in found.items()
    ]  # fmt: skip


def ratios_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return Sapwood's tokens a second over the Trainer's: the claims, and as each comes.

    Beside them tokens a second of this process's CPU time, which hardly feels a busy machine.
    """
    speed = {(r["objective"], r["side"], r["malloc"]): r["tokens_per_second"]
             for r in rows if r["row"] == "speed"}  # fmt: skip
    found = {}
    for name in OBJECTIVES:
        if (name, "sapwood", "raised") not in speed:
            continue
        own = speed[name, "sapwood", "raised"]
        found[f"{name}_vs_trainer"] = own / speed[name, "trainer", "raised"]
        cost = {
            r["side"]: r["cpu_seconds_per_1000_tokens"]
            for r in rows
            if (r["row"], r.get("objective"), r.get("malloc")) == ("speed", name, "raised")
        }
        found[f"{name}_vs_trainer_in_cpu_time"] = cost["trainer"] / cost["sapwood"]
        if (name, "trainer", "plain") in speed:
            found[f"{name}_vs_trainer_as_it_comes"] = own / speed[name, "trainer", "plain"]
    return found


def corpus_folder(given: str, *, smoke: bool, scratch: Path) -> Path:
    """Return a corpus: the one named, a made-up one for the tests, else Wikipedia's excerpt."""
    import os

    if given:
        return Path(given)
    if smoke:
        from sapwood.testing.corpora import tiny_corpus

        return tiny_corpus(scratch / "corpus", count=60, held=8)
    shared = Path(os.environ.get("SAPWOOD_SHARED") or ROOT.parent / "shared") / WIKIPEDIA
    source = str(shared) if shared.is_file() else SAMPLE
    command = [sys.executable, "-m", "sapwood", "corpus", "build", source, "--out",
               str(scratch / "corpus")]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return scratch / "corpus"


def main() -> None:
    """Measure, or run one arm."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--corpus", default="", help="a corpus folder (default: Wikipedia excerpt)")
    parser.add_argument("--objective", choices=[*OBJECTIVES, "both"], default="both")
    parser.add_argument("--net", default="", help="such as bert-tiny (default: the mini ones)")
    parser.add_argument("--families", metavar="MINUTES", type=float, default=0.0,
                        help="instead: n-gram, RNN and Transformer, so long each")  # fmt: skip
    parser.add_argument("--arm", default="", help="internal")
    given = parser.parse_args()
    settle(given.threads)
    if given.arm:
        print(json.dumps(run_arm(Arm(**json.loads(given.arm)))))
        return
    about = machine(given.threads)
    size = SMOKE if given.smoke else QUICK if given.quick else Size()
    if given.families:
        finish(families(given, about), compact=given.json)
        return
    require("accelerate")
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_folder(given.corpus, smoke=given.smoke, scratch=Path(folder))
        rows: list[dict[str, Any]] = []
        for name in OBJECTIVES if given.objective == "both" else (given.objective,):
            net = given.net or OBJECTIVES[name]
            net = net.replace("mini", "tiny") if given.smoke else net
            first = Arm(
                side="sapwood", objective=name, corpus=str(corpus), net=net, steps=size.steps,
                warm=size.warm,
            )  # fmt: skip
            first = replace(first, batch=2, length=32) if given.smoke else first
            rows.append(check(first))
            arms = [first, replace(first, side="trainer")]
            if not given.quick and not given.smoke:
                arms.append(replace(first, side="trainer", malloc="plain"))
            rows += measure(arms, size.repeats, about)
    finish(
        {
            "claim": "tokens a second of pretraining, the same net, rows and objective",
            "machine": about, "versions": versions(), "rows": rows, "ratios": ratios_of(rows),
        },
        compact=given.json,
    )  # fmt: skip


if __name__ == "__main__":
    main()
