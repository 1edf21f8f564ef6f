"""AdapterHub's side of method_speed.py, run by its own interpreter: `_hub_side.py JOB.json`.

The job holds token ids, learning rates and the folder of an adapter as AdapterHub reads it, so that
nothing of Sapwood is needed but the call that raises malloc's thresholds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from _saved_bytes import counted, storages
from _tuning_arms import Ends, _peak, collate
from common import clock


def opened(job: dict[str, Any]) -> tuple[Any, str]:
    """Return the base with the job's adapter ready to train, and the adapter's name."""
    import adapters
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.from_pretrained(job["base"])
    rotary = getattr(config, "rope_parameters", None)
    if rotary:  # transformers 5 writes it there, and 4 would silently turn by its default
        config.rope_theta = rotary["rope_theta"]
    net = transformers.AutoModelForCausalLM.from_pretrained(
        job["base"], config=config, torch_dtype=torch.float32
    )
    adapters.init(net)
    name: str = net.load_adapter(job["adapter"], use_safetensors=True)
    net.train_adapter(name)
    net.train()
    return net, name


def first_batch(job: dict[str, Any], net: Any) -> Any:
    """Return the loss of the first batch, with its graph."""
    return net(**collate(job["rows"][: job["batch"]], job["pad"])).loss


def first_step(job: dict[str, Any]) -> dict[str, Any]:
    """Return the first loss; gradients are written as an adapter of their own."""
    import torch

    net, name = opened(job)
    loss = first_batch(job, net)
    loss.backward()
    with torch.no_grad():
        for tensor in net.parameters():
            if tensor.requires_grad:
                tensor.copy_(tensor.grad)
    net.save_adapter(job["gradients"], name, use_safetensors=True)
    packages = ("adapters", "torch", "transformers", "accelerate")
    return {"loss": float(loss), "versions": {name: metadata.version(name) for name in packages}}


def saved(job: dict[str, Any]) -> dict[str, Any]:
    """Return the bytes that autograd keeps for the first batch, weights not counted."""
    net, _ = opened(job)
    with counted(storages(net)) as found:
        loss = first_batch(job, net)
    del loss
    return {"saved_bytes": sum(found.values())}


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train under AdapterTrainer and return what it took, as `_tuning_arms.run_arm` does."""
    import torch
    from adapters import AdapterTrainer
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback, TrainingArguments

    ends: list[Ends] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clock())

    class InOrder(AdapterTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset if dataset is None else dataset)

    net, _ = opened(job)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: job["rates"][step])
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=job["steps"],
            per_device_train_batch_size=job["batch"],
            max_grad_norm=job["clip"],
            use_cpu=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = InOrder(
            model=net,
            args=settings,
            train_dataset=job["rows"],
            data_collator=lambda batch: collate(batch, job["pad"]),
            optimizers=(optimiser, schedule),
            callbacks=[Clock()],
        )
        trainer.train()
    counted_rows = (job["steps"] - job["warm"]) * job["batch"]
    wall, cpu = (end - start for end, start in zip(ends[-1], ends[job["warm"] - 1], strict=True))
    return {
        "examples_per_second": counted_rows / wall,
        "cpu_seconds_per_example": cpu / counted_rows,
        "peak_bytes": _peak(),
    }


def main() -> None:
    """Do one job and print the result."""
    from sapwood.launch import raise_malloc_thresholds

    raise_malloc_thresholds()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps({"first": first_step, "saved": saved, "train": train}[job["work"]](job)))


if __name__ == "__main__":
    main()
