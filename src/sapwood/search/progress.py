"""What a judged training run remembers between steps; all of it is in every checkpoint."""

from __future__ import annotations

from typing import Any

from sapwood.training.course import Losses

PATIENCE = 4  # evaluations without a better score before training ends early


class Progress(Losses):
    """The plan (`total` steps, 0 until it is fixed), the curves, and the best score so far.

    `best`: (accuracy, -log loss) on the watched development rows; `waited`: evaluations since.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.forecast: float | None = None
        self.best = (-1.0, 0.0)
        self.waited = 0
        self.curve |= {"dev_step": [], "dev": []}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return {
            **super().to_json(),
            "total": self.total,
            "forecast": self.forecast,
            "best": list(self.best),
            "waited": self.waited,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Take back what `to_json` gave."""
        super().restore(content)
        self.total, self.forecast = content["total"], content["forecast"]
        self.best = (content["best"][0], content["best"][1])
        self.waited = content["waited"]

    def judge(self, number: int, accuracy: float, loss: float) -> bool:
        """Add one evaluation; return whether it is the best so far."""
        self.curve["dev_step"].append(number)
        self.curve["dev"].append(accuracy)
        better = (accuracy, -loss) > self.best
        self.waited = 0 if better else self.waited + 1
        if better:
            self.best = (accuracy, -loss)
        return better

    def state(self) -> str:
        """Return where the run stands, without its speed."""
        dev = f" · dev {self.curve['dev'][-1]:.3f}" if self.curve["dev"] else ""
        return super().state() + dev
