"""Training: the loop, and what turns examples into a loss."""

from sapwood.training.heads import (
    IGNORED,
    HeadSupervision,
    TokenSupervision,
    TrainedHead,
    first_pieces,
    head_weights,
    scaled_optimiser,
)
from sapwood.training.labels import (
    Seat,
    Supervision,
    Target,
    check_trainable,
    packed,
    target,
)
from sapwood.training.lean import Lean
from sapwood.training.loop import (
    Recipe,
    Step,
    Supervised,
    batch_of,
    fit,
    learning_rate,
    make_optimiser,
)
from sapwood.training.start import started

__all__ = [
    "IGNORED",
    "HeadSupervision",
    "Lean",
    "Recipe",
    "Seat",
    "Step",
    "Supervised",
    "Supervision",
    "Target",
    "TokenSupervision",
    "TrainedHead",
    "batch_of",
    "check_trainable",
    "first_pieces",
    "fit",
    "head_weights",
    "learning_rate",
    "make_optimiser",
    "packed",
    "scaled_optimiser",
    "started",
    "target",
]
