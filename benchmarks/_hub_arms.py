"""Sapwood's side of the comparison with AdapterHub's `adapters`, which has its own interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _tuning_arms import Arm, attach_sapwood, features, load, own_method, prepare, supervision
from common import ROOT, say

VARIABLE = "SAPWOOD_HUB_PYTHON"
SKIPPED = (
    f"adapter: skipped, {VARIABLE} is not set; it names a Python that has adapters==1.3.0, torch "
    "and accelerate (its transformers is older, so it cannot be this one)"
)
TOLERANCE = 1e-4


def interpreter() -> str:
    """Return AdapterHub's interpreter, or an empty string."""
    return os.environ.get(VARIABLE, "")


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Where jobs for AdapterHub's side are laid out, of one arm of Sapwood's."""

    arm: Arm
    folder: Path

    @property
    def job(self) -> Path:
        """Return the file that says what is trained, by the number of steps."""
        return self.folder / f"steps{self.arm.steps}.json"

    def run(self, work: str) -> dict[str, Any]:
        """Do "first", "saved" or "train" there, in a process of its own."""
        job = json.loads(self.job.read_text(encoding="utf-8"))
        path = self.folder / f"{work}.json"
        path.write_text(json.dumps({**job, "work": work}), encoding="utf-8")
        script = Path(__file__).with_name("_hub_side.py")
        done = subprocess.run(
            [interpreter(), str(script), str(path)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
        if done.returncode:
            say(done.stderr[-3000:])
            raise SystemExit("AdapterHub's side failed")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def prepare(self, *, drawn: bool) -> dict[str, Any]:
        """Write the job with Sapwood's first weights; return the base, the weights and the rows.

        `drawn`: the upper matrices, zero at first, are drawn instead, so that all gradients count.
        """
        import torch

        from sapwood.methods.hub_folder import write_hub
        from sapwood.methods.parts import stored
        from sapwood.training import learning_rate

        base = load(self.arm)
        work = prepare(base.tokenizer, self.arm)
        trained = attach_sapwood(base.net, self.arm.method)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, tensor in trained.items():
                if drawn and name.endswith("adapter_up.weight"):
                    tensor.normal_(std=0.02, generator=generator)
        adapter = self.folder / ("drawn" if drawn else "adapter")
        write_hub(stored(base.net), own_method(self.arm.method), adapter, net=base.net)
        rows = features(work)
        job = {
            "base": str(base.folder), "adapter": str(adapter), "pad": work.pad,
            "rows": [rows[n] for n in work.order()], "batch": self.arm.batch,
            "steps": self.arm.steps, "warm": self.arm.warm, "clip": work.recipe.clip,
            "rates": [learning_rate(work.recipe, s + 1, work.total) for s in range(work.total + 1)],
            "gradients": str(self.folder / "gradients"),
        }  # fmt: skip
        self.job.write_text(json.dumps(job), encoding="utf-8")
        return {"net": base.net, "trained": trained, "work": work}


def check(arm: Arm, folder: Path) -> dict[str, Any]:
    """Compare the first step's loss and every gradient of both sides."""
    import torch

    from sapwood.methods.hub_folder import read_hub

    hub = Hub(arm=arm, folder=folder)
    made = hub.prepare(drawn=True)
    net, trained, work = made["net"], made["trained"], made["work"]
    lossy, numbers = supervision(net, work), work.order()[: arm.batch]
    loss = torch.zeros(())
    for part, _ in lossy.losses(numbers, work.recipe.pack_tokens):
        (part / lossy.supervised(numbers)).backward()
        loss += part.detach() / lossy.supervised(numbers)
    theirs = hub.run("first")
    _, gradients = read_hub(folder / "gradients", load(arm).net)
    gaps = [float((t.grad - gradients[name]).abs().max()) for name, t in trained.items()]
    difference = abs(float(loss) - theirs["loss"])
    return {
        "row": "first step",
        "method": arm.method,
        "peer": "adapterhub",
        "loss_sapwood": float(loss),
        "loss_adapterhub": theirs["loss"],
        "difference_of_loss": difference,
        "largest_difference_of_gradients": max(gaps),
        "largest_gradient": max(float(t.grad.abs().max()) for t in trained.values()),
        "tensors": len(gaps),
        "equal": max(*gaps, difference) <= TOLERANCE,
        "versions": theirs["versions"],
    }
