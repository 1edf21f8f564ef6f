"""What a pretraining run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sapwood.errors import ConfigError
from sapwood.training.optimisers import NAMES

WARMUP = 0.05


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run. `corpus`: a folder of `sapwood corpus build`; `model`: the name of a new net, or
    `base`: a checkpoint to go on with. `seconds` of budget, or `steps`.

    `objective`: "" for what the kind of net is usually trained for; `length`: tokens of a row;
    `batch_size`: rows a step, 0 for what suits the machine; `learning_rate`: 0 for what suits the
    width; `optimiser`: "muon", "adamw" or "auto"; `replay`: an old corpus, of which `share` of
    the rows come; `dropout`: of a new net, in [0, 1); `engine`: what computes losses and gradients,
    "torch" or "tensorflow" (in float32), the latter compiled by XLA with `xla`.
    """

    corpus: Path
    out: Path
    objective: str = ""
    model: str = ""
    base: str = ""
    seconds: float = 0.0
    steps: int = 0
    length: int = 256
    batch_size: int = 0
    learning_rate: float = 0.0
    optimiser: str = "auto"
    weight_decay: float = 0.01
    dropout: float = 0.0
    engine: str = "torch"
    xla: bool = False
    replay: Path | None = None
    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if bool(self.model) == bool(self.base):
            problems.append("name either a new net (--model) or a base to go on with (--from)")
        if self.seconds <= 0 and self.steps <= 0:
            problems.append("give a budget of time (--budget 10m) or of steps (--steps 1000)")
        if self.optimiser not in ("auto", *NAMES):
            problems.append(f"the optimiser must be auto or one of {', '.join(NAMES)}")
        if not 0 <= self.dropout < 1:
            problems.append(f"the dropout must be from 0 to below 1, not {self.dropout:g}")
        if self.base and self.dropout:
            problems.append("a base that is gone on with (--from) is trained without dropout")
        if self.length < 8:
            problems.append(f"rows of {self.length} tokens are too short: 8 at least")
        if problems:
            raise ConfigError(
                "E-CONFIG-244", "This cannot be trained as asked.", details=problems,
                fix="sapwood pretrain CORPUS --model bert-tiny --objective mlm --budget 10m",
            )  # fmt: skip
