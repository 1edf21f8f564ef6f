"""What a training run remembers between steps; all of it is in every checkpoint."""

from __future__ import annotations

from typing import Any

from sapwood.training import Step

PATIENCE = 4  # evaluations without a better score before training ends early
_SERIES = ("step", "loss", "lr", "seconds", "dev_step", "dev")


class Progress:
    """The plan (`total` steps, 0 until it is fixed), the curves, and the best score so far.

    `best`: (accuracy, -log loss) on the watched development rows; `waited`: evaluations since.
    """

    def __init__(self) -> None:
        self.total = 0
        self.forecast: float | None = None
        self.best = (-1.0, 0.0)
        self.waited = 0
        self.curve: dict[str, list[float]] = {key: [] for key in _SERIES}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready copy."""
        return {
            "total": self.total,
            "forecast": self.forecast,
            "best": list(self.best),
            "waited": self.waited,
            "curve": self.curve,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Take back what `to_json` gave."""
        self.total, self.forecast = content["total"], content["forecast"]
        self.best = (content["best"][0], content["best"][1])
        self.waited, self.curve = content["waited"], content["curve"]

    def record(self, step: Step) -> None:
        """Add one step to the curves."""
        self.curve["step"].append(step.number)
        self.curve["loss"].append(step.loss)
        self.curve["lr"].append(step.learning_rate)
        self.curve["seconds"].append(step.seconds)

    def judge(self, number: int, accuracy: float, loss: float) -> bool:
        """Add one evaluation; return whether it is the best so far."""
        self.curve["dev_step"].append(number)
        self.curve["dev"].append(accuracy)
        better = (accuracy, -loss) > self.best
        self.waited = 0 if better else self.waited + 1
        if better:
            self.best = (accuracy, -loss)
        return better

    def line(self, step: Step) -> str:
        """Return the state in a few words for the screen."""
        recent = self.curve["loss"][-10:]
        speed = step.tokens / max(step.seconds, 1e-9)
        dev = f" · dev {self.curve['dev'][-1]:.3f}" if self.curve["dev"] else ""
        return f"loss {sum(recent) / len(recent):.3f}{dev} · {speed:,.0f} tokens/s"
