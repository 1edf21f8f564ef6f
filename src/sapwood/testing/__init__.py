"""For tests, ours and yours: tiny nets, and checks that methods and objectives keep promises."""

from sapwood.testing.methods import Checked, check_method
from sapwood.testing.nets import EVERY_KIND, KINDS, run_tiny, tiny_net
from sapwood.testing.objectives import (
    Examined,
    check_objective,
    sample_documents,
    sample_vocabulary,
)

__all__ = [
    "EVERY_KIND",
    "KINDS",
    "Checked",
    "Examined",
    "check_method",
    "check_objective",
    "run_tiny",
    "sample_documents",
    "sample_vocabulary",
    "tiny_net",
]
