"""Training: the loop, and what turns examples into a loss."""

from sapwood.training.labels import (
    Seat,
    Supervision,
    Target,
    check_trainable,
    packed,
    target,
)
from sapwood.training.loop import (
    Recipe,
    Step,
    Supervised,
    batch_of,
    fit,
    learning_rate,
    make_optimiser,
)

__all__ = [
    "Recipe",
    "Seat",
    "Step",
    "Supervised",
    "Supervision",
    "Target",
    "batch_of",
    "check_trainable",
    "fit",
    "learning_rate",
    "make_optimiser",
    "packed",
    "target",
]
