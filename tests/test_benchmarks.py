"""The benchmarks start, and their result has the shape that other programs rely on.

The figures themselves are measured by `make bench`, never here: a tiny random net says nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = ("icl_scoring", "tuning")
PEERS = {"icl_scoring": ("lm_eval", "datasets"), "tuning": ("peft", "accelerate")}
ICL_RATIOS = {
    "one_token_vs_lm_eval", "many_label_vs_lm_eval",
    "one_token_vs_plain_loop", "many_label_vs_plain_loop",
}  # fmt: skip
TUNING_RATIOS = {"examples_per_second_vs_peft_trainer", "peak_memory_vs_peft_trainer"}


def launch(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py"), *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
    )


def smoke(script: str, checkpoint: Path) -> dict[str, Any]:
    missing = [name for name in PEERS[script] if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[bench]'")
    flags = ("--smoke", "--json", "--threads", "1", "--model", str(checkpoint))
    done = launch(script, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"claim", "machine", "versions", "rows", "ratios"} <= set(found)
    assert found["machine"]["threads"] == 1
    assert found["machine"]["OMP_WAIT_POLICY"]
    assert found["machine"]["load_average"]
    assert {"sapwood", "torch", "transformers", PEERS[script][0]} <= set(found["versions"])
    assert all(isinstance(value, float) and value > 0 for value in found["ratios"].values())
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_peer(script: str) -> None:
    done = launch(script, "--help")
    assert done.returncode == 0
    assert "--quick" in done.stdout
    assert "--json" in done.stdout
    assert "--smoke" not in done.stdout


def test_icl_scoring_shape(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("icl_scoring", tiny_checkpoint("llama"))
    assert set(found["ratios"]) >= ICL_RATIOS
    sides = {row["side"] for row in found["rows"]}
    assert sides == {"sapwood", "lm_eval", "plain_loop", "sapwood_same_few_queries"}
    for row in found["rows"]:
        assert row["largest_difference_of_log_p"] <= 1e-4
        assert row["predictions_equal"]


@pytest.mark.slow
def test_tuning_shape(tiny_checkpoint: Callable[[str], Path]) -> None:
    found = smoke("tuning", tiny_checkpoint("llama"))
    assert set(found["ratios"]) >= TUNING_RATIOS
    first = found["rows"][0]
    assert first["equal"], first
    assert first["largest_gradient"] > 1e-3  # so that equality says something
    arms = {row["arm"] for row in found["rows"] if row["row"] == "speed"}
    assert len(arms) == 10
    finals = [row for row in found["rows"] if row["row"] == "final score"]
    assert {row["side"] for row in finals} == {"sapwood", "trainer"}
    assert all(row["dev"]["low"] <= row["dev"]["value"] <= row["dev"]["high"] for row in finals)
