"""A run that is killed at any moment goes on where it was, and ends as if nothing had happened."""

import json
import random
import signal
from pathlib import Path

import pytest

CODE = """
import sys
from sapwood.search import tuning
tuning.CHECKPOINT_SECONDS = 0.02  # twenty seconds, for runs that take two
import sapwood.report
sapwood.report.write_html = lambda *given: None  # plots take longer than all the rest
from sapwood.cli import main
main(sys.argv[1:])
"""
TIMED = (
    "spent",
    "fit_seconds",
    "ms_per_query",
    "read_ms",
    "peak_bytes",
    "seconds",
    "command",
    "verdict",
)


def timeless(value):
    """Return a report without what the clock decides, the order of equals included."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMED}
    if isinstance(value, list):
        made = [timeless(v) for v in value]
        compared = made and isinstance(made[0], dict) and "against" in made[0]
        return sorted(made, key=json.dumps) if compared else made
    return value


@pytest.fixture(scope="module")
def start(live, small_base, write_rows, tmp_path_factory):
    data = write_rows(tmp_path_factory.mktemp("data") / "reviews.csv", count=80)

    def run(out: Path, **order):
        return live(
            CODE, "adapt", data, "--model", small_base, "--encoder", "none", "--budget", "10m",
            "--epochs", "3", "--device", "cpu", "--dtype", "float32", "--out", out, **order,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    life = start(out)
    assert life.code == 0, life.text
    return out, life.seconds


def finished(out: Path) -> dict[str, tuple]:
    """Return for each candidate with a result what would change if it were made again."""
    found = {}
    for path in out.glob("run/candidates/*/result.json"):
        made = path.parent / "adaptation" / "adaptation.json"
        seconds = json.loads(path.read_text())["fit_seconds"]
        found[path.parent.name] = (seconds, made.stat().st_mtime_ns if made.exists() else 0)
    return found


def assert_same(out: Path, other: Path) -> None:
    """Assert that two runs handed over the same weights, predictions and evidence."""
    for name in ("lora", "lora+context"):
        inside = f"run/candidates/{name}/adaptation/adapter_model.safetensors"
        assert (out / inside).read_bytes() == (other / inside).read_bytes(), name
    for name in ("readout.json", "readout.safetensors"):
        assert (out / "adaptation" / name).read_bytes() == (
            other / "adaptation" / name
        ).read_bytes()
    one, two = (json.loads((o / "report.json").read_text()) for o in (out, other))
    assert timeless(one) == timeless(two)


def no_litter(out: Path) -> list[str]:
    """Return what a killed process left half written and nobody removed."""
    return [str(p) for p in out.rglob(".*") if p.name != ".writable"]


def survive(start, out: Path, moments: list[float]) -> int:
    """Kill a run after each of these seconds, then let it end; return how many kills hit."""
    hits, known = 0, {}
    for seconds in [*moments, None]:
        life = start(out, after=seconds, signal=signal.SIGKILL if seconds else None)
        assert life.code in ((-9, 0) if seconds else (0,)), life.text
        hits += life.code == -9
        now = finished(out)
        assert {name: now.get(name) for name in known} == known, "a finished candidate was redone"
        known = now
    return hits


def spread(total: float, kills: int, seed: int) -> list[float]:
    """Return the lengths of lives whose ends spread over a run; each needs a start of its own."""
    rng = random.Random(seed)
    ends = sorted(rng.uniform(0, total) for _ in range(kills))
    return [0.15 * total + end - before for before, end in zip([0.0, *ends], ends, strict=False)]


def test_two_kills_change_nothing(start, undisturbed, tmp_path):
    out, seconds = undisturbed
    assert survive(start, tmp_path / "out", [0.35 * seconds, 0.35 * seconds]) >= 1
    assert_same(tmp_path / "out", out)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_ten_kills_at_random_moments_change_nothing(start, undisturbed, tmp_path, seed):
    out, seconds = undisturbed
    assert survive(start, tmp_path / "out", spread(seconds, 10, seed)) >= 4
    assert_same(tmp_path / "out", out)


def test_a_kill_in_the_middle_of_training_resumes_from_its_checkpoint(start, undisturbed, tmp_path):
    out = tmp_path / "out"
    trained = out / "run" / "candidates" / "lora+context"
    life = start(out, signal=signal.SIGKILL, when=str(trained / "checkpoint-*"))
    assert life.code == -9
    assert list(trained.glob("checkpoint-*")) and not (trained / "result.json").exists()
    assert start(out).code == 0
    assert not list(trained.glob("checkpoint-*"))
    assert not no_litter(out)
    assert_same(out, undisturbed[0])


def test_ctrl_c_saves_says_so_and_resumes(start, undisturbed, tmp_path):
    out = tmp_path / "out"
    trained = out / "run" / "candidates" / "lora+context"
    life = start(out, signal=signal.SIGINT, when=str(trained / "plan.json"))
    assert life.code == 130
    assert "Stopped and saved. Run the same command to go on from here." in life.text
    assert "Traceback" not in life.text
    assert not (out / "report.json").exists()
    assert list(trained.glob("checkpoint-*")) or (trained / "result.json").exists()
    known = finished(out)
    assert len(known) >= 8
    assert start(out).code == 0
    assert {name: finished(out)[name] for name in known} == known
    assert_same(out, undisturbed[0])


def test_a_second_run_while_the_first_was_finished_is_quiet(start, undisturbed):
    out, _ = undisturbed
    before = finished(out)
    life = start(out)
    assert life.code == 0 and life.text.count("done before") == len(before)
    assert finished(out) == before
