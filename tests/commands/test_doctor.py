"""`sapwood doctor`: facts of the machine, and advice only where something costs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from sapwood.commands.doctor import advise, command, cores
from sapwood.launch import memory

QUIET: dict[str, Any] = {
    "machine": {"cores": 2},
    "load": 0.1,
    "omp_wait_policy": "",
    "runtime": {"threads": 2},
    "memory_bytes": {"available": 8_000_000_000},
    "disk_free_bytes": 50_000_000_000,
    "home": "cache",
    "pulled": {"smollm2-135m": "cache/models/smollm2-135m"},
}


def test_a_quiet_machine_needs_no_advice() -> None:
    assert advise(QUIET) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"load": 3.0}, "OMP_WAIT_POLICY=PASSIVE, or OMP_NUM_THREADS=1"),
        ({"omp_wait_policy": "passive"}, "costs 4 to 38 %"),
        ({"memory_bytes": {"available": 1_000_000_000}}, "Only 1.0 GB of memory are free"),
        ({"disk_free_bytes": 1_000_000_000}, "Only 1.0 GB of disk are free in cache"),
        ({"pulled": {}}, "sapwood models pull smollm2-135m"),
    ],
)
def test_each_thing_that_costs_gets_one_sentence(change: dict[str, Any], words: str) -> None:
    (advice,) = advise(QUIET | change)
    assert words in advice


def test_busy_cores_do_not_matter_to_one_thread_or_passive_threads() -> None:
    assert advise(QUIET | {"load": 3.0, "runtime": {"threads": 1}}) == []
    assert advise(QUIET | {"load": 3.0, "omp_wait_policy": "PASSIVE"}) == []


def test_the_report_is_complete() -> None:
    done = CliRunner().invoke(command, ["--json"], catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert facts["versions"]["torch"].startswith("2.")
    assert facts["bfloat16"]["speedup_on_cpu"] > 0
    assert facts["runtime"]["dtype"] in ("bfloat16", "float32")
    words = CliRunner().invoke(command, [], catch_exceptions=False).stdout
    for key in ("machine", "runs on", "memory", "disk", "load", "home", "bases"):
        assert f"\n{key:<12}" in f"\n{words}"


def test_memory_and_cores_are_plausible() -> None:
    total, available = memory()
    assert total is None or (available is not None and 0 < available <= total)
    assert cores() >= 1
