"""For tests, ours and yours: tiny nets, and the check that a method keeps its promises."""

from sapwood.testing.methods import Checked, check_method
from sapwood.testing.nets import EVERY_KIND, KINDS, run_tiny, tiny_net

__all__ = ["EVERY_KIND", "KINDS", "Checked", "check_method", "run_tiny", "tiny_net"]
