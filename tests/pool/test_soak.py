"""Many adaptations, few in memory: each answer is its adaptation's own, and memory stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"


@pytest.mark.slow
def test_sixty_adaptations_in_eight_places(small_base: Path) -> None:
    flags = ("--smoke", "--json", "--threads", "1", "--soak", "0.33", "--registered", "60")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *flags, "--resident", "8", "--model", str(small_base)],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["wrong"] == 0, row["first_wrong"]
    assert row["distinct_marks"] >= 55  # else a wrong adaptation could go unnoticed
    assert row["answers"] > 200
    assert row["loads"] > 50
    assert row["resident_at_the_end"] <= 8
    assert row["cancelled_at_the_end"] == 0
    assert row["memory_last_vs_middle"] < 1.05
