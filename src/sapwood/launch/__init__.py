"""Where work runs: the device, the number format and the threads, chosen once and handed down."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapwood.config import home
from sapwood.errors import ConfigError, ResourceError
from sapwood.files import write_json

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = ("full", "int8", "int4")
# Rows x inner x outer of the measured product: SmolLM2's widest layer over a typical packed batch.
MEASURED_SHAPE = (512, 576, 1536)
MEASURED_SECONDS = 0.1  # for each of the two formats
WORTH_ONEDNN = 1.3  # a private operator of torch is worth using for no less
WORTH_IT = 1.5  # below this speed-up float32's precision is the better bargain
# glibc refuses an mmap threshold above half an arena's size (malloc/arena.c): 32 MiB on 64 bits.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_THRESHOLD, TRIM_THRESHOLD = 32 << 20, 1 << 30


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One device with its number format and CPU threads; `note` says why the format was chosen.

    `weights`: how a decoder's matrices are kept, one of WEIGHTS; "full" is `dtype` itself.
    """

    device: str
    dtype: str
    threads: int
    note: str = ""
    weights: str = "full"

    def torch_dtype(self) -> torch.dtype:
        """Return `dtype` as torch's own object."""
        import torch

        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    def describe(self) -> str:
        """Return one line: ``cpu, 2 threads, bfloat16 (4.6x faster than float32 here)``."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}, "
        note = f" ({self.note})" if self.note else ""
        packed = "" if self.weights == "full" else f", weights in {self.weights}"
        return f"{self.device}, {threads if self.device == 'cpu' else ''}{self.dtype}{note}{packed}"


def choose_runtime(device: str = "auto", dtype: str = "auto", weights: str = "full") -> Runtime:
    """Return where to run: CUDA if there, else the CPU; the number format that is fastest there.

    `device` is "auto" or any torch device ("cpu", "cuda", "cuda:1", "mps"); `dtype` one of DTYPES;
    `weights` one of WEIGHTS.
    On CUDA "auto" means bfloat16 (float32 on devices without it); on a CPU both formats are
    measured, once a machine. Raises ConfigError (E-CONFIG-010, E-CONFIG-011) for words that name
    nothing and ResourceError (E-RESOURCE-012) for a device that is not there.
    """
    import torch

    if dtype not in DTYPES:
        raise ConfigError(
            "E-CONFIG-010", f"Unknown number format '{dtype}'", fix=f"use {', '.join(DTYPES)}"
        )
    if weights not in WEIGHTS:
        raise ConfigError(
            "E-CONFIG-010",
            f"Unknown format of weights '{weights}'",
            fix=f"use {', '.join(WEIGHTS)}",
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _require_device(device)
    threads, note = torch.get_num_threads(), ""
    if dtype == "auto" and device.startswith("cuda"):
        dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    elif dtype == "auto" and device == "cpu":
        speedup = bfloat16_speedup()
        dtype = "bfloat16" if speedup >= WORTH_IT else "float32"
        note = f"{speedup:.1f}x faster than float32 here" if dtype == "bfloat16" else ""
        note = note or f"bfloat16 is {speedup:.1f}x its speed here"
    elif dtype == "auto":
        dtype = "float32"
    return Runtime(device=device, dtype=dtype, threads=threads, note=note, weights=weights)


def bfloat16_speedup(*, afresh: bool = False) -> float:
    """Return how many times faster this CPU multiplies bfloat16 than float32 matrices.

    Measured in about 0.2 s and kept per machine under the cache folder; `afresh` measures again.
    """
    return _kept(
        "bfloat16_speedup", lambda: _seconds("float32") / _seconds("bfloat16"), afresh=afresh
    )


@cache
def onednn_is_faster() -> bool:
    """Return whether oneDNN multiplies float32 matrices clearly faster than torch's default here.

    torch's default on x86 is MKL, which runs at half of oneDNN's speed on AMD processors. Measured
    in about 0.2 s and kept per machine, so that every run there computes the same bits.
    """
    if not has_onednn():
        return False
    speedup = _kept(
        "onednn_speedup", lambda: _seconds("float32") / _seconds("float32", onednn=True)
    )
    return speedup >= WORTH_ONEDNN


def has_onednn() -> bool:
    """Return whether this torch has oneDNN's fused linear product (x86 CPU builds do)."""
    import torch

    here = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return here and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _kept(name: str, measure: Callable[[], float], *, afresh: bool = False) -> float:
    """Return a measurement of this machine, from the cache folder where it was made before."""
    machine = asdict(processor())
    path = home() / "machine.json"
    known: dict[str, Any] = {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["machine"] == machine:
            known = content
            if not afresh:
                return float(content[name])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never measured, or by another version: measure now
    found = round(measure(), 3)
    write_json(path, {**known, "machine": machine, name: found})
    return found


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What a speed measurement depends on."""

    node: str
    model: str
    torch: str
    threads: int


def processor() -> Processor:
    """Return this machine's name, CPU model, torch version and thread count."""
    import torch

    return Processor(
        node=platform.node(),
        model=_cpu_model(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )


def raise_malloc_thresholds() -> bool:
    """Keep large temporary tensors' memory for reuse; return whether it was done.

    glibc gives every allocation above 128 KiB back to the system and maps it anew, zeroing each
    page, which can take most of a training step on a CPU. Only glibc on Linux has the calls
    (mallopt(3)); elsewhere nothing happens. Call it before the first large tensor.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mapped = mallopt(ctypes.c_int(M_MMAP_THRESHOLD), ctypes.c_int(MMAP_THRESHOLD))
    trimmed = mallopt(ctypes.c_int(M_TRIM_THRESHOLD), ctypes.c_int(TRIM_THRESHOLD))
    return bool(mapped and trimmed)


def give_back_memory() -> bool:
    """Give freed memory back to the system now; return whether there is a way (glibc, Linux)."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False


def _require_device(device: str) -> None:
    import torch

    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            "E-CONFIG-011", f"Unknown device '{device}'", fix="use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    count = counts.get(named.type, 0)
    if (named.index or 0) >= count:
        raise ResourceError(
            "E-RESOURCE-012",
            f"There is no device '{device}' here: {count} of type '{named.type}' found",
            fix="use --device cpu, or install a PyTorch built for the device",
        )


def _seconds(dtype: str, *, onednn: bool = False) -> float:
    """Return the least time of one product of MEASURED_SHAPE; the least is the undisturbed one."""
    import torch

    rows, inner, outer = MEASURED_SHAPE
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    left = torch.randn(rows, inner, generator=generator).to(kind)
    weight = torch.randn(outer, inner, generator=generator).to(kind)
    least, runs = float("inf"), 0
    end = time.perf_counter() + MEASURED_SECONDS
    with torch.inference_mode():
        while runs < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            if onednn:
                torch.ops.mkldnn._linear_pointwise(left, weight, None, "none", [], "")
            else:
                torch.nn.functional.linear(left, weight)
            least, runs = min(least, time.perf_counter() - start), runs + 1
    return least


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory() -> tuple[int | None, int | None]:
    """Return (total, available) bytes of memory, a container's limit counted; None if unknown."""
    total = available = None
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            key, value = line.split(":")
            if key == "MemTotal":
                total = int(value.split()[0]) * 1024
            elif key == "MemAvailable":
                available = int(value.split()[0]) * 1024
    except OSError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    if limit is not None and total is not None and limit < total:
        used = _number(Path("/sys/fs/cgroup/memory.current")) or 0
        total, available = limit, min(available or limit, limit - used)
    return total, available


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
