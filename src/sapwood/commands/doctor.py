"""`sapwood doctor`: what this machine can do and what would slow it down."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

PACKAGES = (
    "sapwood",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "numpy",
)
LOW_DISK = 3_000_000_000  # bytes; all bases of the store and a few runs
LOW_MEMORY = 3_000_000_000  # bytes; tuning SmolLM2-135M peaks below that


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(*, as_json: bool) -> None:
    """Check the machine, the installation and the cache."""
    facts = examine()
    if as_json:
        click.echo(json.dumps(facts))
        return
    for key, value in _lines(facts).items():
        click.echo(f"{key:<12}{value}")
    if not facts["advice"]:
        click.echo("Nothing to put right.")
    for advice in facts["advice"]:
        click.echo(f"• {advice}")


def examine() -> dict[str, Any]:
    """Return what `sapwood doctor --json` prints; measures the number formats afresh (0.2 s)."""
    from sapwood.config import home
    from sapwood.launch import WORTH_IT, bfloat16_speedup, choose_runtime, memory, processor
    from sapwood.models.store import installed

    speedup = bfloat16_speedup(afresh=True)
    runtime = choose_runtime()
    cpu = processor()
    total, available = memory()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    facts: dict[str, Any] = {
        "machine": {"system": platform.platform(), "cpu": cpu.model, "cores": cores()},
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "runtime": {
            "device": runtime.device,
            "dtype": runtime.dtype,
            "threads": runtime.threads,
            "described": runtime.describe(),
        },
        "bfloat16": {"speedup_on_cpu": round(speedup, 2), "chosen_from": WORTH_IT},
        "memory_bytes": {"total": total, "available": available},
        "disk_free_bytes": shutil.disk_usage(home()).free,
        "load": load,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "home": str(home()),
        "pulled": {name: str(folder) for name, folder in installed().items()},
    }
    facts["advice"] = advise(facts)
    return facts


def advise(facts: dict[str, Any]) -> list[str]:
    """Return what should be put right, one sentence each, most costly first."""
    advice = []
    crowded = facts["load"] is not None and facts["load"] > 0.5 * facts["machine"]["cores"]
    passive = facts["omp_wait_policy"].upper() == "PASSIVE"
    threads = facts["runtime"]["threads"]
    if crowded and threads > 1 and not passive:
        advice.append(
            f"Other programs keep the cores busy (load {facts['load']:.1f} on "
            f"{facts['machine']['cores']}): torch's threads then spin against them, about 4 times "
            "slower. Start Sapwood with OMP_WAIT_POLICY=PASSIVE, or OMP_NUM_THREADS=1."
        )
    if passive and not crowded:
        advice.append(
            "OMP_WAIT_POLICY=PASSIVE costs 4 to 38 % on a machine as quiet as this one is now."
        )
    available = facts["memory_bytes"]["available"]
    if available is not None and available < LOW_MEMORY:
        advice.append(f"Only {available / 1e9:.1f} GB of memory are free; tuning may need 3 GB.")
    if facts["disk_free_bytes"] < LOW_DISK:
        advice.append(
            f"Only {facts['disk_free_bytes'] / 1e9:.1f} GB of disk are free in {facts['home']}; "
            "set SAPWOOD_HOME to a folder on another disk."
        )
    if not facts["pulled"]:
        advice.append("No base is pulled yet: sapwood models pull smollm2-135m")
    return advice


def cores() -> int:
    """Return the number of CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    total, available = facts["memory_bytes"].values()
    here = f"{available / 1e9:.1f} GB free of {total / 1e9:.1f} GB" if available else "unknown"
    machine = facts["machine"]
    busy = (
        "unknown" if facts["load"] is None else f"{facts['load']:.1f} on {machine['cores']} cores"
    )
    return {
        "machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}",
        "python": facts["python"],
        "packages": ", ".join(f"{n} {v}" for n, v in facts["versions"].items()),
        "runs on": facts["runtime"]["described"],
        "memory": here,
        "disk": f"{facts['disk_free_bytes'] / 1e9:.1f} GB free",
        "load": busy,
        "home": facts["home"],
        "bases": ", ".join(facts["pulled"]) or "none pulled",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
