"""What `eval` and `predict` share: finding an adaptation and making it ready."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sapwood.adaptation import Adaptation
    from sapwood.evaluation import Bases


def open_adaptation(folder: Path) -> Adaptation:
    """Load an adaptation from its folder or from the folder of the run that made it."""
    from sapwood.adaptation import MAIN, load

    inner = folder / "adaptation"
    return load(inner if (inner / MAIN).exists() and not (folder / MAIN).exists() else folder)


def make_bases(device: str, dtype: str, trust_remote_code: str = "") -> Bases:
    """Choose the runtime and return an empty set of bases on it."""
    from sapwood.evaluation import Bases
    from sapwood.launch import choose_runtime, raise_malloc_thresholds

    raise_malloc_thresholds()
    return Bases(choose_runtime(device, dtype), trust_remote_code=trust_remote_code)
